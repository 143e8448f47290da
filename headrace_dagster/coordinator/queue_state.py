"""Dagster's runs in the policy's form: a `Snapshot`, built only from run tags and statuses.

The daemon and `headrace queue` build it in the same way; the daemon keeps what it has read, the command starts anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dagster import DagsterInstance, DagsterRun
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import PRIORITY_TAG

from headrace.errors import InvalidInput
from headrace.placement.demand import Demand
from headrace.placement.inventory import Inventory
from headrace.placement.needs import InvalidNeeds, RunNeeds
from headrace.placement.placements import NOTHING
from headrace.placement.residency import Residency
from headrace.placement.snapshot import Running, Snapshot, Waiting
from headrace_dagster.coordinator.admission import (
    ADMITTED,
    GATE_TAG,
    NEEDS_TAG,
    Admission,
    admission_of,
)
from headrace_dagster.coordinator.durations import DurationHistory
from headrace_dagster.coordinator.run_feed import RunFeed
from headrace_dagster.coordinator.run_needs import RunPlans, needs_of_run
from headrace_dagster.launchers.eviction import last_eviction

# Equal demands share an object; a deployment has few kinds.
_DEMANDS_MAX = 10_000
# As in Dagster: a value that is not an integer counts as 0 (its contract, point 3).
_PRIORITY_MAX = 10**9
_EARLIER_ATTEMPT = "Waits for the processes of its earlier attempt {} to be gone."


@dataclass(kw_only=True)
class QueueState:
    """What was read of the runs that wait or hold devices."""

    instance: DagsterInstance
    feed: RunFeed
    durations: DurationHistory
    plans: RunPlans
    # Adapts a demand to this fleet and launcher; InvalidInput: they can never serve it.
    fitted: Callable[[Inventory, Demand], Demand]
    # Runs that ended for Dagster, with processes that still hold devices.
    lingering: dict[str, DagsterRun] = field(default_factory=dict)
    # By run: when the launcher was asked to end it, and why.
    evicted: dict[str, tuple[float, str]] = field(default_factory=dict)
    # Queued runs in the last snapshot that can never start, and why.
    unfit: dict[str, str] = field(default_factory=dict)
    _needs: dict[str, tuple[str | None, RunNeeds]] = field(default_factory=dict)
    # What was made of a run, and of what: nothing is made again of what has not changed.
    _waiting_of: dict[str, tuple[tuple[object, ...], Waiting]] = field(default_factory=dict)
    _running_of: dict[str, tuple[tuple[object, ...], Running]] = field(default_factory=dict)
    _demands: dict[Demand, Demand] = field(default_factory=dict)

    def needs(self, run: DagsterRun) -> RunNeeds:
        """The needs in the tag that `submit_run` wrote; computed again for a run that was queued without it.

        Raises:
            InvalidNeeds: its tags cannot be read.
        """
        written = run.tags.get(NEEDS_TAG)
        known = self._needs.get(run.run_id)
        if known and known[0] == written:
            return known[1]
        try:
            needs = RunNeeds.from_json(written or "")
        except ValueError:
            needs = needs_of_run(run, self.plans.of(run))
        self._needs[run.run_id] = (written, needs)
        return needs

    def forget_ended(self) -> None:
        known = {*self.feed.queued, *self.feed.under_way, *self.lingering}
        self._needs = {run_id: needs for run_id, needs in self._needs.items() if run_id in known}
        self._waiting_of = {run_id: made for run_id, made in self._waiting_of.items() if run_id in known}
        self._running_of = {run_id: made for run_id, made in self._running_of.items() if run_id in known}
        if len(self._demands) > _DEMANDS_MAX:
            self._demands.clear()
        self.evicted = {run_id: asked for run_id, asked in self.evicted.items() if run_id in known}

    def admitted(self) -> dict[str, Admission]:
        """Runs with a promise that are not launched yet."""
        found = {}
        for run_id, record in self.feed.queued.items():
            run = record.dagster_run
            if run.tags.get(GATE_TAG) == ADMITTED and run_id not in self.feed.under_way:
                admission = admission_of(run)
                if admission:
                    found[run_id] = admission
        return found

    def waiting_runs(self) -> dict[str, DagsterRun]:
        """Waiting runs in order of submission."""
        admitted = self.admitted()
        records = (
            record
            for run_id, record in self.feed.queued.items()
            if run_id not in admitted and run_id not in self.feed.under_way
        )
        ordered = sorted(records, key=lambda record: record.storage_id)
        return {record.dagster_run.run_id: record.dagster_run for record in ordered}

    def held_devices(self) -> dict[str, set[str]]:
        """Our runs' devices, by node."""
        admissions = [*self.admitted().values()]
        runs = [*(record.dagster_run for record in self.feed.under_way.values()), *self.lingering.values()]
        admissions += [admission for run in runs if (admission := admission_of(run))]
        held: dict[str, set[str]] = {}
        for share in (share for admission in admissions for share in admission.placement.gpus):
            held.setdefault(share.node, set()).add(share.device)
        return held

    def snapshot(
        self,
        inventory: Inventory,
        *,
        ever_seen: Inventory,
        blocked: Mapping[str, str],
        num_slots: int | None,
        occupied: frozenset[str],
        residency: Residency,
    ) -> Snapshot:
        """`occupied`: runs with live processes. A retry of such a run waits until they are gone."""
        all_blocked = dict(blocked)
        self.unfit = {}
        waiting = []
        for run_id, run in self.waiting_runs().items():
            try:
                waiting.append(self._waiting(self.feed.queued[run_id], inventory))
            except InvalidInput as error:
                self.unfit[run_id] = str(error)
                continue
            # A run may itself have been launched and queued again.
            for attempt in {run_id, run.parent_run_id} & occupied:
                all_blocked[run_id] = _EARLIER_ATTEMPT.format((attempt or "")[:8])
        running = [self._running(record.dagster_run, record) for record in self.feed.under_way.values()]
        admitted = (self.feed.queued[run_id] for run_id in self.admitted())
        running += [self._running(record.dagster_run, record) for record in admitted]
        running += [replace(self._running(run), ending=True) for run in self.lingering.values()]
        return Snapshot(
            inventory=inventory,
            ever_seen=ever_seen,
            waiting=tuple(waiting),
            running=tuple(running),
            blocked=all_blocked,
            num_slots=num_slots,
            residency=residency,
        )

    def _waiting(self, record: RunRecord, inventory: Inventory) -> Waiting:
        run = record.dagster_run
        needs = self.needs(run)
        seconds = self.durations.expected_seconds(run, needs)
        made_of = (run, inventory, seconds)
        known = self._waiting_of.get(run.run_id)
        if known is not None and _same(known[0], made_of):
            return known[1]
        preempted = last_eviction(run)
        waiting = Waiting(
            **self._planned(run, needs, self.fitted(inventory, needs.demand), seconds),
            submitted=record.create_timestamp.timestamp(),
            preempted_at=preempted.at if preempted else 0.0,
        )
        self._waiting_of[run.run_id] = made_of, waiting
        return waiting

    def _running(self, run: DagsterRun, record: RunRecord | None = None) -> Running:
        try:
            needs = self.needs(run)
        except InvalidNeeds:
            needs = RunNeeds()
        seconds = self.durations.expected_seconds(run, needs)
        is_ending = run.run_id in self.feed.canceling or run.run_id in self.evicted
        made_of = (run, is_ending, seconds)
        known = self._running_of.get(run.run_id)
        if known is not None and _same(known[0], made_of):
            return known[1]
        admission, preempted = admission_of(run), last_eviction(run)
        submitted = record.create_timestamp.timestamp() if record else None
        running = Running(
            **self._planned(run, needs, needs.demand, seconds),
            placement=admission.placement if admission else NOTHING,
            started=admission.at if admission else 0.0,
            waited_seconds=max(0.0, admission.at - submitted) if admission and submitted is not None else 0.0,
            ending=is_ending or (preempted is not None and preempted.run_id == run.run_id),
        )
        self._running_of[run.run_id] = made_of, running
        return running

    def _planned(self, run: DagsterRun, needs: RunNeeds, demand: Demand, expected_seconds: float) -> dict[str, Any]:
        """The fields of a `PlannedRun`."""
        preempted = last_eviction(run)
        return {
            "run_id": run.run_id,
            "priority": priority_of(run),
            "num_preemptions": preempted.num if preempted else 0,
            **vars(needs),
            # One object for equal ones: a plan compares them more often than anything else.
            "demand": self._demands.setdefault(demand, demand),
            "expected_seconds": expected_seconds,
        }


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Of the same objects, or equal numbers: comparing two runs field by field takes longer than making one anew."""
    return all(a is b or (isinstance(a, float) and a == b) for a, b in zip(one, other, strict=True))


def priority_of(run: DagsterRun) -> int:
    try:
        return max(-_PRIORITY_MAX, min(_PRIORITY_MAX, int(run.tags.get(PRIORITY_TAG, "0"))))
    except ValueError:
        return 0
