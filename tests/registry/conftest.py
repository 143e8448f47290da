from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mlflow_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One embedded MLflow for all tests: creating its tables costs seconds. Tests keep apart by names."""
    return tmp_path_factory.mktemp("mlflow")
