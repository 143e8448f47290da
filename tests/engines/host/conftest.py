"""One host for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from headrace.engines.event_loop import LoopThread
from tests.engines.host.hosts import RunningHost, running_host


@pytest.fixture(scope="session")
def host() -> Iterator[RunningHost]:
    # Tests between two that use it may take longer than a host waits for its next client.
    with running_host("--memory-mib", "20000", "--idle-seconds", "3600") as running:
        yield running


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()
