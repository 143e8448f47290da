"""One host for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from headrace.engines.event_loop import LoopThread
from tests.engines.host.hosts import RunningHost, running_host


@pytest.fixture(scope="session")
def host() -> Iterator[RunningHost]:
    with running_host("--memory-mib", "20000") as running:
        yield running


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()
