import shutil
from pathlib import Path

import pytest

from tests.command_line.builders import make_store
from tests.command_line.checked_project import Project as CheckedProject
from tests.command_line.own_project import Project


@pytest.fixture(scope="session")
def sealed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("sealed") / "store")


@pytest.fixture
def store(sealed_once: Path, tmp_path: Path) -> Path:
    """A test's own copy."""
    return Path(shutil.copytree(sealed_once, tmp_path / "store"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def checked_project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> CheckedProject:
    made = CheckedProject(tmp_path / "project", tiny_model)
    monkeypatch.chdir(made.root)
    return made
