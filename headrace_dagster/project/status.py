"""One look at a project: its campaigns' newest days, its runs, and what failed in the last day.

Why a run waits is what the coordinator wrote to it last; `headrace why` plans anew. Of Dagster it reads the runs alone,
from a webserver where one of this instance runs, else from the instance; both give the same answer.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from headrace.clock import Clock, SystemClock, iso
from headrace.command_line.bodies.project_status import FailedRun, RunPhase, RunStanding, StatusBody
from headrace.errors import HandoffCorrupt
from headrace.generation.day_status import read_days
from headrace.keys import ContentPartition
from headrace.rollout.journal import Journal
from headrace.rollout.layout import rollout_names
from headrace.rollout.states import RolloutState, fold
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSets
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, WHY_TAG
from headrace_dagster.launchers.signs_of_life import recorded_silence
from headrace_dagster.project.run_source import NO_RUNS, NUM_FAILED_MAX, RunsFound, RunSource, RunState
from headrace_dagster.project.services import running_webserver
from headrace_dagster.queue_views.queue_words import since_text, stated_job

FAILED_HOURS = 24
# The daemon reports twice a minute.
_DAEMON_SILENT_SECONDS = 120.0
# A webserver that is stopped or overloaded answers nothing; the instance then does.
_PATIENCE_SECONDS = 5.0

T = TypeVar("T")


def with_runs(home: Path, dagster_home: str | None, read: Callable[[RunSource], T]) -> T:
    """Calls `read` with the webserver of this instance, or without one with the instance itself.

    Args: home: the project's state directory.

    Raises:
        InvalidInput: there is no instance to read.
    """
    if dagster_home and (url := running_webserver(home, dagster_home=dagster_home)):
        from headrace_dagster.project.webserver import LaunchRefused, Webserver

        # Gone meanwhile, or of another release: the instance has the same answer.
        with suppress(LaunchRefused), closing(Webserver(url, patience_seconds=_PATIENCE_SECONDS)) as webserver:
            return read(webserver)
    # Imports Dagster and its storage: three times the CPU of all the rest.
    from headrace_dagster.project.instance_runs import InstanceRuns
    from headrace_dagster.queue_views.instance_opening import open_instance

    with open_instance(dagster_home, with_coordinator=False) as instance:
        return read(InstanceRuns(instance))


def read_status(
    source: RunSource | None,
    objects: ObjectStore,
    *,
    home: Path,
    num_days: int,
    campaign: str | None = None,
    clock: Clock | None = None,
) -> StatusBody:
    """Args:
    campaign: of it alone; None: of the whole project.
    source: None: there is no instance to ask, and nothing is known of runs.
    home: the project's state directory, with the days' reports.
    """
    now = (clock or SystemClock()).now()
    look = source.look(ended_since=now - FAILED_HOURS * 3600) if source else NO_RUNS
    states, rollouts = _rollouts(objects)
    under_way, waiting, ended = look.under_way, look.waiting, look.ended
    if campaign is not None:
        rollouts = {name: told for name, told in rollouts.items() if name == campaign}
        under_way, waiting = _of(campaign, under_way.runs), _of(campaign, waiting.runs)
        ended = _of(campaign, ended).runs
    return StatusBody(
        at=iso(now),
        knows_runs=source is not None,
        daemon_silent_seconds=_silent_seconds(look.daemon_seen, now) if source else None,
        days=read_days(objects, states, home / "reports", num_days=num_days, campaign=campaign),
        rollouts=rollouts,
        running=_standings(under_way.runs, now),
        num_running=under_way.num,
        waiting=_standings(waiting.runs, now),
        num_waiting=waiting.num,
        failed=_failed(source, ended) if source else (),
    )


def _of(campaign: str, runs: Sequence[RunState]) -> RunsFound:
    """The runs on a campaign's own partitions: of its content, or of its rollout."""
    parts = ((run, ContentPartition.find(run.partition)) for run in runs)
    own = [run for run, part in parts if campaign == (part.campaign if part else run.partition)]
    return RunsFound(runs=own, num=len(own))


def _silent_seconds(seen: float | None, now: float) -> float | None:
    if seen is None:
        return -1.0
    return now - seen if now - seen > _DAEMON_SILENT_SECONDS else None


def _standings(runs: Sequence[RunState], now: float) -> tuple[RunStanding, ...]:
    # Oldest first, as the queue goes; ids settle what was queued in the same moment.
    return tuple(_standing(run, now) for run in sorted(runs, key=lambda run: (run.created, run.run_id)))


def _standing(run: RunState, now: float) -> RunStanding:
    state, why = _phase(run, now)
    return RunStanding(
        run_id=run.run_id,
        name=run.name,
        job=stated_job(run.job_name) or None,
        partition=run.partition or None,
        state=state,
        status=run.status,
        why=why,
        submitted=iso(run.created),
        since=iso(run.started) if run.started else None,
    )


def _phase(run: RunState, now: float) -> tuple[RunPhase, str]:
    match run.status:
        case "QUEUED":
            why = run.tags.get(WHY_TAG) or "Has not been looked at yet."
            return "admitted" if run.tags.get(GATE_TAG) == ADMITTED else "waiting", why
        case "NOT_STARTED" | "STARTING":
            return "starting", "Is starting."
        case "CANCELING":
            return "ending", "Is ending."
    if silence := recorded_silence(run):
        return "silent", f"Gives no sign of life since {since_text(silence.since, now)}: {silence.what}."
    return "running", f"Runs since {since_text(run.started, now)}." if run.started else "Runs."


def _rollouts(objects: ObjectStore) -> tuple[Mapping[str, RolloutState | None], dict[str, str]]:
    """By name: the state, where its journal can be read; what it says in words."""
    labels = VersionSets(objects)
    states: dict[str, RolloutState | None] = {}
    told: dict[str, str] = {}
    for name in rollout_names(objects):
        try:
            states[name] = state = fold(Journal(objects, name, SystemClock()).entries())
        except HandoffCorrupt as error:
            told[name] = f"its journal cannot be read: {error}"
            continue
        if state is None:
            told[name] = "no version set yet"
        elif state.candidate:
            told[name] = (
                f"{labels.label(state.candidate)} on trial at {state.weight:.0%}, {labels.label(state.stable)} stable"
            )
        else:
            told[name] = f"{labels.label(state.stable)} stable"
    return states, told


def _failed(source: RunSource, ended: Sequence[RunState]) -> tuple[FailedRun, ...]:
    """Runs that failed for good, whose partition no later run of the same job has made."""
    settled: set[tuple[str, str]] = set()
    found: list[RunState] = []
    # Newest first: what follows was tried before. What a person canceled is neither made nor to be mended.
    for run in (one for one in ended if one.status != "CANCELED"):
        unit = (run.job_name, run.partition)
        if unit not in settled and run.has_failed:
            found.append(run)
        settled.add(unit)
    return tuple(
        FailedRun(
            run_id=run.run_id,
            name=run.name,
            partition=run.partition or None,
            ended=iso(run.updated),
            reason=source.failure_of(run.run_id),
            run=_command(run),
        )
        for run in found[:NUM_FAILED_MAX]
    )


def _command(run: RunState) -> str | None:
    part = ContentPartition.find(run.partition)
    if part and part.window:
        # Nothing lists a day of windows; runs of what follows by itself state no job.
        job = stated_job(run.job_name)
        return f"dg launch --job {job} --partition '{part.key}'" if job else None
    return f"headrace run {part.campaign} --day {part.day}" if part else None
