"""What the store's sealed registrations say, when one of them is damaged."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, from_table, to_table
from headrace.registry.registered import REGISTERED_VERSION, registered_models
from headrace.registry.registration import register_model
from headrace.store.local import LocalStore
from headrace.store.small_objects import PassedOver
from headrace.training.heldout import Evaluation
from headrace.training.tables import TRAINED_MODEL, evaluation_table
from tests.registry.builders import make_registry

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda body: body[: len(body) // 2],
    "empty": lambda _: b"",
    "flipped": lambda body: body.replace(b'"num_rows":1', b'"num_rows":2'),
    "another kind of JSON": lambda _: b"[]",
    "no text": lambda body: b"\xff" + body[1:],
}


def model(version: str) -> ModelVersion:
    return ModelVersion(
        model_name="writer",
        version=version,
        kind="trained",
        recipe="define",
        weights_digest=version * 64,
        weights_uri="file:///w",
        heldout_loss=1.0,
        heldout_tokens=1,
        heldout_digest="h",
        zero_stage=2,
        mlflow_run_id="",
        registered_at=float(version),
    )


@pytest.mark.parametrize("phrase", DAMAGES)
def test_a_damaged_registration_leaves_out_its_own_recipe_and_is_named(tmp_path: Path, phrase: str) -> None:
    store = LocalStore(tmp_path)
    handoffs = HandoffStore(store)
    for recipe, version in (("writer.define", "1"), ("writer.other", "2")):
        handoffs.publish(REGISTERED_VERSION, recipe, to_table([model(version)]), code_version="1", run_id="r")
    (key,) = (key for key in store.list("handoff") if "writer.define" in key and key.endswith("manifest.json"))
    path = store.local_path(key)
    path.chmod(0o600)
    path.write_bytes(DAMAGES[phrase](path.read_bytes()))

    passed_over = PassedOver()
    found = registered_models(HandoffStore(LocalStore(tmp_path)), damaged=passed_over)

    assert [one.version for one in found] == ["2"]
    (sentence,) = passed_over.sentences
    assert "registered_version" in sentence
    assert "writer.define" in sentence


def test_a_registration_says_what_was_measured_only_where_it_is_no_held_out_loss(tmp_path: Path) -> None:
    writer, painter = model("1"), replace(model("2"), measure="taught_denoising_error")
    assert "measure" not in to_table([writer]).schema.names
    assert from_table(to_table([writer])) == [writer]
    assert from_table(to_table([painter])) == [painter]


def test_a_picture_model_is_registered_alone_and_under_its_own_measure(tmp_path: Path, mlflow_directory: Path) -> None:
    trained = dict.fromkeys(TRAINED_MODEL.names, "") | {"weights_digest": "p" * 64, "weights_uri": "headrace://p"}
    evaluation = Evaluation(
        weights_digest="p" * 64,
        heldout_digest="h",
        heldout_loss=0.05,
        heldout_tokens=192,
        samples=(),
        seconds=1.0,
        measure="taught_denoising_error",
        figures={"top5_own": 0.875, "heldout_error_at_0.5": math.inf},
    )
    registry = make_registry(mlflow_directory)
    [row] = register_model(
        registry,
        model_name="only-painter",
        recipe="learn",
        base=None,
        trained=trained | {"training_id": "t" * 32, "zero_stage": 1},
        evaluation=evaluation_table({"trained": evaluation}),
        config={},
        input_versions={},
    )
    assert (row.version, row.kind, row.heldout_loss, row.measure) == ("1", "trained", 0.05, "taught_denoising_error")
    logged = registry.connection.client().get_run(row.mlflow_run_id).data.metrics
    assert logged == {"taught_denoising_error": 0.05, "top5_own": 0.875}


@pytest.mark.parametrize(
    ("base_recipe", "kinds"), [("own-writer.define", ["trained", "trained"]), ("", ["base", "trained"])]
)
def test_a_base_that_another_recipe_trained_stays_the_version_that_it_is(
    mlflow_directory: Path, base_recipe: str, kinds: list[str]
) -> None:
    def row(weights: str, training_id: str) -> dict[str, Any]:
        made = dict.fromkeys(TRAINED_MODEL.names, "") | {"weights_digest": weights * 64, "weights_uri": "headrace://p"}
        return made | {"training_id": training_id, "zero_stage": 2}

    measured = {
        name: Evaluation(
            weights_digest=weights * 64,
            heldout_digest="pairs",
            heldout_loss=loss,
            heldout_tokens=192,
            samples=(),
            seconds=1.0,
            measure="preference_loss",
        )
        for name, weights, loss in (("base", "b", 0.693), ("trained", "c", 0.6))
    }
    rows = register_model(
        make_registry(mlflow_directory),
        model_name=f"own-writer{'' if base_recipe else '-2'}",
        recipe="prefer",
        base=row("b", "t1" if base_recipe else ""),
        trained=row("c", "t2"),
        evaluation=evaluation_table(measured),
        config={},
        input_versions={},
        base_recipe=base_recipe,
    )
    assert [row.kind for row in rows] == kinds
    assert [row.recipe for row in rows] == ["define" if base_recipe else "", "prefer"]
    assert [row.version for row in rows] == ["1", "2"]


def test_adapters_are_registered_with_the_digest_of_their_base(tmp_path: Path, mlflow_directory: Path) -> None:
    empty = dict.fromkeys(TRAINED_MODEL.names, "")
    base = empty | {"weights_digest": "b" * 64, "weights_uri": "headrace://b"}
    trained = empty | {"weights_digest": "a" * 64, "weights_uri": "headrace://a", "training_id": "u" * 32}
    measured = {
        name: Evaluation(
            weights_digest=str(one["weights_digest"]),
            heldout_digest="h",
            heldout_loss=1.0,
            heldout_tokens=9,
            samples=(),
            seconds=1.0,
        )
        for name, one in (("base", base), ("trained", trained))
    }
    registry = make_registry(mlflow_directory)
    register_model(
        registry,
        model_name="with-adapter",
        recipe="lora",
        base=base,
        trained=trained | {"zero_stage": 2},
        evaluation=evaluation_table(measured),
        config={"lora": {"rank": 4}},
        input_versions={},
    )
    tags = [registry.connection.client().get_model_version("with-adapter", number).tags for number in ("1", "2")]
    assert "headrace.base_weights_digest" not in tags[0]
    assert tags[1]["headrace.base_weights_digest"] == "b" * 64
    assert tags[1]["headrace.weights_digest"] == "a" * 64
