"""What Dagster does with runs, queues and instance files, undocumented, that the launcher and dagster.yaml rest on.

A failure here reads: Dagster changed, look at the named file.
"""

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, job, op
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.errors import DagsterInvalidConfigError
from dagster._core.execution.api import execute_run_iterator
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG, TAGS_TO_MAYBE_OMIT_ON_RETRY
from dagster._core.test_utils import MockedRunLauncher, create_run_for_test
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

import headrace_dagster.launchers.process_launcher as process_launcher


class CoordinatorOfOurOwn(QueuedRunCoordinator):
    """Stands for any subclass that sets limits in its own config."""


class LauncherThatCannotTell(MockedRunLauncher):
    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        return CheckRunHealthResult(WorkerStatus.UNKNOWN)


def make_instance(directory: Path, settings: dict[str, Any]) -> DagsterInstance:
    (directory / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return DagsterInstance.from_config(str(directory))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[DagsterInstance]:
    launcher = {"module": __name__, "class": "LauncherThatCannotTell"}
    settings = {"run_launcher": launcher, "run_monitoring": {"enabled": True}, "run_retries": {"enabled": True}}
    with make_instance(tmp_path, settings) as instance:
        yield instance


@op
def nothing() -> None:
    raise AssertionError("must not run")


@job
def any_job() -> None:
    nothing()


def test_run_monitoring_and_run_retries_are_off_by_default(tmp_path: Path) -> None:
    """process_launcher's promise needs both: dagster.yaml turns them on."""
    with make_instance(tmp_path, {}) as instance:
        assert not instance.run_monitoring_enabled
        assert not instance.run_retries_enabled


def test_run_monitoring_fails_a_run_whose_launcher_cannot_tell(watched: DagsterInstance) -> None:
    """Why `check_run_worker_health` says RUNNING of runs that `dg launch` executes, and not UNKNOWN."""
    run = create_run_for_test(watched, job_name="any", status=DagsterRunStatus.STARTED)
    record = watched.get_run_record_by_id(run.run_id)
    assert record

    monitor_started_run(watched, None, record, logging.getLogger())  # pyright: ignore[reportArgumentType]

    failed = watched.get_run_by_id(run.run_id)
    assert failed
    assert failed.status == DagsterRunStatus.FAILURE


def test_a_run_that_was_failed_from_outside_is_retried_even_without_retries_on_failures(tmp_path: Path) -> None:
    """`retry_on_asset_or_op_failure: false` spares failed steps, not dead workers."""
    settings = {"run_retries": {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False}}
    with make_instance(tmp_path, settings) as instance:
        run = create_run_for_test(instance, job_name="any", status=DagsterRunStatus.STARTED)
        instance.report_run_failed(run, "Its worker is gone.")
        failed = instance.get_run_by_id(run.run_id)
        assert failed
        assert RUN_FAILURE_REASON_TAG not in failed.tags or failed.tags[RUN_FAILURE_REASON_TAG] != "STEP_FAILURE"
        assert auto_reexecution_should_retry_run(instance, failed, None)


def test_a_retry_copies_the_launchers_tags_from_its_parent() -> None:
    """Why a worker's record names its run: only Dagster's own bookkeeping is left out of a retry's tags."""
    assert process_launcher.WORKER_TAG not in TAGS_TO_MAYBE_OMIT_ON_RETRY


def test_a_worker_that_starts_after_its_run_was_failed_executes_nothing(watched: DagsterInstance) -> None:
    """So a start that times out needs no hunt for its worker."""
    run = create_run_for_test(watched, job_name="any_job", status=DagsterRunStatus.FAILURE)

    (event,) = execute_run_iterator(InMemoryJob(any_job), run, watched)

    assert event.message == "Ignoring a run worker that started after the run had already finished."


def test_a_worker_takes_sigterm_for_an_interrupt() -> None:
    """Why `terminate` begins with SIGTERM: the step that runs can clean up (Pipes ends its process)."""
    code = """
from dagster._cli import api
from dagster._utils.interrupts import capture_interrupts, check_captured_interrupt
import os, signal
with capture_interrupts():
    os.kill(os.getpid(), signal.SIGTERM)
    print(check_captured_interrupt())
"""
    worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert worker.stdout.split() == ["True"]
    assert worker.returncode != -signal.SIGTERM


def test_limits_of_the_concurrency_block_silently_replace_those_of_a_coordinator_of_our_own(tmp_path: Path) -> None:
    """dagster.yaml: one place for limits, or a coordinator that refuses to start beside the other."""
    ours = {"key": "ours", "limit": 1}
    theirs = {"key": "theirs", "limit": 1}
    coordinator = {"module": __name__, "class": "CoordinatorOfOurOwn", "config": {"tag_concurrency_limits": [ours]}}
    settings = {"run_coordinator": coordinator, "concurrency": {"runs": {"tag_concurrency_limits": [theirs]}}}
    with make_instance(tmp_path, settings) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue
        assert queue.tag_concurrency_limits == [theirs]


def test_a_stock_coordinator_refuses_limits_beside_the_concurrency_block(tmp_path: Path) -> None:
    settings = {
        "run_coordinator": {"module": "dagster", "class": "QueuedRunCoordinator", "config": {"max_concurrent_runs": 2}},
        "concurrency": {"pools": {"default_limit": 1}},
    }
    with pytest.raises(DagsterInvalidConfigError, match="incompatible with the `concurrency > runs` config"):
        make_instance(tmp_path, settings)
