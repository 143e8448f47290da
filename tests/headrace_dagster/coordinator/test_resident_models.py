"""The daemon beside a real engine host: runs go where their model is, and a GPU is emptied before it is given away.

The host has two GPUs as far as NVML tells; nothing computes on them.
"""

import socket
from collections.abc import Iterator

import pytest

from headrace.engines.conformance import opened
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.address import ENGINE_HOST
from tests.engines.host.gpu_host import UUIDS
from tests.engines.host.hosts import RunningHost, is_alive, running_host, stopped
from tests.headrace_dagster.coordinator.builders import Deployment
from tests.headrace_dagster.coordinator.conftest import Deploy
from tests.waiting import eventually

pytestmark = pytest.mark.process


@pytest.fixture
def host() -> Iterator[RunningHost]:
    """With a model on its second GPU."""
    with running_host("--memory-mib", "1000", module="tests.engines.host.gpu_host") as host:
        engine = opened("echo", deployment=host.deployment(device=UUIDS[1]))
        LoopThread().run(engine.close())
        yield host


@pytest.fixture
def deployment(deploy: Deploy, host: RunningHost, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv("HEADRACE_GPUS", "2xH100:81559")
    monkeypatch.setenv(ENGINE_HOST, str(host.socket_file))
    return deploy()


def test_a_run_gets_the_gpu_that_has_its_model(deployment: Deployment, host: RunningHost) -> None:
    [row] = host.table.data
    run_id = deployment.submit(gpus=1, tags={"headrace/loads": row.model_id})
    assert deployment.iterate() == [run_id]
    assert deployment.devices(run_id) == ["1"]


def test_a_gpu_is_given_to_a_run_that_computes_by_itself_when_the_models_have_left(
    deployment: Deployment, host: RunningHost
) -> None:
    [row] = host.table.data
    assert row.pid
    with stopped(row.pid):
        run_id = deployment.submit(gpus=2)
        assert deployment.iterate() == []
        deployment.iterate()
        assert deployment.why(run_id) == (
            f"Starts on GPU 1 of {socket.gethostname()} as soon as model 1 (echo) has left it: the run computes by "
            "itself, and needs the room."
        )
    eventually(lambda: deployment.iterate() == [run_id], "it is launched")
    assert not is_alive(row.pid)
    assert deployment.devices(run_id) == ["0", "1"]


def test_a_stopped_host_holds_no_run_that_needs_nothing_of_it(deployment: Deployment, host: RunningHost) -> None:
    with stopped(host.process.pid):
        runs = [deployment.submit(gpus=0), deployment.submit(gpus=1)]
        assert deployment.iterate() == runs
    host.process.kill()
    host.process.wait()


def test_a_killed_daemon_has_forgotten_nothing_that_it_needs(deployment: Deployment, host: RunningHost) -> None:
    run_id = deployment.submit(gpus=2)
    deployment.iterate()
    deployment.restart()
    eventually(lambda: deployment.iterate() == [run_id], "it is launched")
    assert host.table.data[0].state == "absent"
