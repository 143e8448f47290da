"""Collects the reasons of holds while a plan is made; a sentence is written when somebody asks for it.

A queue of thousands is decided on several times a minute, and people read of the first hundred.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from headrace.placement import explain
from headrace.placement.fleet import Fleet
from headrace.placement.forecast import expected_starts
from headrace.placement.line import KIND, RUN, Entry
from headrace.placement.model_places import Sooner
from headrace.placement.ordering import Shares, goes_by_age_at, has_aged
from headrace.placement.placements import Placement
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.snapshot import Eviction, Hold, Preemption, Running, Snapshot, Waiting

_Sentence = Callable[[explain.FreeBlocks], str]
_Found = Callable[[Waiting], tuple[str, ...]]


class _Held(NamedTuple):
    """`why`: complete, or to be completed by what is free, or None: what it lacks.

    `waits_for`: known, or to be found.
    """

    run: Waiting
    why: str | _Sentence | None
    waits_for: tuple[str, ...] | _Found = ()
    latest: float | None = None
    in_line: bool = True  # it waits for a place: those before it are ahead of it
    shows_line: bool = False


class _HeldAlike(NamedTuple):
    """Runs that lack a place as others of their kinds did, and for which run what is free is kept, by kind."""

    entries: Sequence[Entry]
    kept_for: Mapping[int, str | None]


class HoldWriter:
    def __init__(self, snapshot: Snapshot, policy: QueuePolicy, now: float) -> None:
        self._snapshot, self._policy, self._now = snapshot, policy, now
        self._held: list[_Held | _HeldAlike] = []
        self.has_line = False  # a run waits for a place already

    def __bool__(self) -> bool:
        return bool(self._held)

    def blocked(self, run: Waiting, reason: str) -> None:
        self._held.append(_Held(run, reason, in_line=False))

    def no_slot(self, run: Waiting) -> None:
        self._held.append(_Held(run, explain.no_slot(len(self._snapshot.running)), shows_line=True))

    def staged(self, run: Waiting, reason: str) -> None:
        self._held.append(_Held(run, reason, in_line=False))

    def no_place(self, run: Waiting, *, kept_for: str | None, waits_for: _Found | None = None) -> None:
        self.has_line = True
        self._held.append(_Held(run, _why_kept(kept_for), waits_for or (), shows_line=True))

    def alike(self, entries: Sequence[Entry], kept_for: Mapping[int, str | None]) -> None:
        """As `no_place` for each, after the first in line; for long queues.

        Args: kept_for: by the kind's number.
        """
        self._held.append(_HeldAlike(entries, kept_for))

    def sooner(self, run: Waiting, sooner: Sooner, models: Sequence[str]) -> None:
        text = explain.waits_for_model(sooner.device, sooner.here, models, sooner.seconds)
        there = tuple(
            other.run_id
            for other in self._snapshot.running
            if any((share.node, share.device) == sooner.device for share in other.placement.gpus)
        )
        latest = sooner.free_at if sooner.free_at > self._now else None
        self._held.append(_Held(run, text, there, latest, in_line=False))

    def emptied(self, run: Waiting, leaving: Sequence[Eviction]) -> None:
        self._held.append(_Held(run, explain.being_emptied(leaving), in_line=False))

    def no_healthy_place(self, run: Waiting) -> None:
        self._held.append(_Held(run, lambda blocks: f"{blocks.lack(run.demand)} {explain.WAITS_FOR_REPAIR}"))

    def reserved(self, run: Waiting, placement: Placement, waits_for: tuple[str, ...], latest: float | None) -> None:
        text = explain.reserved(_devices(placement), waits_for, latest, self._now)
        self._held.append(_Held(run, lambda blocks: f"{blocks.lack(run.demand)} {text}", waits_for, latest))

    def stopping(self, run: Waiting, placement: Placement, leaving: tuple[str, ...]) -> None:
        text = explain.reserved(_devices(placement), (), None, self._now)
        if leaving:
            text += f" {explain.leaving(leaving)}"
        self._held.append(_Held(run, lambda blocks: f"{blocks.lack(run.demand)} {text}", leaving, self._now))

    def preemption(self, victim: Running, run: Waiting) -> Preemption:
        return Preemption(
            run_id=victim.run_id,
            for_run_id=run.run_id,
            sentence=explain.stopped_for(run, aged=has_aged(run, self._policy, self._now)),
        )

    def holds(self, fleet: Fleet, shares: Shares) -> "Holds":
        """Nothing may be held, and neither `fleet` nor `shares` may change, from now on."""
        return Holds(self._held, self._snapshot, self._policy, self._now, fleet, shares)


class Holds(Mapping[str, Hold]):
    """The holds by run, in the order of the queue; each is made when it is read."""

    def __init__(
        self,
        held: Sequence[_Held | _HeldAlike],
        snapshot: Snapshot,
        policy: QueuePolicy,
        now: float,
        fleet: Fleet,
        shares: Shares,
    ) -> None:
        self._noted, self._snapshot, self._policy, self._now = held, snapshot, policy, now
        self._fleet, self._shares = fleet, shares
        self._made: dict[str, Hold] = {}

    def __getitem__(self, run_id: str) -> Hold:
        found = self._made.get(run_id)
        if found is None:
            found = self._made[run_id] = self._hold(self._places[run_id])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return sum(len(held.entries) if isinstance(held, _HeldAlike) else 1 for held in self._noted)

    def __repr__(self) -> str:
        return repr(dict(self))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {held.run.run_id: place for place, held in enumerate(self._held)}

    @cached_property
    def _held(self) -> list[_Held]:
        found: list[_Held] = []
        for held in self._noted:
            if isinstance(held, _Held):
                found.append(held)
                continue
            found += [
                _Held(entry[RUN], _why_kept(held.kept_for[entry[KIND]]), shows_line=True) for entry in held.entries
            ]
        return found

    @cached_property
    def _line(self) -> list[int]:
        """The places of those that stand in line."""
        return [place for place, held in enumerate(self._held) if held.in_line]

    @cached_property
    def _queues(self) -> dict[str, int]:
        """The queues that stand in line, each with its first place."""
        firsts: dict[str, int] = {}
        for place in self._line:
            firsts.setdefault(self._held[place].run.queue, place)
        return firsts

    @cached_property
    def _blocks(self) -> explain.FreeBlocks:
        return explain.FreeBlocks(self._fleet)

    @cached_property
    def _starts(self) -> dict[str, float]:
        return expected_starts(self._snapshot, [self._held[place].run for place in self._line], self._now)

    def _hold(self, place: int) -> Hold:
        held = self._held[place]
        run = held.run
        waits_for = held.waits_for if isinstance(held.waits_for, tuple) else held.waits_for(run)
        if held.why is None:
            why = f"{self._blocks.lack(run.demand)} {explain.ends_the_wait(waits_for)}".rstrip()
        else:
            why = held.why if isinstance(held.why, str) else held.why(self._blocks)
        parts = [why, *(self._of_line(run, place) if held.shows_line else ())]
        return Hold(
            run_id=run.run_id,
            sentence=" ".join(part for part in parts if part),
            waits_for=waits_for,
            latest=held.latest if held.latest is not None else self._starts.get(run.run_id),
        )

    def _of_line(self, run: Waiting, place: int) -> list[str]:
        """What is told of those ahead, and of its age."""
        parts = []
        others = [queue for queue, first in self._queues.items() if first < place and queue != run.queue]
        aged = has_aged(run, self._policy, self._now)
        weight = self._policy.weight(run.queue)
        for other in others if not aged else []:
            if self._shares.of(run.queue) / weight > self._shares.of(other) / self._policy.weight(other):
                weights = weight + sum(self._policy.weight(queue) for queue in others)
                held = self._shares.gpu_milli(run.queue)
                num_gpus = self._snapshot.inventory.num_gpus
                parts.append(explain.over_share(run.queue, held, num_gpus, weight, weights, other))
                break
        num_ahead = bisect_left(self._line, place)
        first = [self._held[place].run.run_id for place in self._line[: min(num_ahead, explain.SHOWN_MAX)]]
        parts.append(explain.ahead_text(first, num_ahead))
        if not aged:
            parts.append(explain.goes_first(goes_by_age_at(run, self._policy), self._now))
        return parts


def _why_kept(kept_for: str | None) -> str | None:
    return None if kept_for is None else explain.kept_for_older(kept_for)


def _devices(placement: Placement) -> list[tuple[str, str]]:
    return [(share.node, share.device) for share in placement.gpus]
