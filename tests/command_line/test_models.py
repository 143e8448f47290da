"""`headrace model`: registered versions, how to load one, a copy of its files."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import to_table
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from simulation.models import model_of
from tests.command_line.builders import checked_json, run
from tests.store.tensors.weights_builder import make_tensors, sibling_of, write_weights


class Registered:
    """A store with a base and a trained version of one model, whose files are sealed."""

    def __init__(self, root: Path, model: Path) -> None:
        self.store = root / "store"
        objects = LocalStore(self.store)
        self.digest = seal_directory(objects, model).digest
        rows = [model_of("tiny", 1, kind="base"), model_of("tiny", 2, weights_digest=self.digest)]
        HandoffStore(objects).publish("registered_version", "tiny.r", to_table(rows), code_version="1", run_id="r")

    def call(self, *arguments: str | Path) -> Result:
        return run("model", *arguments, store=self.store)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Registered:
    return Registered(tmp_path_factory.mktemp("registered"), tiny_model)


def test_versions_are_listed_with_what_they_were_made_from(registered: Registered) -> None:
    listed = checked_json(registered.call("ls", "--json"), "model-ls")["models"]

    assert [(one["model_name"], one["version"], one["kind"]) for one in listed] == [
        ("tiny", "1", "base"),
        ("tiny", "2", "trained"),
    ]
    assert registered.call("ls", "other").output.startswith("No model is registered")


def test_the_line_that_is_shown_loads_the_version(registered: Registered) -> None:
    transformers = pytest.importorskip("transformers")
    shown = checked_json(registered.call("show", "tiny", "--json"), "model-show")

    loaded = eval(shown["load"], {"transformers": transformers})

    assert loaded.config.model_type == "llama"


def test_a_version_is_copied_into_a_directory_of_its_own(
    registered: Registered, tmp_path: Path, tiny_model: Path
) -> None:
    result = registered.call("export", "tiny:2", tmp_path / "copy")

    assert result.exit_code == 0, result.output
    copied = {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()}
    assert copied == {file.name: file.read_bytes() for file in tiny_model.iterdir() if file.is_file()}
    assert registered.call("export", "tiny:2", tmp_path / "copy").exit_code == 2, "nothing is overwritten"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "tiny:9"], "No version 'tiny:9' is registered. Did you mean tiny:"),
        (["export", "tiny:1", "copy"], "No weights with digest"),
        (["export", "tiny:2", "-"], "A model cannot go to stdout: name a place on a disk."),
        (
            ["export", "tiny:2", "/dev/null/copy"],
            "Cannot write /dev/null/copy: Not a directory. Nothing of it is left.",
        ),
    ],
)
def test_what_is_not_there_is_said(registered: Registered, arguments: list[str], sentence: str) -> None:
    result = registered.call(*arguments)

    assert result.exit_code == 2
    assert sentence in result.output


def test_a_picture_models_number_has_its_name_and_the_line_that_opens_it_is_of_diffusers(tmp_path: Path) -> None:
    (tmp_path / "painter").mkdir()
    (tmp_path / "painter/model_index.json").write_text("{}")
    objects = LocalStore(tmp_path / "store")
    digest = seal_directory(objects, tmp_path / "painter").digest
    row = replace(model_of("brush", 1, weights_digest=digest), heldout_loss=0.0657, measure="taught_denoising_error")
    HandoffStore(objects).publish("registered_version", "brush.r", to_table([row]), code_version="1", run_id="r")

    assert "taught_denoising_error 0.066" in run("model", "ls", store=tmp_path / "store").output
    shown = checked_json(run("model", "show", "brush", "--json", store=tmp_path / "store"), "model-show")
    assert shown["load"].startswith("diffusers.DiffusionPipeline.from_pretrained(")


def test_indexed_versions_say_what_they_cost_beside_the_others(tmp_path: Path) -> None:
    objects = LocalStore(tmp_path / "store")
    tensors = make_tensors(layers=2)
    sources = [
        write_weights(tmp_path / "one", tensors),
        write_weights(tmp_path / "two", sibling_of(tensors, "lm_head")),
    ]
    digests = [seal_directory(objects, source).digest for source in sources]
    rows = [model_of("tiny", number + 1, weights_digest=digest) for number, digest in enumerate(digests)]
    gone = model_of("tiny", 3, weights_digest="0" * 64)
    HandoffStore(objects).publish("registered_version", "tiny.r", to_table([*rows, gone]), code_version="1", run_id="r")

    def call(*arguments: str) -> Result:
        return run("model", *arguments, store=tmp_path / "store")

    assert "OWN BYTES" not in call("ls").output
    assert "Name one version, or pass --all" in call("index").output
    first = checked_json(call("index", "tiny:1", "--json"), "model-index")["indexed"]
    assert [(one["weights_digest"], one["own_bytes"] == one["num_bytes"]) for one in first] == [(digests[0], True)]

    told = call("index", "--all")

    assert told.exit_code == 0, told.output
    assert "2 indexed directories of weights: " in told.output
    assert "Whole files of " in told.output
    listed = checked_json(call("ls", "--json"), "model-ls")
    assert sorted(one["own_bytes"] for one in listed["indexed"])[0] == 16 * 64 * 4
    assert "OWN BYTES" in call("ls").output
    assert "not indexed" in call("ls").output
