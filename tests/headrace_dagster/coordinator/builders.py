"""A Dagster deployment under `GpuRunCoordinator`: real instance, real stock daemon, runs that execute nothing.

The machine outlives daemons: what was launched on it, which runs have processes left, whom its launcher refuses. A
test plays the run workers (`start`, `finish`) and the user (`submit`, `cancel`); `iterate` is one turn of the daemon.
"""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import dagster as dg
import yaml
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.execution.api import create_execution_plan
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.snap import snapshot_from_execution_plan
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from sqlalchemy import Engine, event

from headrace.placement.inventory import Inventory
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import Placement
from headrace_dagster.coordinator.admission import WHY_TAG, Admission, admission_of

_LOG_DIRECTORY = "log"


class DaemonKilled(BaseException):
    """The daemon's process ended here; nothing of Dagster or ours may catch it."""


@dataclass(kw_only=True)
class Machine:
    launched: list[str] = field(default_factory=list)  # run ids, in order; one id twice if it was launched twice
    # Run ids with processes left. Whoever is launched has some; a test takes them away.
    occupied: set[str] = field(default_factory=set)
    failing: dict[str, BaseException] = field(default_factory=dict)  # by run id: what its launch raises
    evicted: list[str] = field(default_factory=list)
    reaped: set[str] = field(default_factory=set)
    tags_at_launch: dict[str, dict[str, str]] = field(default_factory=dict)
    refusal: str | None = None
    num_starts: int = 0  # of daemons
    blind: BaseException | None = None  # what asking for occupied runs raises


class PlainLauncher(RunLauncher, ConfigurableClass):
    """As Dagster's own are, it knows nothing of devices; executes nothing."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._inst_data = inst_data
        self.machine = Machine()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        if run.run_id in self.machine.failing:
            raise self.machine.failing[run.run_id]
        self.machine.launched.append(run.run_id)
        self.machine.occupied.add(run.run_id)
        self.machine.tags_at_launch[run.run_id] = dict(run.tags)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        assert run
        self._instance.report_run_canceling(run)
        return True


class RecordingLauncher(PlainLauncher):
    """Gives devices."""

    def admission_tags(self, run: dg.DagsterRun, needs: RunNeeds, placement: Placement) -> Mapping[str, str]:
        return {"tests/devices": ",".join(share.device for share in placement.gpus)}

    def occupied_run_ids(self) -> set[str]:
        if self.machine.blind:
            raise self.machine.blind
        return set(self.machine.occupied)

    def reap(self, run_ids: Iterable[str]) -> None:
        self.machine.reaped |= set(run_ids)

    def evict(self, run: dg.DagsterRun, reason: str) -> None:
        self.machine.evicted.append(run.run_id)

    def refusal(self, inventory: Inventory) -> str | None:
        return self.machine.refusal

    def finish_evictions(self) -> None:
        self.machine.num_starts += 1


class UnreadableWorkspace:
    """Whoever reads a code location from it fails the test."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"The daemon asked the workspace for {name}.")


@dataclass(kw_only=True)
class DaemonContext:
    instance: dg.DagsterInstance
    workspace: Any = field(default_factory=UnreadableWorkspace)

    def create_request_context(self) -> Any:
        return self.workspace


def settings(
    *, coordinator: Mapping[str, Any] | None = None, launcher: str = "RecordingLauncher", **top_level: Any
) -> dict[str, Any]:
    """A dagster.yaml; `coordinator` is its config."""
    return {
        "run_coordinator": {
            "module": "headrace_dagster",
            "class": "GpuRunCoordinator",
            "config": {"max_concurrent_runs": -1} | dict(coordinator or {}),
        },
        "run_launcher": {"module": __name__, "class": launcher},
        "run_monitoring": {"enabled": True},
        "telemetry": {"enabled": False},
        # One file for the events of all runs: a new SQLite file for each would cost 0.1 s a run.
        "event_log_storage": {
            "module": "dagster._core.storage.event_log",
            "class": "ConsolidatedSqliteEventLogStorage",
            "config": {"base_dir": {"env": "HEADRACE_TESTS_EVENT_LOG"}},
        },
    } | top_level


@cache
def _empty_instance() -> TemporaryDirectory[str]:
    """A directory with the schema of an instance in it; making one costs a second."""
    directory = TemporaryDirectory(prefix="headrace-instance-")
    home = Path(directory.name)
    (home / _LOG_DIRECTORY).mkdir()
    plain = settings()
    del plain["run_coordinator"]
    plain["event_log_storage"]["config"] = {"base_dir": str(home / _LOG_DIRECTORY)}
    (home / "dagster.yaml").write_text(yaml.safe_dump(plain))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_run_records()
        instance.event_log_storage.get_concurrency_keys()
        instance.daemon_cursor_storage.get_cursor_values({"none"})
    return directory


class Deployment:
    """One DAGSTER_HOME with, at any time, one daemon; `restart` is a new one that remembers nothing."""

    def __init__(self, home: Path, dagster_yaml: Mapping[str, Any], *, page_size: int = 25) -> None:
        if not home.exists():
            shutil.copytree(_empty_instance().name, home)
        self.home = home
        config = {**dagster_yaml}
        if "event_log_storage" in config:
            config["event_log_storage"] = {
                **config["event_log_storage"],
                "config": {"base_dir": str(home / _LOG_DIRECTORY)},
            }
        (home / "dagster.yaml").write_text(yaml.safe_dump(config))
        self.machine = Machine()
        self._page_size = page_size
        self._open()

    def _open(self) -> None:
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        launcher: Any = self.instance.run_launcher
        if isinstance(launcher, PlainLauncher):
            launcher.machine = self.machine
        self.daemon = QueuedRunCoordinatorDaemon(interval_seconds=5, page_size=self._page_size)
        self.context = DaemonContext(instance=self.instance)

    def close(self) -> None:
        self.daemon.__exit__(None, None, None)
        self.instance.dispose()

    def restart(self) -> None:
        """What a killed daemon would have written is written: closing writes nothing."""
        self.close()
        self._open()

    def iterate(self) -> list[str]:
        """One turn of the daemon.

        Returns:
            Ids of the runs that it launched, in order.
        """
        before = len(self.machine.launched)
        list(self.daemon.run_iteration(self.context))  # pyright: ignore[reportArgumentType]
        return self.machine.launched[before:]

    def create(
        self,
        *,
        job: dg.JobDefinition | None = None,
        location: str = "here",
        status: DagsterRunStatus | None = None,
        tags: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> str:
        name = job.name if job else "any_job"
        if job:
            plan = create_execution_plan(job)
            arguments |= {
                "job_snapshot": job.get_job_snapshot(),
                "execution_plan_snapshot": snapshot_from_execution_plan(plan, job.get_job_snapshot_id()),
            }
        run = create_run_for_test(
            self.instance,
            job_name=name,
            status=status,
            tags=dict(tags or {}),
            remote_job_origin=RemoteJobOrigin(
                repository_origin=RemoteRepositoryOrigin(
                    code_location_origin=RegisteredCodeLocationOrigin(location_name=location), repository_name="all"
                ),
                job_name=name,
            ),
            job_code_origin=JobPythonOrigin(
                job_name=name,
                repository_origin=RepositoryPythonOrigin(
                    executable_path=sys.executable, code_pointer=ModuleCodePointer("nowhere", "all")
                ),
            ),
            **arguments,
        )
        return run.run_id

    def submit(self, gpus: str | float | None = None, **arguments: Any) -> str:
        """A new run in the queue, as any user or sensor puts it there."""
        tags = dict(arguments.pop("tags", {}))
        if gpus is not None:
            tags["headrace/gpus"] = str(gpus)
        run_id = self.create(tags=tags, **arguments)
        self.enqueue(run_id)
        return run_id

    def enqueue(self, run_id: str) -> dg.DagsterRun:
        return self.instance.submit_run(run_id, UnreadableWorkspace())  # pyright: ignore[reportArgumentType]

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run

    def status(self, run_id: str) -> str:
        return self.run(run_id).status.value

    def why(self, run_id: str) -> str:
        return self.run(run_id).tags.get(WHY_TAG, "")

    def admission(self, run_id: str) -> Admission | None:
        return admission_of(self.run(run_id))

    def devices(self, run_id: str) -> list[str]:
        admission = self.admission(run_id)
        return [share.device for share in admission.placement.gpus] if admission else []

    def report(self, run_id: str, event_type: DagsterEventType) -> None:
        self.instance.report_dagster_event(
            DagsterEvent(event_type_value=event_type.value, job_name=self.run(run_id).job_name), run_id
        )

    def start(self, run_id: str) -> None:
        self.report(run_id, DagsterEventType.RUN_START)

    def finish(self, run_id: str) -> None:
        """Successfully, with all its processes."""
        self.report(run_id, DagsterEventType.RUN_SUCCESS)
        self.machine.occupied.discard(run_id)

    def fail(self, run_id: str) -> None:
        self.instance.report_run_failed(self.run(run_id), "It failed.")
        self.machine.occupied.discard(run_id)

    def cancel(self, run_id: str) -> bool:
        return self.instance.run_coordinator.cancel_run(run_id)

    def canceled(self, run_id: str) -> None:
        """The worker obeys."""
        self.instance.report_run_canceled(self.run(run_id))
        self.machine.occupied.discard(run_id)


@contextmanager
def killed_at_commit(number: int, error: BaseException | None = None) -> Iterator[list[str]]:
    """The daemon's process dies when its `number`th write (from 1) is about to be committed: that one is lost.

    Args:
        error: what is raised in its place, if the process is to live.

    Yields:
        The writes that were committed, each by its last statement.
    """
    committed: list[str] = []
    pending: dict[Any, str] = {}

    def executed(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("UPDATE", "INSERT", "DELETE")):
            pending[connection] = statement

    def commit(connection: Any) -> None:
        if connection in pending:
            if len(committed) + 1 >= number:
                raise error or DaemonKilled
            committed.append(pending.pop(connection))

    event.listen(Engine, "before_cursor_execute", executed)
    event.listen(Engine, "commit", commit)
    try:
        yield committed
    finally:
        event.remove(Engine, "before_cursor_execute", executed)
        event.remove(Engine, "commit", commit)
