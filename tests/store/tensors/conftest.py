from pathlib import Path

import pytest

from tests.store.tensors.weights_builder import CountingStore


@pytest.fixture
def remote(tmp_path: Path) -> CountingStore:
    """A store whose files a node has to fetch."""
    return CountingStore(tmp_path / "remote")
