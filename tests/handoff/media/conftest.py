"""A handoff store on a real S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.handoff.versions import HandoffStore
from headrace.store.opening import open_store
from pipelines.object_store import ObjectStoreServer, running_object_store


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    with running_object_store(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture
def s3_handoffs(server: ObjectStoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandoffStore:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return HandoffStore(open_store(f"{server.url}/{tmp_path.name}", cache=tmp_path / "cache"))
