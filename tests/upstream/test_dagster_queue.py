"""What Dagster's queue does, undocumented, that `headrace_dagster.coordinator.run_coordinator` rests on.

A failure here reads: Dagster changed, look at the named function.
"""

import shutil
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest
import yaml
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.launcher import LaunchRunContext
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES
from dagster._core.storage.tags import MAX_RETRIES_TAG, TAGS_TO_MAYBE_OMIT_ON_RETRY
from dagster._core.test_utils import MockedRunLauncher, create_run_for_test
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

GATE = "tests/gate"


class WatchedCoordinator(QueuedRunCoordinator[DagsterInstance]):
    """Keeps who asked for its config: the frames above, innermost first, and the thread."""

    asked: list[tuple[list[FrameType], threading.Thread]]

    def get_run_queue_config(self) -> RunQueueConfig:
        frames = []
        frame: FrameType | None = sys._getframe(1)
        while frame:
            frames.append(frame)
            frame = frame.f_back
        self.asked = [*getattr(self, "asked", []), (frames, threading.current_thread())]
        return super().get_run_queue_config()


class UnreachableLauncher(MockedRunLauncher):
    def launch_run(self, context: LaunchRunContext) -> DagsterRun:
        raise DagsterUserCodeUnreachableError("No answer.")


class Context:
    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance

    def create_request_context(self) -> None:
        return None


@cache
def _empty_instance() -> TemporaryDirectory[str]:
    """A directory with the schema of an instance in it; making one costs a second."""
    directory = TemporaryDirectory(prefix="headrace-instance-")
    with DagsterInstance.local_temp(directory.name) as instance:
        instance.get_run_records()
        instance.event_log_storage.get_concurrency_keys()
    return directory


def make_instance(directory: Path, *, launcher: str = "", **settings: Any) -> DagsterInstance:
    coordinator = {"module": __name__, "class": "WatchedCoordinator", "config": settings.pop("coordinator", {})}
    module, name = (__name__, launcher) if launcher else ("dagster._core.test_utils", "MockedRunLauncher")
    shutil.copytree(_empty_instance().name, directory, dirs_exist_ok=True)
    settings |= {"run_coordinator": coordinator, "run_launcher": {"module": module, "class": name}}
    (directory / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return DagsterInstance.from_config(str(directory))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with make_instance(tmp_path) as instance:
        yield instance


def iterate(instance: DagsterInstance, daemon: QueuedRunCoordinatorDaemon | None = None) -> list[str]:
    """Ids of the runs that the daemon took from the queue."""
    queued = {run.run_id for run in instance.get_runs() if run.status == DagsterRunStatus.QUEUED}
    daemon = daemon or QueuedRunCoordinatorDaemon(interval_seconds=5)
    list(daemon.run_iteration(Context(instance)))  # pyright: ignore[reportArgumentType]
    return sorted(run_id for run_id in queued if run_of(instance, run_id).status != DagsterRunStatus.QUEUED)


def run_of(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run
    return run


def queue_run(instance: DagsterInstance, tags: dict[str, str] | None = None) -> str:
    origin = RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location_name="there"), "repository"), "any"
    )
    run = create_run_for_test(instance, job_name="any", tags=tags, remote_job_origin=origin)
    instance.report_dagster_event(DagsterEvent.job_enqueue(run), run.run_id)
    return run.run_id


def test_an_iteration_asks_for_the_limits_once_from_its_own_frame_before_it_scans(instance: DagsterInstance) -> None:
    """`_dequeuing_daemon`: two frames above `get_run_queue_config` is `run_iteration`, whose `self` is the daemon."""
    for _ in range(2):
        queue_run(instance)
    coordinator: Any = instance.run_coordinator
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=5, page_size=1)

    iterate(instance, daemon)

    code = QueuedRunCoordinatorDaemon.run_iteration.__code__
    by_the_iteration = [
        (frames, thread) for frames, thread in coordinator.asked if code in [frame.f_code for frame in frames[:3]]
    ]
    ((frames, thread),) = by_the_iteration
    assert frames[0].f_code.co_name == "get_concurrency_config"
    assert frames[1].f_code is code
    assert thread is threading.current_thread()
    # First of all that ask: nothing was read for this iteration before.
    assert coordinator.asked[0][0] is frames


def test_the_frame_of_the_iteration_names_its_daemon(tmp_path: Path) -> None:
    found = []

    class Asking(WatchedCoordinator):
        def get_run_queue_config(self) -> RunQueueConfig:
            frame = sys._getframe(2)
            if frame.f_code is QueuedRunCoordinatorDaemon.run_iteration.__code__:
                found.append(frame.f_locals["self"])
            return super().get_run_queue_config()

    with make_instance(tmp_path) as instance:
        instance.run_coordinator.__class__ = Asking
        daemon = QueuedRunCoordinatorDaemon(interval_seconds=5)
        iterate(instance, daemon)
    assert found == [daemon]


def test_at_its_cap_the_daemon_returns_before_it_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`get_run_queue_config`: how an iteration with nothing to admit costs nothing."""
    with make_instance(tmp_path, coordinator={"max_concurrent_runs": 1}) as instance:
        create_run_for_test(instance, status=DagsterRunStatus.STARTED)
        queue_run(instance)
        scans = []
        original = instance.get_runs

        def spy(*arguments: Any, **named: Any) -> Any:
            scans.append(named)
            return original(*arguments, **named)

        daemon = QueuedRunCoordinatorDaemon(interval_seconds=5)
        monkeypatch.setattr(instance, "get_runs", spy)
        list(daemon.run_iteration(Context(instance)))  # pyright: ignore[reportArgumentType]
        assert scans == []


def test_the_daemon_asks_itself_for_the_runs_under_way_after_the_limits(instance: DagsterInstance) -> None:
    """`_reads_runs_under_way`: in each iteration that attribute of the daemon is called once, after the limits were
    asked for, and its answer is all that a daemon at its cap looks at.
    """
    queue_run(instance)
    coordinator: Any = instance.run_coordinator
    daemon: Any = QueuedRunCoordinatorDaemon(interval_seconds=5)
    original, num_asked_before = daemon._get_in_progress_run_records, []

    def spy(instance: DagsterInstance) -> Any:
        num_asked_before.append(len(coordinator.asked))
        return original(instance)

    daemon._get_in_progress_run_records = spy
    iterate(instance, daemon)
    assert num_asked_before == [1]


@pytest.mark.parametrize("page_size", [1, 25])
def test_a_tag_limit_of_0_holds(tmp_path: Path, page_size: int) -> None:
    """The gate itself."""
    limits = [{"key": GATE, "value": "held", "limit": 0}]
    with make_instance(tmp_path, coordinator={"tag_concurrency_limits": limits}) as instance:
        held, open_ = queue_run(instance, {GATE: "held"}), queue_run(instance, {GATE: "admitted"})
        daemon = QueuedRunCoordinatorDaemon(interval_seconds=5, page_size=page_size)

        assert iterate(instance, daemon) == [open_]
        assert run_of(instance, held).status == DagsterRunStatus.QUEUED


@pytest.mark.parametrize(
    "status", [DagsterRunStatus.CANCELED, DagsterRunStatus.STARTED, DagsterRunStatus.QUEUED, DagsterRunStatus.FAILURE]
)
def test_writing_tags_never_changes_a_runs_status(instance: DagsterInstance, status: DagsterRunStatus) -> None:
    """Why an admission that crosses a cancellation brings nobody back: a body with an older status is written."""
    run_id = queue_run(instance)
    storage: Any = instance.run_storage
    read = storage._storage.run_storage if hasattr(storage, "_storage") else storage
    stale = run_of(instance, run_id)
    event = {
        DagsterRunStatus.CANCELED: DagsterEventType.RUN_CANCELED,
        DagsterRunStatus.STARTED: DagsterEventType.RUN_START,
        DagsterRunStatus.QUEUED: DagsterEventType.RUN_ENQUEUED,
        DagsterRunStatus.FAILURE: DagsterEventType.RUN_FAILURE,
    }[status]
    instance.report_dagster_event(DagsterEvent(event_type_value=event.value, job_name="any"), run_id)
    original = read._get_run_by_id
    read._get_run_by_id = lambda _: stale  # as read before the event
    try:
        instance.add_run_tags(run_id, {GATE: "admitted"})
    finally:
        read._get_run_by_id = original

    run = run_of(instance, run_id)
    assert run.status == status
    assert run.tags[GATE] == "admitted"
    assert [run.run_id for run in instance.get_runs() if run.status == status] == [run_id]


def test_writing_tags_stamps_the_row(instance: DagsterInstance) -> None:
    """`RunFeed` finds changed priorities by it."""
    run_id = queue_run(instance)
    before = instance.get_run_record_by_id(run_id)
    instance.add_run_tags(run_id, {GATE: "admitted"})
    after = instance.get_run_record_by_id(run_id)

    assert before
    assert after
    assert after.update_timestamp > before.update_timestamp
    assert after.create_timestamp == before.create_timestamp


def test_re_executions_copy_our_tags() -> None:
    """`admission.py`: why every record names its run."""
    ours = {
        "headrace/gate",
        ".dagster/headrace/needs",
        ".dagster/headrace/placement",
        "headrace/why",
        "headrace/preempted",
    }
    assert ours.isdisjoint(TAGS_TO_MAYBE_OMIT_ON_RETRY)


def test_a_pause_of_a_location_is_kept_by_the_daemon_as_the_time_of_its_end(tmp_path: Path) -> None:
    """`_paused_locations`."""
    config = {"max_user_code_failure_retries": 1, "user_code_failure_retry_delay": 60}
    with make_instance(tmp_path, launcher="UnreachableLauncher", coordinator=config) as instance:
        run_id = queue_run(instance)
        daemon = QueuedRunCoordinatorDaemon(interval_seconds=5)
        list(daemon.run_iteration(Context(instance), fixed_iteration_time=1000.0))  # pyright: ignore[reportArgumentType]

        assert run_of(instance, run_id).status == DagsterRunStatus.QUEUED
        with daemon._location_timeouts_lock:
            assert daemon._location_timeouts == {"there": 1060.0}


def test_limits_of_the_concurrency_block_replace_those_of_the_coordinator(tmp_path: Path) -> None:
    """`_check_instance`: an empty list takes the gate away as well; and `max_concurrent_runs` goes the same way."""
    with make_instance(tmp_path, concurrency={"runs": {"tag_concurrency_limits": [], "max_concurrent_runs": 7}}) as it:
        queue = it.get_concurrency_config().run_queue_config
        assert queue
        assert queue.tag_concurrency_limits == []
        assert queue.max_concurrent_runs == 7
        assert "tag_concurrency_limits" in it.get_settings("concurrency")["runs"]


def test_runs_under_way_are_starting_started_and_canceling() -> None:
    """`RunFeed`: a suspended run holds no slot, and comes back through the queue."""
    assert set(ACTIVE_RUN_STATUSES) == {
        DagsterRunStatus.STARTING,
        DagsterRunStatus.STARTED,
        DagsterRunStatus.CANCELING,
    }


def test_a_run_with_0_retries_in_its_tags_is_not_retried(tmp_path: Path) -> None:
    """`_fail`: an impossible demand would fail the same way every time."""
    with make_instance(tmp_path, run_retries={"enabled": True, "max_retries": 3}) as instance:
        run_id = queue_run(instance, {MAX_RETRIES_TAG: "0"})
        instance.report_run_failed(run_of(instance, run_id), "It asks for more than there is.")
        assert not auto_reexecution_should_retry_run(instance, run_of(instance, run_id), None)
