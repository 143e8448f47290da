import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.store.local import LocalStore
from headrace.store.node_cache import NodeCache
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.s3 import S3Store
from pipelines.object_store import ObjectStoreServer, running_object_store

sys.path.insert(0, str(Path(__file__).parent))

MakeS3 = Callable[..., S3Store]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """A real S3 server on loopback, started once."""
    with running_object_store(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture
def make_s3(server: ObjectStoreServer, tmp_path: Path) -> MakeS3:
    """Handles on one empty store; each call is another process as far as the store can tell."""
    prefix = new_nonce()

    def make(*, cache: NodeCache | None = None, patience_seconds: float = 20.0, **changes: object) -> S3Store:
        bucket = str(changes.pop("bucket", server.bucket))
        return S3Store(
            bucket,
            prefix,
            cache=cache or NodeCache(tmp_path / "cache"),
            options={**server.options(), **changes},
            patience_seconds=patience_seconds,
        )

    return make


@pytest.fixture(params=["directory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return LocalStore(tmp_path / "store")
    return request.getfixturevalue("make_s3")()
