"""What the store's sealed registrations say, when one of them is damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, to_table
from headrace.registry.registered import REGISTERED_VERSION, registered_models
from headrace.store.local import LocalStore
from headrace.store.small_objects import PassedOver

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
