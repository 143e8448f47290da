"""Registries for tests."""

from pathlib import Path

from headrace.registry.mlflow_models import ModelRegistry


def make_registry(directory: Path) -> ModelRegistry:
    return ModelRegistry(f"sqlite:///{directory}/mlflow.db", artifacts=(directory / "artifacts").as_uri())
