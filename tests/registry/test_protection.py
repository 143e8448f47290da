"""MLflow's aliases keep weights; where it cannot be asked, all of them stay."""

from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.registry.mlflow_models import ModelRegistry
from headrace.registry.protection import protection
from headrace.store.local import LocalStore
from headrace.store.protection import Asked
from headrace.store.small_objects import PassedOver
from tests.registry.builders import make_registry


@pytest.fixture
def registry(mlflow_directory: Path) -> ModelRegistry:
    return make_registry(mlflow_directory)


def named(store: Any, **environment: str) -> dict[str, str]:
    clock = FixedClock()
    asked = Asked(
        objects=store,
        now=clock.now(),
        clock=clock,
        grace_seconds=0,
        damaged=PassedOver(),
        environment=environment,
    )
    return {one.key: one.reason for one in protection(asked).named}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.create("weights/parts/n/model.safetensors", b"0")
    return store


def test_a_version_with_an_alias_keeps_its_weights_and_one_without_does_not(
    registry: ModelRegistry, store: LocalStore
) -> None:
    for number in (1, 2):
        registry.register("kept-model", f"digest-{number}", "file:///weights", "", {})
    registry.set_alias("kept-model", "archive", "1")
    found = named(store, MLFLOW_TRACKING_URI=registry.connection.tracking_uri)
    assert found["weights/digest-1"] == "MLflow's alias archive of kept-model"
    assert "weights/digest-2" not in found


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "MLFLOW_TRACKING_URI is not set, so MLflow's aliases are unknown, and may name them"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "MLflow at http://127.0.0.1:9 does not answer"),
    ],
)
def test_where_mlflow_cannot_be_asked_all_weights_stay(
    store: LocalStore, environment: dict[str, str], why: str
) -> None:
    found = named(store, **environment)
    assert list(found) == ["weights/"]
    assert why in found["weights/"]


def test_without_weights_nothing_is_asked(tmp_path: Path) -> None:
    assert named(LocalStore(tmp_path), MLFLOW_TRACKING_URI="no such address") == {}
