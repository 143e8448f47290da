from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.headrace_dagster.coordinator.builders import Deployment, settings

Deploy = Callable[..., Deployment]
# Pages concern the scan, threads the launches behind it: two pairs cover both.
_SHAPES = {"pages of 1": (1, False), "pages of 25, threads": (25, True)}


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


@pytest.fixture(params=_SHAPES.values(), ids=list(_SHAPES))
def deploy_shape(request: pytest.FixtureRequest, deploy: Deploy) -> Deploy:
    """As `deploy`, once for each way in which the stock daemon dequeues."""
    page_size, threads = request.param

    def make(coordinator: dict[str, Any] | None = None, **dagster_yaml: Any) -> Deployment:
        shape = {"dequeue_use_threads": threads, "dequeue_num_workers": 4} if threads else {}
        return deploy(shape | (coordinator or {}), page_size=page_size, **dagster_yaml)

    return make
