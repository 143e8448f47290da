"""One look of the daemon at the queue: reads what changed, decides, records who may start and why the rest waits.

Run tags and statuses hold everything that must be remembered between two looks, so a daemon may be killed between any
two lines. A promise is one tag write; Dagster does the launch that follows. Uncertainty (a launcher that cannot tell
which runs still hold devices, an inventory that cannot be read) raises an error: then nothing is admitted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from logging import Logger

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.instance.config import ConcurrencyConfig
from dagster._core.storage.tags import MAX_RETRIES_TAG

from headrace.errors import InvalidInput
from headrace.placement.discovery import Discovery
from headrace.placement.engine_hosts import EngineHost
from headrace.placement.fifo_waits import FifoWaits
from headrace.placement.inventory import Inventory
from headrace.placement.needs import InvalidNeeds
from headrace.placement.placements import Placement
from headrace.placement.queueing import Line, QueuePolicy, plan
from headrace.placement.residency import Residency
from headrace.placement.snapshot import Plan, Reservation, Snapshot
from headrace_dagster.coordinator.admission import (
    ADMITTED,
    GATE_TAG,
    HELD,
    NEEDS_TAG,
    PLACEMENT_TAG,
    WHY_TAG,
    Admission,
    DeviceLauncher,
    admission_of,
)
from headrace_dagster.coordinator.hold_reports import HoldReports
from headrace_dagster.coordinator.queue_state import QueueState
from headrace_dagster.coordinator.run_tag_writes import add_tags
from headrace_dagster.coordinator.stock_limits import PoolReading, StockLimits
from headrace_dagster.coordinator.waits_row import WaitsRow

# Dagster launches in the admitting iteration. A run that is still queued after three has an unknown obstacle.
_LOOKS_BEFORE_REVOKED = 3
_SUSPENDED = RunsFilter(statuses=[DagsterRunStatus.SUSPENDED])
_REPLANS = 10
# Longer than any grace in use.
_EVICT_AGAIN_SECONDS = 120.0


@dataclass(kw_only=True)
class Dequeuing:
    """One daemon's state."""

    instance: DagsterInstance
    state: QueueState
    discovery: Discovery
    policy: QueuePolicy
    concurrency: Callable[[], ConcurrencyConfig]
    reports: HoldReports
    waits_row: WaitsRow
    logger: Logger
    # None: no run's model outlives it on a GPU.
    host: EngineHost | None = None
    inventory: Inventory = field(default_factory=Inventory)
    residency: Residency = field(default_factory=Residency)
    _unlaunched: dict[str, int] = field(default_factory=dict)
    _look_again_at: float | None = None
    # The last look's reservations, as a preference only: without it, places would move between nodes with the
    # estimates.
    _promised: tuple[Reservation, ...] = ()
    _line: Line = field(default_factory=Line)
    _restless: bool = True

    @cached_property
    def _waits(self) -> FifoWaits:
        return self.waits_row.read()

    def look(self, now: float, paused_locations: frozenset[str] = frozenset()) -> bool:
        """Returns whether Dagster has anything to launch."""
        # True until this look is complete: an interrupted one is repeated in full.
        restless, self._restless = self._restless, True
        changed = self.state.feed.refresh(now)
        inventory = self.discovery.look(now)
        changed = changed or inventory != self.inventory or restless
        self.inventory = inventory
        if changed:
            self._close_gates()
        due = self._look_again_at is not None and now >= self._look_again_at
        is_to_decide = changed or due
        self._restless = self._decide(now, paused_locations) if is_to_decide else False
        self.reports.write(now)
        # Admitted runs that are not launched yet keep it restless; without a decision there are none.
        return is_to_decide and bool(self.state.admitted())

    def _decide(self, now: float, paused_locations: frozenset[str]) -> bool:
        """Returns whether the next look must decide again even without an event."""
        occupied = self._look_at_processes()
        waiting = self.state.waiting_runs()
        if not waiting and not self.state.admitted():
            self._look_again_at = None
            self.reports.tell({})
            self._unlaunched.clear()
            self.state.forget_ended()
            return bool(self.state.lingering)
        self.look_at_host()
        decision, limits = self._plan(now, paused_locations, occupied, waiting)
        self._look_again_at = decision.look_again_at
        self._promised = decision.reservations
        for run_id, reason in (decision.impossible | self.state.unfit).items():
            self._fail(waiting[run_id], reason)
        for preemption in decision.preemptions:
            self._evict(preemption.run_id, preemption.sentence, now)
        for run_id, (asked_at, sentence) in self.state.evicted.items():
            # The launcher has failed to end it for some reason, and the run with the promised place waits: ask again.
            if now - asked_at > _EVICT_AGAIN_SECONDS:
                self._evict(run_id, sentence, now)
        if self.host and decision.evictions:
            self.host.empty(decision.evictions)
        self._admit(decision.admissions, waiting, now)
        self.reports.tell(decision.holds)
        self.waits_row.keep(self._waits)
        self.state.forget_ended()
        return bool(
            self.state.lingering
            or limits.change_unseen
            or self.state.admitted()
            or self.state.evicted
            or decision.evictions
        )

    def look_at_host(self) -> None:
        """Once a look. After the processes: what a run that is gone has had loaded is in the host's answer then."""
        self.residency = self.host.look(self.inventory) if self.host else Residency()

    def _plan(
        self, now: float, paused_locations: frozenset[str], occupied: frozenset[str], waiting: dict[str, DagsterRun]
    ) -> tuple[Plan, StockLimits]:
        """A plan that respects Dagster's own limits, so that runs which those hold back get no idle devices."""
        pools = PoolReading(self.instance)
        self._revoke(self._limits(paused_locations, waiting, pools))
        waiting |= self.state.waiting_runs()
        blocked: dict[str, str] | None = None
        rounds = 0
        while True:
            rounds += 1
            limits = self._limits(paused_locations, waiting, pools)
            for run_id in self.state.admitted():
                limits.count(self.state.feed.queued[run_id].dagster_run)
            if blocked is None:
                blocked = limits.reasons(waiting.values())
            decision = plan(self.snapshot(blocked, occupied, now), self.policy, now, self._promised, self._line)
            accepted = {}
            for run_id, placement in decision.admissions.items():
                if limits.reason(waiting[run_id]) is None:
                    limits.count(waiting[run_id])
                    accepted[run_id] = placement
            if len(accepted) == len(decision.admissions) or rounds == _REPLANS:
                return replace(decision, admissions=accepted), limits
            # With the accepted runs, many more may exceed a limit: all of them make room for others.
            blocked |= limits.reasons(run for run_id, run in waiting.items() if run_id not in accepted)

    def snapshot(self, blocked: dict[str, str], occupied: frozenset[str], now: float) -> Snapshot:
        queue = self.concurrency().run_queue_config
        assert queue
        taken = len(self.state.feed.under_way) + len(self.state.admitted())
        cap = queue.max_concurrent_runs
        snapshot = self.state.snapshot(
            self.inventory,
            ever_seen=self.discovery.ever_seen,
            blocked=blocked,
            num_slots=None if cap == -1 else max(0, cap - taken),
            occupied=occupied,
            residency=self.residency,
        )
        return self._waits.look(snapshot, self.policy, now)

    def read_only_snapshot(self, now: float) -> tuple[Snapshot, dict[str, DagsterRun]]:
        """The input of `look`'s decision; writes, revokes and ends nothing."""
        launcher = self.instance.run_launcher
        occupied: frozenset[str] = frozenset()
        if isinstance(launcher, DeviceLauncher):
            occupied = frozenset(launcher.occupied_run_ids())
        self._find_lingering(occupied)
        self.look_at_host()
        waiting = self.state.waiting_runs()
        limits = self._limits(frozenset(), waiting, PoolReading(self.instance))
        for run_id in self.state.admitted():
            limits.count(self.state.feed.queued[run_id].dagster_run)
        feed = self.state.feed
        runs = {run_id: record.dagster_run for run_id, record in (feed.queued | feed.under_way).items()}
        return self.snapshot(limits.reasons(waiting.values()), occupied, now), runs | self.state.lingering

    def _limits(
        self, paused_locations: frozenset[str], waiting: dict[str, DagsterRun], pools: PoolReading
    ) -> StockLimits:
        under_way = [record.dagster_run for record in self.state.feed.under_way.values()]
        admitted = [self.state.feed.queued[run_id].dagster_run for run_id in self.state.admitted()]
        return StockLimits(pools, self.concurrency(), [*waiting.values(), *admitted], under_way, paused_locations)

    def _look_at_processes(self) -> frozenset[str]:
        launcher = self.instance.run_launcher
        if not isinstance(launcher, DeviceLauncher):
            return frozenset()
        occupied = frozenset(launcher.occupied_run_ids())
        self._find_lingering(occupied)
        if self.state.lingering:
            launcher.reap(self.state.lingering.keys())
        return occupied

    def _find_lingering(self, occupied: frozenset[str]) -> None:
        """Finds ended runs with remaining processes: their devices are not free."""
        feed = self.state.feed
        feed.left = {run_id: run for run_id, run in feed.left.items() if run_id in occupied}
        lingering = {}
        for run_id in sorted(occupied - feed.under_way.keys() - self.state.admitted().keys()):
            run = self.state.lingering.get(run_id) or self.instance.get_run_by_id(run_id) or feed.left.get(run_id)
            if run and admission_of(run):
                lingering[run_id] = run
        self.state.lingering = lingering

    def _close_gates(self) -> None:
        """Closes the gates of runs queued without one, and of suspended runs, which may return to the queue."""
        for run in self.instance.get_runs(_SUSPENDED):
            if run.tags.get(GATE_TAG) == ADMITTED:
                # Its record stays, since its processes may still exist.
                self._write(run, {GATE_TAG: HELD})
        for record in list(self.state.feed.queued.values()):
            run = record.dagster_run
            gate = run.tags.get(GATE_TAG)
            if gate == HELD or (gate == ADMITTED and admission_of(run)):
                continue
            try:
                self._write(run, {GATE_TAG: HELD, NEEDS_TAG: self.state.needs(run).to_json()})
            except InvalidNeeds as error:
                self._fail(run, str(error))

    def _revoke(self, limits: StockLimits) -> None:
        """Revokes promises that Dagster has not taken up since the last look, or whose devices are gone."""
        admitted = self.state.admitted()
        healthy = {(node.name, gpu.device) for node in self.inventory.nodes for gpu in node.gpus if gpu.healthy}
        self._unlaunched = {run_id: self._unlaunched.get(run_id, 0) + 1 for run_id in admitted}
        for run_id, admission in admitted.items():
            run = self.state.feed.queued[run_id].dagster_run
            reason = limits.reason(run)
            lost = [share for share in admission.placement.gpus if (share.node, share.device) not in healthy]
            if reason is None and lost:
                reason = f"GPU {lost[0].device} of {lost[0].node} was lost before the launch."
            if reason is None and self._unlaunched[run_id] >= _LOOKS_BEFORE_REVOKED:
                reason = "Dagster did not launch it; see the daemon's log."
            if reason:
                self._write(run, {GATE_TAG: HELD, PLACEMENT_TAG: "", WHY_TAG: reason})
            else:
                limits.count(run)

    def _admit(self, placements: dict[str, Placement], waiting: dict[str, DagsterRun], now: float) -> None:
        found = {run_id: self._admission_tags(waiting[run_id], placements[run_id], now) for run_id in placements}
        self._write_all({run_id: tags for run_id, tags in found.items() if tags})

    def _admission_tags(self, run: DagsterRun, placement: Placement, now: float) -> dict[str, str]:
        """The tags of an admission; empty, after failing the run, if the launcher cannot give it the placement."""
        launcher = self.instance.run_launcher
        tags = {
            GATE_TAG: ADMITTED,
            PLACEMENT_TAG: Admission(run_id=run.run_id, at=now, placement=placement).to_json(),
            WHY_TAG: _where(placement),
        }
        if isinstance(launcher, DeviceLauncher):
            try:
                tags |= launcher.admission_tags(run, self.state.needs(run), placement)
            except InvalidInput as error:
                self._fail(run, str(error))
                return {}
        return tags

    def _evict(self, run_id: str, sentence: str, now: float) -> None:
        launcher = self.instance.run_launcher
        record = self.state.feed.under_way.get(run_id)
        if record and isinstance(launcher, DeviceLauncher):
            self.state.evicted = {**self.state.evicted, run_id: (now, sentence)}
            self.logger.info(sentence)
            launcher.evict(record.dagster_run, sentence)

    def _fail(self, run: DagsterRun, reason: str) -> None:
        # It would fail the same way each time.
        self.instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0", WHY_TAG: reason})
        self.instance.report_run_failed(run, reason)
        self.state.feed.queued.pop(run.run_id, None)

    def _write(self, run: DagsterRun, tags: dict[str, str]) -> None:
        self.instance.add_run_tags(run.run_id, tags)
        self.state.feed.note(run.with_tags({**run.tags, **tags}))

    def _write_all(self, tags_by_run: dict[str, dict[str, str]]) -> None:
        """Writes queued runs' tags, in one transaction if the database supports it."""
        add_tags(self.instance, tags_by_run)
        for run_id, tags in tags_by_run.items():
            run = self.state.feed.queued[run_id].dagster_run
            self.state.feed.note(run.with_tags({**run.tags, **tags}))


def _where(placement: Placement) -> str:
    places = [
        f"{node} GPU {', '.join(placement.devices_on(node))}" if placement.devices_on(node) else node
        for node in placement.nodes
    ]
    return f"Admitted: {'; '.join(places)}." if places else "Admitted: it needs nothing that is counted."
