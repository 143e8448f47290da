"""MLflow's own `load_model` opens a registered version: the real MLflow, the real transformers."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.registry.mlflow_models import ModelRegistry
from headrace.registry.mlmodel import mlmodel_text
from headrace.registry.registration import register_base
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import SealedDirectory, seal_directory
from tests.registry.builders import make_registry


def load_model(uri: str, **options: str) -> Any:
    return importlib.import_module("mlflow.transformers").load_model(uri, **options)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> SealedDirectory:
    return seal_directory(LocalStore(tmp_path_factory.mktemp("a store")), tiny_model)


@pytest.fixture(scope="module")
def registry(mlflow_directory: Path, sealed: SealedDirectory) -> Iterator[ModelRegistry]:
    import mlflow

    registry = make_registry(mlflow_directory)
    register_base(registry, model_name="loaded", weights=sealed, source="tiny")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{mlflow_directory}/mlflow.db")
    yield registry
    mlflow.set_tracking_uri(before)


def test_mlflow_loads_a_registered_version_and_it_says_what_the_weights_say(
    registry: ModelRegistry, tiny_model: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = load_model("models:/loaded/1")
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = tokenizer("Define the noun", return_tensors="pt")["input_ids"]
    assert torch.equal(loaded.tokenizer("Define the noun", return_tensors="pt")["input_ids"], ids)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)


def test_loading_writes_nothing_into_the_store(registry: ModelRegistry, sealed: SealedDirectory) -> None:
    """MLflow notes a loaded version's name beside its MLmodel, which is therefore not among the sealed files."""
    load_model("models:/loaded/1", return_type="components")
    directory = Path(sealed.uri.removeprefix("file://").replace("%20", " "))
    assert sorted(one.name for one in directory.iterdir()) == sorted(file.name for file in sealed.files)


def test_a_version_of_another_run_or_store_points_to_its_weights_as_before(registry: ModelRegistry) -> None:
    client = registry.connection.client()
    run_id = registry.ensure_run("of another store", {})
    registry.register("elsewhere", "d1", "s3://bucket/weights/d1", run_id, {})
    registry.register("elsewhere", "d2", "file:///store/weights/d2", "", {})
    assert client.get_model_version("elsewhere", "1").source == "s3://bucket/weights/d1"
    assert client.get_model_version("elsewhere", "2").source == "file:///store/weights/d2"
    assert mlmodel_text("s3://bucket/weights/d1", "d1") is None


def test_where_no_artifact_can_be_written_a_version_is_registered_all_the_same(
    registry: ModelRegistry, mlflow_directory: Path
) -> None:
    run_id = registry.ensure_run("without a place", {})
    artifacts = mlflow_directory / "artifacts" / run_id
    artifacts.parent.mkdir(exist_ok=True)
    artifacts.write_text("a file, where a directory would be made")
    registry.register("placeless", "d3", "file:///store/weights/d3", run_id, {})
    assert registry.connection.client().get_model_version("placeless", "1").source == "file:///store/weights/d3"
