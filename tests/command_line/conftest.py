import shutil
from pathlib import Path

import pytest

from tests.command_line.builders import make_store


@pytest.fixture(scope="session")
def sealed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("sealed") / "store")


@pytest.fixture
def store(sealed_once: Path, tmp_path: Path) -> Path:
    """A test's own copy."""
    return Path(shutil.copytree(sealed_once, tmp_path / "store"))
