from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def handoffs(store: LocalStore) -> HandoffStore:
    return HandoffStore(store, FixedClock())
