"""The deployment that sensors look at."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.settings import CHECKOUT
from tests.pipelines.sensor_site import Deployment


@pytest.fixture
def services(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of service files; the key `assistant` is there."""
    deployment.instance.add_dynamic_partitions("campaign", ["assistant"])
    directory = tmp_path / "live"
    directory.mkdir()
    monkeypatch.setenv("HEADRACE_SERVICES", str(directory))
    return directory


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADRACE_ENGINE", "echo")
    monkeypatch.delenv("HEADRACE_SERVICES", raising=False)
    # The demo's other campaign waits for models that these tests do not register.
    (tmp_path / "of-glossary").mkdir()
    shutil.copy(CHECKOUT / "resources/campaigns/glossary.yaml", tmp_path / "of-glossary")
    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(tmp_path / "of-glossary"))
    return Deployment(tmp_path)  # type: ignore[return-value]  # a fixture's annotation, not a generator
