"""One plan in progress: takes the waiting runs in order and books its decisions."""

import math
from collections import Counter
from collections.abc import Collection
from functools import partial

from headrace.placement.demand import Demand
from headrace.placement.free_places import FreePlaces
from headrace.placement.holds import HoldWriter
from headrace.placement.largest import largest_of
from headrace.placement.line import ID, KIND, NEEDS_PROMISE_FROM, OVERTAKEN_SINCE, RUN, Entry, Line
from headrace.placement.model_places import ModelPlaces
from headrace.placement.ordering import Shares, had_aged
from headrace.placement.placements import Placement
from headrace.placement.preemption import (
    earliest_stop,
    fewest_stopped,
    fills_from,
    is_gang,
    may_be_stopped,
    may_stop,
    needs_promise,
    overtaken_since,
)
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.reservations import first_place
from headrace.placement.snapshot import Eviction, Plan, Preemption, Reservation, Running, Snapshot, Waiting
from headrace.placement.stage_ledger import StageLedger
from headrace.placement.warm_line import WarmLine

# At most so many blocked runs of a higher priority try a preemption in one plan: each try costs many placements.
_PREEMPTION_TRIES_MAX = 4


class Decision:
    def __init__(
        self,
        snapshot: Snapshot,
        policy: QueuePolicy,
        now: float,
        promised: Collection[Reservation] = (),
        line: Line | None = None,
    ) -> None:
        """`line`: of the previous decision on this queue, if known; it saves time."""
        self._snapshot, self._policy, self._now = snapshot, policy, now
        self._promised = {reservation.run_id: reservation for reservation in promised}
        self._line = line or Line()
        self._line.advance(snapshot.waiting, policy, now)
        self._free = FreePlaces(snapshot.inventory, policy.packing, snapshot.running)
        self._shares = Shares(snapshot.inventory)
        for run in snapshot.running:
            self._shares.add(run.queue, run.demand, gpu_milli(run.placement))
        # The snapshot's runs and newly admitted ones: another run may wait for any of them.
        self._running = list(snapshot.running)
        self._stages = StageLedger(self._free.fleet, snapshot, policy, now)
        # Kinds of runs of which each is held as the last one was, until more is given out or kept; for which run what
        # is free is kept.
        self._closed: dict[int, str | None] = {}
        # And those of which each is, unless it might act against others by its age.
        self._half_closed: dict[int, str | None] = {}
        self._num_young_kinds = 0
        self._slots = snapshot.num_slots
        self._reserved_aged: str | None = None
        self._draining: set[str] = set()
        self._tries = 0
        self._stopped: set[str] = set()
        self._stoppable = [run for run in snapshot.running if not run.ending and may_be_stopped(run, policy)]
        # Of those, the lowest priority; and when the last one started that had not waited too long itself.
        self._lowest_priority = min((run.priority for run in self._stoppable), default=math.inf)
        self._overtook_at = max(
            (run.started for run in self._stoppable if not had_aged(run, policy)), default=-math.inf
        )
        self._ending = [run for run in snapshot.running if run.ending]
        # By what decides whom a run may stop: since when it waits. Whoever came later may stop nobody else.
        self._not_helped: dict[tuple[Demand, int, str, bool], float] = {}
        self._preempted_for: str | None = None
        self._admissions: dict[str, Placement] = {}
        self._preemptions: list[Preemption] = []
        self._reservations: list[Reservation] = []
        self._holds = HoldWriter(snapshot, policy, now)
        # None: nothing is known to be loaded anywhere.
        self._models: ModelPlaces | None = None
        if snapshot.residency.nodes or any(run.loads for run in snapshot.running):
            self._models = ModelPlaces(snapshot, lambda: self._free.unpromised, now)
        self._evictions: list[Eviction] = []
        self._lapses: list[float] = []
        # Those young ones that are decided on already: they went past the aged ones.
        self._passed: set[str] = set()

    def plan(self) -> Plan:
        impossible = self._impossible()
        left_out = impossible.keys() | self._snapshot.blocked.keys()
        self._decide_on_aged(left_out)
        self._decide_on_young(left_out | self._passed if self._passed else left_out)
        return Plan(
            admissions=self._admissions,
            preemptions=tuple(self._preemptions),
            holds=self._holds.holds(self._free.fleet, self._shares),
            impossible=impossible,
            reservations=tuple(self._reservations),
            evictions=tuple(self._evictions),
            look_again_at=self._look_again_at(left_out),
        )

    def _impossible(self) -> dict[str, str]:
        """Why runs can never start, by run; and holds those that Dagster's own limits hold back."""
        largest = largest_of(self._snapshot.ever_seen or self._snapshot.inventory, self._policy.stages)
        refused = {
            (kind.demand, kind.stage, kind.may_be_stopped): refusal
            for kind in self._line.kinds
            if (refusal := largest.refusal(kind.demand, kind.stage, may_borrow=kind.may_be_stopped)) is not None
        }
        impossible: dict[str, str] = {}
        for run in self._snapshot.waiting if refused or self._snapshot.blocked else ():
            refusal = refused.get((run.demand, run.stage, may_be_stopped(run, self._policy)))
            if refusal is not None:
                impossible[run.run_id] = refusal
            elif run.run_id in self._snapshot.blocked:
                self._holds.blocked(run, self._snapshot.blocked[run.run_id])
        return impossible

    def _decide_on_aged(self, left_out: Collection[str]) -> None:
        alike: list[Entry] = []
        has_passed = False
        for entry in self._line.aged(self._promised):
            if not has_passed and entry[ID] not in self._promised:
                self._let_short_pass(left_out)
                has_passed = True
            if left_out and entry[ID] in left_out:
                continue
            kind = entry[KIND]
            if kind in self._closed or (kind in self._half_closed and not self._might_act(entry)):
                alike.append(entry)
                continue
            run = entry[RUN]
            self._hold_alike(alike)
            alike = []
            self._decide(run, aged=True)
            self._close(kind, run)
        self._hold_alike(alike)

    def _let_short_pass(self, left_out: Collection[str]) -> None:
        """Starts those that find a place; the others wait for their turn."""
        for entry in self._line.short(self._shares):
            run = entry[RUN]
            fills = may_be_stopped(run, self._policy)
            if run.run_id in left_out or self._slots == 0 or self._stages.refusal(run, aged=False, may_borrow=fills):
                continue
            placement = self._place(run, fills=fills)
            if placement is None:
                continue
            self._passed.add(run.run_id)
            if not (self._models and self._waits_for_models(run, placement, self._models, aged=False)):
                self._admit(run, placement)

    def _decide_on_young(self, left_out: Collection[str]) -> None:
        self._open()
        self._close_young()
        if self._snapshot.residency.nodes and self._models and self._models.has_any_room:
            for run in self._line.young_served_by(self._warm_line, self._shares, left_out):
                self._decide(run, aged=False)
            return
        in_turn = self._line.young(self._shares)
        alike: list[Entry] = []
        for entry in in_turn:
            if left_out and entry[ID] in left_out:
                continue
            if entry[KIND] in self._closed:
                alike.append(entry)
            else:
                self._hold_alike(alike)
                alike = []
                self._decide(entry[RUN], aged=False)
                self._close_young()
            if self._closed and len(self._closed) == self._num_young_kinds:
                alike += [rest for rest in in_turn if rest[ID] not in left_out] if left_out else in_turn
        self._hold_alike(alike)

    def _hold_alike(self, entries: list[Entry]) -> None:
        if entries:
            self._holds.alike(entries, {**self._closed, **self._half_closed})

    def _close(self, kind: int, run: Waiting) -> None:
        """Notes if other aged runs like this one would be tried nowhere and for nothing, and be held."""
        if run.run_id in self._promised or not self._may_close():
            return
        if not self._free.fits_nowhere(run.demand, fills=may_be_stopped(run, self._policy)):
            return
        may_stop_by_age_alone = not self._ending and run.priority <= self._lowest_priority
        if (self._reserved_aged is not None or self._preempted_for is not None) and not self._might_preempt:
            self._closed[kind] = self._kept_for(run.demand)
        elif self._policy.preemption is not None and not is_gang(run.demand) and may_stop_by_age_alone:
            self._half_closed[kind] = self._kept_for(run.demand)

    def _close_young(self) -> None:
        """The same of all kinds of the others."""
        if not self._may_close():
            return
        kinds = self._line.young_kinds
        self._num_young_kinds = len(kinds)
        for number, kind in kinds:
            if number in self._closed:
                continue
            for_nothing = (
                not self._might_preempt
                or (not self._ending and kind.priority <= self._lowest_priority)
                or (kind.demand, kind.priority, kind.stage, False) in self._not_helped
            )
            if for_nothing and self._free.fits_nowhere(kind.demand, fills=kind.may_be_stopped):
                self._closed[number] = self._kept_for(kind.demand)

    def _may_close(self) -> bool:
        # The first in line is told more than the others; and who waits for a model, each for its own.
        is_first = not self._holds.has_line and not self._reservations
        return not is_first and self._slots != 0 and not self._stages.has_limits and self._models is None

    @property
    def _might_preempt(self) -> bool:
        return (
            self._policy.preemption is not None
            and self._preempted_for is None
            and self._tries < _PREEMPTION_TRIES_MAX
            and bool(self._stoppable or self._ending)
        )

    def _open(self) -> None:
        """Something has changed for all."""
        self._closed.clear()
        self._half_closed.clear()

    def _might_act(self, entry: Entry) -> bool:
        """Whether an aged run of a kind without a place may be promised one, or be given another's."""
        return self._overtook_at > entry[OVERTAKEN_SINCE] or self._now >= entry[NEEDS_PROMISE_FROM]

    def _decide(self, run: Waiting, *, aged: bool) -> None:
        if self._slots == 0:
            self._holds.no_slot(run)
            return
        fills = may_be_stopped(run, self._policy)
        refusal = self._stages.refusal(run, aged=aged, may_borrow=fills)
        if refusal is not None:
            self._holds.staged(run, refusal)
            return
        placement = self._place(run, fills=fills)
        if placement is not None:
            if not (self._models and self._waits_for_models(run, placement, self._models, aged=aged)):
                self._admit(run, placement)
        elif aged and self._reserved_aged is None and self._may_promise(run):
            self._reserve(run)
        elif self._policy.preemption is not None and self._preempted_for is None:
            self._preempt(run, aged=aged)
        else:
            self._hold(run)

    def _warm_line(self, queue: list[Waiting]) -> WarmLine:
        assert self._models
        return WarmLine(queue, self._models, is_by_length=self._policy.order == "shortest_first")

    def _waits_for_models(self, run: Waiting, placement: Placement, models: ModelPlaces, *, aged: bool) -> bool:
        """Holds a run that would be served sooner on another GPU, or on this one once a host's models have left it."""
        if leaving := models.to_empty(run, placement.gpus):
            # As if it had started there: nobody else is put there meanwhile, and a promise stays one.
            self._start(run, placement)
            self._evictions += leaving
            self._holds.emptied(run, leaving)
            if run.run_id in self._promised:
                self._reserved_aged = run.run_id
                self._reservations.append(_reservation(run, placement, self._now))
            return True
        kept = {device for reservation in self._reservations for device in reservation.devices}
        sooner = None if aged else models.sooner(run, placement, kept)
        if sooner is None:
            return False
        models.waits(run, sooner.device)
        self._lapses.append(sooner.lapses_at)
        self._holds.sooner(run, sooner, models.labels(sooner.models))
        return True

    def _may_promise(self, run: Waiting) -> bool:
        """A new promise waits until those are gone who are stopped for a run ahead: their places are not for this."""
        if self._preempted_for is not None and run.run_id not in self._promised:
            return False
        return needs_promise(run, self._policy, self._now)

    def _admit(self, run: Waiting, placement: Placement) -> None:
        self._admissions[run.run_id] = placement
        self._start(run, placement)

    def _start(self, run: Waiting, placement: Placement) -> None:
        self._take(run.run_id, placement)
        if self._models:
            self._models.admitted(run, placement)
        self._running.append(run.started(placement, self._now))
        milli = gpu_milli(placement)
        self._shares.add(run.queue, run.demand, milli)
        self._stages.add(run.stage, milli)
        self._slots = None if self._slots is None else self._slots - 1

    def _take(self, run_id: str, placement: Placement) -> None:
        self._open()
        self._free.take(run_id, placement)

    def _place(self, run: Waiting, *, fills: bool) -> Placement | None:
        wishes = None if self._models is None else partial(self._models.wishes, run)
        return self._free.place(run.demand, fills=fills, wishes=wishes)

    def _hold(self, run: Waiting) -> None:
        """Holds a run without a promise. The first in line is told which runs it waits for, the others who is ahead."""
        kept_for = self._kept_for(run.demand)
        is_first = kept_for is None and not self._reservations and not self._holds.has_line
        self._holds.no_place(run, kept_for=kept_for, waits_for=self._waits_for if is_first else None)

    def _waits_for(self, run: Waiting) -> tuple[str, ...]:
        """Asked by whoever reads it, once the plan is made: finding a place takes longer than all the rest."""
        ends = {other.run_id: self._end(other, run) for other in self._running}
        place = first_place(self._free.fleet, run.demand, self._running, ends, self._policy.packing)
        return tuple(other.run_id for other in place.waits_for) if place else ()

    def _kept_for(self, demand: Demand) -> str | None:
        """The run whose promise keeps out a run that would otherwise fit."""
        if not self._reservations or self._free.fits_nowhere_at_all(demand):
            return None
        return self._reservations[0].run_id

    def _reserve(self, run: Waiting) -> None:
        """For the oldest run that waited too long: stops others, if allowed; otherwise lets it wait for its place."""
        if self._policy.preemption is not None and self._preempt(run, aged=True, hold=False):
            self._reserved_aged = run.run_id
            return
        running = [other for other in self._running if other.run_id not in self._stopped]
        ends = {other.run_id: self._end(other, run) for other in running}
        promised = self._promised.get(run.run_id)
        nodes = {node for node, _ in promised.devices} if promised else set()
        place = first_place(self._free.fleet, run.demand, running, ends, self._policy.packing, nodes)
        if place is None:  # other runs may continue meanwhile
            self._holds.no_healthy_place(run)
            return
        self._reserved_aged = run.run_id
        if self._now < fills_from(run, self._policy):
            self._free.may_be_filled = False
        latest = place.latest if place.latest >= self._now else None
        waits_for = tuple(other.run_id for other in place.waits_for)
        self._keep(run, place.placement, latest)
        # Resources that free up there belong to this run: no run is stopped there for another one.
        spans = run.demand.gang == "any" and run.demand.num_gpus > 1
        self._draining = set(self._free.fleet.nodes) if spans else set(place.placement.nodes)
        self._holds.reserved(run, place.placement, waits_for, latest)

    def _preempt(self, run: Waiting, *, aged: bool, hold: bool = True) -> bool:
        """Stops other runs if that makes it fit; its place is kept until they are gone."""
        found = None
        ending: list[Running] = []
        key = (run.demand, run.priority, run.stage, aged)
        # By priority alone, and for a stage's floor, it does not matter when a run came. What fills a promised place
        # may be stopped by whom it is promised to, whenever that one came.
        since = -math.inf if aged and needs_promise(run, self._policy, self._now) else run.submitted if aged else 0.0
        if since < self._not_helped.get(key, math.inf) and self._tries < _PREEMPTION_TRIES_MAX:
            stoppable = self._stoppable_for(run, aged=aged, is_promised=since == -math.inf)
            ending = [other for other in self._ending if self._draining.isdisjoint(other.placement.nodes)]
            if stoppable or ending:
                self._tries += 1
                found = fewest_stopped(self._free.unpromised, run, ending, stoppable, self._policy, self._now)
            if found is None and since > -math.inf and not (aged and run.num_preemptions):
                self._not_helped[key] = since
        if found is None:
            if hold:
                self._hold(run)
            return False
        victims, placement = found
        self._preempted_for = run.run_id
        for victim in victims:
            self._stopped.add(victim.run_id)
            self._preemptions.append(self._holds.preemption(victim, run))
        self._keep(run, placement, self._now)
        # Its place will be complete in a moment: a run put there now would be stopped at once.
        self._free.may_be_filled = False
        leaving = (*victims, *(other for other in ending if placement and _meet(other, placement)))
        self._holds.stopping(run, placement, tuple(other.run_id for other in leaving))
        return True

    def _stoppable_for(self, run: Waiting, *, aged: bool, is_promised: bool) -> list[Running]:
        assert self._policy.preemption is not None
        if not self._stages.has_limits and run.priority <= self._lowest_priority:
            # Long queues are of runs for which nobody may be stopped.
            if not aged:
                return []
            if not is_promised and self._overtook_at <= overtaken_since(run, self._policy.preemption):
                return []
        return [
            other
            for other in self._stoppable
            if other.run_id not in self._stopped
            and self._draining.isdisjoint(other.placement.nodes)
            and (may_stop(other, run, self._policy, self._now) or self._stages.lends(other, run))
        ]

    def _keep(self, run: Waiting, placement: Placement, latest: float | None) -> None:
        self._open()
        kept = self._free.keep(run.run_id, run.demand, placement)
        reserved = _reservation(run, placement, latest)
        self._reservations.append(reserved)
        if self._models:
            # So that the place is empty by the time when it is complete.
            free = [share for share in kept.gpus if (share.node, share.device) in reserved.devices]
            self._evictions += self._models.to_empty(run, free)
        self._stages.keep(run, gpu_milli(kept))

    def _end(self, other: Running, run: Waiting) -> float:
        """The estimated time when a place returns. A run that is ending, or may be stopped by then, counts as gone."""
        if other.ending or may_stop(other, run, self._policy, self._now):
            return 0.0
        return other.started + other.expected_seconds

    def _look_again_at(self, left_out: Collection[str]) -> float | None:
        age = self._line.next_age(self._admissions.keys() | left_out)
        times = self._lapses if age is None else [age, *self._lapses]
        if self._holds:
            times += self._stages.changes()
            if self._policy.preemption is not None:
                times += [
                    earliest_stop(other, self._policy.preemption)
                    for other in self._snapshot.running
                    if may_be_stopped(other, self._policy)
                ]
        return min((time for time in times if time > self._now), default=None)


def gpu_milli(placement: Placement) -> int:
    return sum(share.milli for share in placement.gpus)


def _reservation(run: Waiting, placement: Placement, latest: float | None) -> Reservation:
    devices = frozenset((share.node, share.device) for share in placement.gpus)
    return Reservation(run_id=run.run_id, devices=devices, latest=latest)


def _meet(run: Running, placement: Placement) -> bool:
    devices = Counter((share.node, share.device) for share in placement.gpus)
    return any(devices[share.node, share.device] for share in run.placement.gpus)
