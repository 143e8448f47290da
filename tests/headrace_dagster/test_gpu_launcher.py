"""What the launcher starts, and what it refuses, on a real instance, without a daemon."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import GpuShare, Placement
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, HELD, PLACEMENT_TAG, Admission
from headrace_dagster.launchers.eviction import record_eviction
from headrace_dagster.launchers.gpu_launcher import GpuRunLauncher
from headrace_dagster.launchers.process_launcher import WORKER_TAG
from headrace_dagster.launchers.worker_process import RUN_MARKER, WorkerProcess
from tests.waiting import eventually

SHARED = Placement(gpus=(GpuShare(node="here", device="3", milli=250),))


def make_instance(home: Path, coordinator: dict[str, Any], **settings: Any) -> DagsterInstance:
    home.mkdir()
    launcher = {"module": "headrace_dagster", "class": "GpuRunLauncher", "config": {"termination_grace_seconds": 0.5}}
    config = {"run_coordinator": coordinator, "run_launcher": launcher, "run_monitoring": {"enabled": True}, **settings}
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return DagsterInstance.from_config(str(home))


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    coordinator = {
        "module": "headrace_dagster",
        "class": "GpuRunCoordinator",
        "config": {"max_user_code_failure_retries": 2},
    }
    with make_instance(
        tmp_path_factory.mktemp("gated") / "home", coordinator, run_retries={"enabled": True}
    ) as instance:
        yield instance


def launcher_of(instance: DagsterInstance) -> GpuRunLauncher:
    assert isinstance(instance.run_launcher, GpuRunLauncher)
    return instance.run_launcher


def make_run(
    instance: DagsterInstance,
    program: Path,
    *,
    status: DagsterRunStatus = DagsterRunStatus.STARTING,
    tags: dict[str, str] | None = None,
    port: int = 1,
) -> DagsterRun:
    """A run that is executed by `program`."""
    python_origin = RepositoryPythonOrigin(
        executable_path=sys.executable, code_pointer=ModuleCodePointer("any", "defs"), entry_point=[str(program)]
    )
    location = GrpcServerCodeLocationOrigin(host="localhost", port=port, location_name="code")
    return create_run_for_test(
        instance,
        job_name="any",
        status=status,
        tags=tags,
        job_code_origin=JobPythonOrigin("any", python_origin),
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "any"),
    )


def admit(instance: DagsterInstance, run: DagsterRun, placement: Placement) -> DagsterRun:
    admission = Admission(run_id=run.run_id, at=time.time(), placement=placement)
    tags = launcher_of(instance).admission_tags(run, RunNeeds(), placement)
    instance.add_run_tags(run.run_id, {GATE_TAG: ADMITTED, PLACEMENT_TAG: admission.to_json(), **tags})
    return reloaded(instance, run)


def reloaded(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    again = instance.get_run_by_id(run.run_id)
    assert again
    return again


def launch(instance: DagsterInstance, run: DagsterRun, workspace: Any = None) -> None:
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=workspace))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Stands for `dagster`: tells its environment."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nenv > {tmp_path}/told.new\nmv {tmp_path}/told.new {tmp_path}/told\n")
    program.chmod(0o755)
    return program


def told_by(program: Path) -> dict[str, str]:
    told = program.with_name("told")
    eventually(told.exists, "the program has told its environment")
    return dict(line.split("=", 1) for line in told.read_text().splitlines())


def messages(instance: DagsterInstance, run: DagsterRun) -> str:
    return "\n".join(entry.message for entry in instance.all_logs(run.run_id))


def test_an_admitted_run_starts_with_its_devices(instance: DagsterInstance, program: Path) -> None:
    run = admit(instance, make_run(instance, program), SHARED)
    gpus = tuple(Gpu(device=str(number), model="H100", memory_mib=80000) for number in range(4))
    assert launcher_of(instance).refusal(Inventory(nodes=(Node(name="here", gpus=gpus),))) is None

    launch(instance, run)

    seen = told_by(program)
    assert run.tags["headrace/cuda_visible_devices"] == "3"
    assert run.tags["headrace/gpu_milli"] == "250"
    assert (seen[RUN_MARKER], seen["CUDA_VISIBLE_DEVICES"], seen["HEADRACE_NODE"]) == (run.run_id, "3", "here")
    assert seen["PYTORCH_CUDA_ALLOC_CONF"] == "per_process_memory_fraction:0.25"
    assert seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20000M"


def test_a_run_admitted_to_nothing_starts_and_sees_no_gpu(
    instance: DagsterInstance, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    launch(instance, admit(instance, make_run(instance, program), Placement()))

    assert told_by(program)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("gate", [None, HELD, ADMITTED])
def test_a_run_without_an_admission_of_its_own_goes_back_into_the_queue(
    instance: DagsterInstance, program: Path, gate: str | None
) -> None:
    parent = admit(instance, make_run(instance, program), SHARED)
    tags = {**parent.tags, GATE_TAG: gate} if gate else {}
    run = make_run(instance, program, tags=tags)

    launch(instance, run)

    back = reloaded(instance, run)
    assert back.status == DagsterRunStatus.QUEUED
    assert back.tags[GATE_TAG] == HELD
    assert "Not started: no devices were promised to this run itself." in messages(instance, run)
    assert instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_ENQUEUED)
    assert not program.with_name("told").exists()


def test_a_run_whose_devices_are_on_two_machines_is_not_started_here(instance: DagsterInstance, program: Path) -> None:
    shares = (GpuShare(node="a", device="0", milli=1000), GpuShare(node="b", device="0", milli=1000))
    run = admit(instance, make_run(instance, program), Placement(gpus=shares))

    launch(instance, run)

    assert reloaded(instance, run).status == DagsterRunStatus.QUEUED
    assert "Not started: its devices are on several machines (a, b)." in messages(instance, run)


def test_a_run_that_was_canceled_meanwhile_is_not_queued_again(instance: DagsterInstance, program: Path) -> None:
    run = make_run(instance, program)
    instance.report_run_canceled(run)

    launch(instance, run)

    assert reloaded(instance, run).status == DagsterRunStatus.CANCELED


def test_under_another_coordinator_a_run_starts_and_sees_no_gpu(tmp_path: Path, program: Path) -> None:
    with make_instance(tmp_path / "stock", {"module": "dagster", "class": "QueuedRunCoordinator"}) as instance:
        run = make_run(instance, program)

        launch(instance, run)

        assert told_by(program)["CUDA_VISIBLE_DEVICES"] == ""
        assert "This run sees no GPU: no devices were promised to this run itself." in messages(instance, run)


def test_several_machines_are_refused_and_one_of_any_name_is_this_one(instance: DagsterInstance) -> None:
    launcher = launcher_of(instance)

    assert launcher.refusal(Inventory(nodes=(Node(name="named-in-a-file"),))) is None
    assert launcher.refusal(Inventory(nodes=(Node(name="a"), Node(name="b")))) == (
        "GpuRunLauncher starts processes on this machine alone, and the inventory has 2 nodes (a, b): keep one node in "
        "it, or use a launcher that reaches them all (K8sRunLauncher)."
    )


def test_an_eviction_that_a_killed_daemon_began_is_brought_to_its_end(instance: DagsterInstance, program: Path) -> None:
    run = admit(instance, make_run(instance, program, status=DagsterRunStatus.STARTED), SHARED)
    worker = subprocess.Popen(["sleep", "600"], start_new_session=True, env={**os.environ, RUN_MARKER: run.run_id})
    record = WorkerProcess.of(run.run_id, worker.pid)
    instance.add_run_tags(run.run_id, {WORKER_TAG: record.to_json()})
    record_eviction(instance, reloaded(instance, run), now=time.time())

    assert launcher_of(instance).finish_evictions() == [run.run_id]

    assert worker.wait() == -signal.SIGTERM
    eventually(lambda: reloaded(instance, run).status == DagsterRunStatus.FAILURE, "the run has ended")
    eventually(lambda: reloaded(instance, run).tags.get(WILL_RETRY_TAG) == "true", "it is to be retried")
    assert "Preempted, to be retried from failure. The daemon ended while" in messages(instance, run)


def test_a_run_that_another_process_executes_is_not_evicted(instance: DagsterInstance, program: Path) -> None:
    """`dg launch` executes in the caller's process: to report its failure would not end it."""
    run = make_run(instance, program, status=DagsterRunStatus.STARTED)

    launcher_of(instance).evict(run, "Its GPU is for another run.")
    eventually(lambda: f"end-{run.run_id}" not in {thread.name for thread in threading.enumerate()}, "it was looked at")

    assert reloaded(instance, run).tags == run.tags
    assert reloaded(instance, run).status == DagsterRunStatus.STARTED


def test_a_launch_that_a_killed_daemon_left_behind_is_queued_again_unless_its_worker_lives(
    instance: DagsterInstance, program: Path
) -> None:
    launcher = launcher_of(instance)
    lost = admit(instance, make_run(instance, program), SHARED)
    alive = admit(instance, make_run(instance, program), SHARED)
    not_ours = make_run(instance, program)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True, env={**os.environ, RUN_MARKER: alive.run_id})
    try:
        eventually(lambda: alive.run_id in launcher.occupied_run_ids(), "its worker counts")

        launcher.finish_evictions()

        assert reloaded(instance, lost).status == DagsterRunStatus.QUEUED
        assert reloaded(instance, lost).tags[GATE_TAG] == HELD
        assert "Not started: the daemon ended while it was being launched." in messages(instance, lost)
        assert reloaded(instance, alive).status == DagsterRunStatus.STARTING
        assert reloaded(instance, not_ours).status == DagsterRunStatus.STARTING
    finally:
        child.kill()
        child.wait()


def test_what_outlives_its_run_gets_the_grace_and_then_ends(instance: DagsterInstance, program: Path) -> None:
    launcher = launcher_of(instance)
    run = make_run(instance, program, status=DagsterRunStatus.SUCCESS)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True, env={**os.environ, RUN_MARKER: run.run_id})
    eventually(lambda: run.run_id in launcher.occupied_run_ids(), "the child counts")

    launcher.reap([run.run_id])
    assert child.poll() is None

    def is_gone() -> bool:
        launcher.reap([run.run_id])
        return child.poll() is not None

    eventually(is_gone, "the child was killed")
    assert run.run_id not in launcher.occupied_run_ids()
    eventually(
        lambda: f"Killed what outlived this run by 0.5 s: [{child.pid}]." in messages(instance, run), "it is told"
    )


def test_a_run_that_goes_on_is_not_reaped(instance: DagsterInstance, program: Path) -> None:
    """What Dagster says counts, not what its caller had read before."""
    launcher = launcher_of(instance)
    run = make_run(instance, program, status=DagsterRunStatus.STARTED)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True, env={**os.environ, RUN_MARKER: run.run_id})
    try:
        launcher.reap([run.run_id])
        time.sleep(0.6)
        launcher.reap([run.run_id])
        time.sleep(0.3)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


@pytest.mark.filterwarnings("ignore:Error loading repository location")
def test_a_run_waits_for_a_code_location_that_has_not_loaded(instance: DagsterInstance, program: Path) -> None:
    target = GrpcServerTarget(host="localhost", port=1, socket=None, location_name="code")
    run = admit(instance, make_run(instance, program), SHARED)

    with (
        WorkspaceProcessContext(instance, target) as workspace,
        pytest.raises(DagsterUserCodeUnreachableError, match="Code location code cannot be used: "),
    ):
        launch(instance, run, workspace.create_request_context())

    assert not program.with_name("told").exists()


@pytest.mark.process
def test_a_run_waits_for_a_code_server_that_does_not_answer(
    instance: DagsterInstance, program: Path, tmp_path: Path
) -> None:
    code = tmp_path / "code.py"
    code.write_text("import dagster\n\n@dagster.job\ndef any(): pass\n")
    socket = str(tmp_path / "socket")
    command = [sys.executable, "-m", "dagster", "api", "grpc", "--python-file", str(code), "--socket", socket]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(Path(socket).exists, "the code server listens")
        target = GrpcServerTarget(host="localhost", port=None, socket=socket, location_name="code")
        with WorkspaceProcessContext(instance, target) as workspace:
            first = admit(instance, make_run(instance, program), SHARED)
            launch(instance, first, workspace.create_request_context())
            assert told_by(program)[RUN_MARKER] == first.run_id
            context = workspace.create_request_context()
            server.kill()
            server.wait()
            second = admit(instance, make_run(instance, program), SHARED)

            with pytest.raises(DagsterUserCodeUnreachableError):
                launch(instance, second, context)
    finally:
        server.kill()
        server.wait()


@pytest.mark.filterwarnings("ignore:Error loading repository location")
def test_without_retries_a_run_starts_though_its_code_server_is_down(tmp_path: Path, program: Path) -> None:
    coordinator = {"module": "headrace_dagster", "class": "GpuRunCoordinator"}
    with make_instance(tmp_path / "no_retries", coordinator) as instance:
        run = admit(instance, make_run(instance, program), SHARED)
        target = GrpcServerTarget(host="localhost", port=1, socket=None, location_name="code")

        with WorkspaceProcessContext(instance, target) as workspace:
            launch(instance, run, workspace.create_request_context())

        assert told_by(program)[RUN_MARKER] == run.run_id
