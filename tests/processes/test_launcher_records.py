"""What the launcher concludes from a run's record, on a real instance, without a daemon."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test

from headrace_dagster import GpuRunCoordinator, GpuRunLauncher
from headrace_dagster.launchers.process_launcher import (
    WORKER_TAG,
    ProcessRunLauncher,
    fail_runs_of_dead_workers,
    worker_of,
)
from headrace_dagster.launchers.signs_of_life import recorded_silence
from headrace_dagster.launchers.worker_process import RUN_MARKER, WorkerProcess

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """An instance made from the checkout's own dagster.yaml."""
    home = tmp_path_factory.mktemp("project") / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text((CHECKOUT / "dagster_home/dagster.yaml").read_text())
    with DagsterInstance.from_config(str(home)) as instance:
        yield instance


def make_run(instance: DagsterInstance, status: DagsterRunStatus, worker: WorkerProcess | None = None) -> DagsterRun:
    run = create_run_for_test(instance, job_name="any", status=status)
    if worker:
        instance.add_run_tags(run.run_id, {WORKER_TAG: replace(worker, run_id=run.run_id).to_json()})
    return reloaded(instance, run)


def reloaded(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    again = instance.get_run_by_id(run.run_id)
    assert again
    return again


def own_process() -> WorkerProcess:
    return WorkerProcess.of("", os.getpid())


def dead_process() -> WorkerProcess:
    return replace(own_process(), started="an-earlier-boot/1")


def test_the_instance_queues_watches_and_retries_as_its_file_says(instance: DagsterInstance) -> None:
    assert isinstance(instance.run_launcher, GpuRunLauncher)
    assert isinstance(instance.run_coordinator, GpuRunCoordinator)
    queue = instance.get_concurrency_config().run_queue_config
    assert queue
    assert queue.max_concurrent_runs == 3
    assert queue.tag_concurrency_limits == [{"key": "headrace/gate", "value": "held", "limit": 0}]
    assert instance.run_monitoring_enabled
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert not instance.nux_enabled
    assert not instance.telemetry_enabled


def test_the_logs_lie_beside_dagster_home(instance: DagsterInstance) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, ProcessRunLauncher)
    assert launcher.log_path("a-run") == Path(instance.root_directory).parent / ".headrace/logs/runs/a-run.log"


def test_a_live_workers_run_is_running_and_a_dead_ones_has_failed(instance: DagsterInstance) -> None:
    alive = make_run(instance, DagsterRunStatus.STARTED, own_process())
    dead = make_run(instance, DagsterRunStatus.STARTED, dead_process())

    assert instance.run_launcher.check_run_worker_health(alive).status == WorkerStatus.RUNNING
    health = instance.run_launcher.check_run_worker_health(dead)

    assert health.status == WorkerStatus.FAILED
    assert health.msg == f"Worker process {os.getpid()} on {own_process().host} is gone."


def test_a_run_whose_worker_is_stopped_says_so_once_and_its_retry_does_not(instance: DagsterInstance) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        try:
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            run = make_run(instance, DagsterRunStatus.STARTED, WorkerProcess.of("", process.pid))
            first, health = (instance.run_launcher.check_run_worker_health(reloaded(instance, run)) for _ in range(2))
        finally:
            process.kill()
    silence = recorded_silence(reloaded(instance, run))
    retry = create_run_for_test(instance, job_name="any", tags=reloaded(instance, run).tags)

    assert silence
    assert first == health
    assert (health.status, health.msg) == (WorkerStatus.RUNNING, silence.what)
    messages = [entry.message for entry in instance.all_logs(run.run_id)]
    assert sum(message.endswith(f"No sign of life: {health.msg}.") for message in messages) == 1
    assert recorded_silence(retry) is None


def test_a_run_that_this_launcher_did_not_start_is_neither_failed_nor_terminated(instance: DagsterInstance) -> None:
    run = make_run(instance, DagsterRunStatus.STARTED)

    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run.run_id)
    assert reloaded(instance, run).status == DagsterRunStatus.STARTED


def test_a_record_copied_from_the_parent_run_says_nothing_about_the_retry(instance: DagsterInstance) -> None:
    parent = make_run(instance, DagsterRunStatus.FAILURE, dead_process())
    retry = create_run_for_test(instance, job_name="any", status=DagsterRunStatus.STARTED, tags=parent.tags)

    assert worker_of(parent)
    assert worker_of(retry) is None
    assert instance.run_launcher.check_run_worker_health(retry).status == WorkerStatus.RUNNING


def test_a_command_that_is_not_here_is_refused_before_anything_starts(instance: DagsterInstance) -> None:
    repository = RepositoryPythonOrigin(
        executable_path=sys.executable, code_pointer=ModuleCodePointer("any", "defs"), entry_point=["no-such-dagster"]
    )
    run = create_run_for_test(instance, job_name="any", job_code_origin=JobPythonOrigin("any", repository))

    with pytest.raises(DagsterLaunchFailedError, match="is to be executed by 'no-such-dagster', and no such program"):
        instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))


def test_start_up_ends_the_runs_whose_workers_are_gone_and_no_other(instance: DagsterInstance) -> None:
    for run in instance.get_runs():
        instance.delete_run(run.run_id)
    status = DagsterRunStatus
    runs_and_ends = [
        (make_run(instance, status.STARTED, dead_process()), status.FAILURE),
        (make_run(instance, status.STARTING, dead_process()), status.FAILURE),
        (make_run(instance, status.STARTING), status.FAILURE),
        (make_run(instance, status.CANCELING, dead_process()), status.CANCELED),
        (make_run(instance, status.STARTED, own_process()), status.STARTED),
        (make_run(instance, status.STARTED), status.STARTED),
        (make_run(instance, status.NOT_STARTED), status.NOT_STARTED),
        (make_run(instance, status.SUCCESS, dead_process()), status.SUCCESS),
    ]

    ended = fail_runs_of_dead_workers(instance)

    assert [reloaded(instance, run).status for run, _ in runs_and_ends] == [end for _, end in runs_and_ends]
    assert set(ended) == {run.run_id for run, end in runs_and_ends if run.status != end}


def test_start_up_kills_what_a_dead_worker_left_behind(instance: DagsterInstance) -> None:
    run = make_run(instance, DagsterRunStatus.STARTED, dead_process())
    rank = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        start_new_session=True,
        env={**os.environ, RUN_MARKER: run.run_id},
    )

    assert run.run_id in fail_runs_of_dead_workers(instance)

    assert rank.wait() == -9


def test_the_last_lines_of_a_workers_output_explain_its_end(instance: DagsterInstance) -> None:
    run = make_run(instance, DagsterRunStatus.STARTED, dead_process())
    launcher = instance.run_launcher
    assert isinstance(launcher, ProcessRunLauncher)
    assert launcher.get_run_worker_debug_info(run) is None
    log = launcher.log_path(run.run_id)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(50)) + b"Segmentation fault \xff\n")

    words = launcher.get_run_worker_debug_info(run)

    assert words
    assert words.startswith(f"Last lines of {log}:\nline 31\n")
    assert words.endswith("Segmentation fault \ufffd\n")
