from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.headrace_dagster.coordinator.builders import Deployment, settings

Deploy = Callable[..., Deployment]


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_GPUS", "4xH100:81559")


@pytest.fixture(autouse=True)
def no_fsync() -> Iterator[None]:
    """Nobody here loses power: three quarters of a run's way through SQLite are waits for the disk."""

    def connected(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    """Makes a deployment: `coordinator` is its coordinator's config, the rest goes into dagster.yaml."""
    made: list[Deployment] = []

    def make(coordinator: dict[str, Any] | None = None, *, page_size: int = 25, **dagster_yaml: Any) -> Deployment:
        home = tmp_path / f"dagster-home-{len(made)}"
        made.append(Deployment(home, settings(coordinator=coordinator, **dagster_yaml), page_size=page_size))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()


@pytest.fixture
def deployment(deploy: Deploy) -> Deployment:
    return deploy()


@pytest.fixture
def deploy_shape(deploy: Deploy) -> Deploy:
    """As `deploy`, for what the stock daemon does: it scans in pages of one run and launches in threads.

    `deploy` itself scans in pages of 25 and launches in the daemon's own thread; neither matters to the other.
    """

    def make(coordinator: dict[str, Any] | None = None, **dagster_yaml: Any) -> Deployment:
        return deploy(
            {"dequeue_use_threads": True, "dequeue_num_workers": 4} | (coordinator or {}), page_size=1, **dagster_yaml
        )

    return make
