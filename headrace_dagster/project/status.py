"""One look at a project: its campaigns' newest days, its runs, and what failed in the last day.

Reads one listing an asset, and the manifests of the shown days alone; of Dagster its runs, never its tables.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from headrace.clock import SystemClock, iso
from headrace.command_line.bodies import DayBody, FailedRunBody, StatusBody
from headrace.command_line.output import age_text, counted, print_heading, print_json, print_lines, print_table
from headrace.errors import HandoffCorrupt
from headrace.handoff.layout import asset_prefix
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition, partition_from_path
from headrace.rollout.journal import Journal
from headrace.rollout.layout import rollout_names
from headrace.rollout.states import fold
from headrace.text.terminal import say
from headrace.text.visible import one_line
from headrace.version_sets.sets import VersionSets
from headrace_dagster.queue_views.queue_json import run_body
from headrace_dagster.queue_views.queue_view import RunView, read_queue
from headrace_dagster.queue_views.queue_words import run_name, short_id
from headrace_dagster.run_failures import failure_of

STAGES: tuple[str, ...] = ("prompts", "generated_content", "reviewed_content")
_FAILED_HOURS = 24
_NUM_RUNS_MAX, _NUM_SHOWN = 500, 20


@dataclass(frozen=True, kw_only=True)
class DayStatus:
    """A campaign's day. `made`: stage → sealed partitions, of `num_partitions` that any stage knows.

    `num_damaged`: partitions whose newest version cannot be read.
    """

    campaign: str
    day: str
    num_partitions: int
    made: Mapping[str, int]
    num_rows: int
    num_kept: int
    version_sets: Mapping[str, str]
    num_damaged: int


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    run_id: str
    name: str
    ended: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class ProjectStatus:
    at: float
    days: Sequence[DayStatus]
    # Name → what its journal says now, in words.
    rollouts: Mapping[str, str]
    running: Sequence[RunView]
    waiting: Sequence[RunView]
    failed: Sequence[FailedRun]


def read_project_status(instance: DagsterInstance, handoffs: HandoffStore, *, num_days: int) -> ProjectStatus:
    now = time.time()
    queue = read_queue(instance, now)
    return ProjectStatus(
        at=now,
        days=_days(handoffs, num_days),
        rollouts=_rollouts(handoffs),
        running=queue.running,
        waiting=queue.queued,
        failed=_failed(instance, now),
    )


def _days(handoffs: HandoffStore, num_days: int) -> list[DayStatus]:
    partitions: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for stage in STAGES:
        for key in map(partition_from_path, handoffs.objects.children(asset_prefix(stage))):
            if part := ContentPartition.find(key):
                partitions[part.campaign][part.day].add(key)
    return [
        _day(handoffs, campaign, day, sorted(days[day]))
        for campaign, days in sorted(partitions.items())
        for day in sorted(days)[-num_days:]
    ]


def _day(handoffs: HandoffStore, campaign: str, day: str, keys: Sequence[str]) -> DayStatus:
    made, damaged = dict.fromkeys(STAGES, 0), set[str]()
    num_rows = num_kept = 0
    sets: dict[str, None] = {}
    for key in keys:
        for stage in STAGES:
            try:
                newest = handoffs.newest(stage, key)
                kept = _num_kept(newest) if newest and stage == "reviewed_content" else 0
            except HandoffCorrupt:
                damaged.add(key)
                continue
            if newest is None:
                continue
            made[stage] += 1
            num_kept += kept
            if stage == "generated_content":
                num_rows += newest.num_rows
                sets[newest.attributes.get("version_set", "")] = None
    labels = VersionSets(handoffs.objects)
    return DayStatus(
        campaign=campaign,
        day=day,
        num_partitions=len(keys),
        made=made,
        num_rows=num_rows,
        num_kept=num_kept,
        version_sets={one: labels.label(one) for one in sets if one},
        num_damaged=len(damaged),
    )


def _num_kept(reviewed: Handoff) -> int:
    return sum(reviewed.table(["kept"])["kept"].to_pylist())


def _rollouts(handoffs: HandoffStore) -> dict[str, str]:
    objects, found = handoffs.objects, {}
    labels = VersionSets(objects)
    for name in rollout_names(objects):
        try:
            state = fold(Journal(objects, name, SystemClock()).entries())
        except HandoffCorrupt as error:
            found[name] = f"its journal cannot be read: {error}"
            continue
        if state is None:
            found[name] = "no version set yet"
        elif state.candidate:
            found[name] = (
                f"{labels.label(state.candidate)} on trial at {state.weight:.0%}, {labels.label(state.stable)} stable"
            )
        else:
            found[name] = f"{labels.label(state.stable)} stable"
    return found


def _failed(instance: DagsterInstance, now: float) -> list[FailedRun]:
    """Runs that failed for good lately, whose partition no later run of the same job has made."""
    since = datetime.fromtimestamp(now, UTC) - timedelta(hours=_FAILED_HOURS)
    ended = RunsFilter(statuses=[DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS], updated_after=since)
    settled: set[tuple[str, str]] = set()
    found = []
    for record in instance.get_run_records(ended, limit=_NUM_RUNS_MAX):
        run = record.dagster_run
        unit = (run.job_name, run.tags.get("dagster/partition", ""))
        if (
            unit not in settled
            and run.status == DagsterRunStatus.FAILURE
            and run.tags.get("dagster/will_retry") != "true"
        ):
            found.append(
                FailedRun(
                    run_id=run.run_id,
                    name=run_name(run),
                    ended=record.update_timestamp.timestamp(),
                    reason=failure_of(instance, run.run_id),
                )
            )
        # Newest first: what follows was tried before.
        settled.add(unit)
    return found


def print_project_status(found: ProjectStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(_body(found)))
        return
    if found.days:
        print_table(
            ["CAMPAIGN", "DAY", "PROMPTS", "GENERATED", "REVIEWED", "ROWS", "KEPT", "VERSION SETS"],
            [_row(day) for day in found.days],
            right=["ROWS", "KEPT"],
        )
    else:
        say("No campaign has prompts yet: headrace init writes one, headrace run makes its rows.")
    if found.rollouts:
        print_heading("Rollouts")
        print_lines([f"{name}: {standing}" for name, standing in found.rollouts.items()])
    print_heading(f"{counted(len(found.running), 'run')} under way, {len(found.waiting)} waiting")
    shown = [*found.running, *found.waiting][:_NUM_SHOWN]
    print_lines([f"{short_id(run.run_id)}  {run.name}: {run.state}. {run.why}" for run in shown])
    if found.failed:
        print_heading(f"{counted(len(found.failed), 'run')} failed in the last {_FAILED_HOURS} hours")
        for run in found.failed[:_NUM_SHOWN]:
            ago = age_text(found.at - run.ended)
            print_lines([f"{short_id(run.run_id)}  {run.name}, {ago} ago: {one_line(run.reason)}"])
        say("Mend what the reason says, then make the partition again (headrace run CAMPAIGN, or in the UI).")


def _row(day: DayStatus) -> list[str]:
    stages = [f"{day.made[stage]}/{day.num_partitions}" for stage in STAGES]
    kept = f"{day.num_kept / day.num_rows:.0%}" if day.num_rows and day.made["reviewed_content"] else ""
    damaged = [f"{day.num_damaged} damaged"] if day.num_damaged else []
    return [
        day.campaign,
        day.day,
        *stages,
        f"{day.num_rows:,}",
        kept,
        "; ".join([*day.version_sets.values(), *damaged]),
    ]


def _body(found: ProjectStatus) -> StatusBody:
    days = [
        DayBody(
            campaign=day.campaign,
            day=day.day,
            num_partitions=day.num_partitions,
            num_prompts=day.made["prompts"],
            num_generated_content=day.made["generated_content"],
            num_reviewed_content=day.made["reviewed_content"],
            num_rows=day.num_rows,
            num_kept=day.num_kept,
            version_sets=dict(day.version_sets),
            num_damaged=day.num_damaged,
        )
        for day in found.days
    ]
    failed = [
        FailedRunBody(run_id=run.run_id, name=run.name, ended=iso(run.ended), reason=run.reason) for run in found.failed
    ]
    return StatusBody(
        at=iso(found.at),
        days=tuple(days),
        rollouts=dict(found.rollouts),
        running=tuple(map(run_body, found.running)),
        waiting=tuple(map(run_body, found.waiting)),
        failed=tuple(failed),
    )
