"""How long the queue would keep a run waiting if the same work were served in order of submission.

That is the measure of too long: a run that has waited so long without having started was overtaken too often. It
follows from the queue's own backlog, so it is right for runs of minutes and of days, on four GPUs and on a thousand.

By *pool*: the GPUs that some run may use. A run's wait is the longest of those pools that have all of its GPUs,
counting in each only the runs that can use nothing else. In a pool it is the longer of two:

- how old the *head* of such a queue would be: how far back in time one must go until the runs that came since then are
  as much work as waits now. The longest counts, so far as it is not forgotten: 1 s every 100 s. It must not follow the
  queue down, or runs that have waited too long would be patient again.
- what the *last* of such a queue would wait when the run came: the work that waited, over the pool's GPUs, but no less
  than a run takes in the mean, so that priorities and shares count for a while where the backlog is small.

A run has waited too long from the first moment when it has waited its share of that, and stays so, however long the
waits become. And that moment comes, under any load: the head is no older than the first run that is known.

Gangs that find no node whole, CPUs and memory beside the GPUs, limits of Dagster's or of stages: none of these is known
here. What waits for such limits alone counts as no backlog.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from headrace.placement.arrivals import Arrivals, Asked, Work
from headrace.placement.demand import WHOLE
from headrace.placement.gpu_pools import GpuPools, is_within
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.run_times import RunTimes, StatedTimes
from headrace.placement.short_runs import SHARE, short_below
from headrace.placement.snapshot import PlannedRun, Running, Snapshot, Waiting
from headrace.placement.stage_ledger import asked_milli
from headrace.placement.turnover import Turnover, turnover

# A wait is forgotten within so many times its length.
_FORGOTTEN_AFTER = 100.0
# Only a wait that is longer by so much is noted, so that few points tell it, and fit into one row of a database.
_LONGER = 1.02
# What a newcomer would wait is noted where it has changed by so much.
_OTHER = 1.25
_POINTS_MAX = 500

_Run = TypeVar("_Run", Waiting, Running)


@dataclass(frozen=True, kw_only=True)
class StatedWaits:
    """What must outlive a restart, by pool: since when the head's longest wait was how long, and the last's.

    And below how many seconds a run is short.
    """

    heads: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    lasts: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    short_below: dict[str, float] = field(default_factory=dict)
    run_times: StatedTimes = field(default_factory=StatedTimes)


class FifoWaits:
    """One queue's waits, measured look by look."""

    def __init__(self, stated: StatedWaits = StatedWaits()) -> None:
        """`stated`: what `stated` of a predecessor gave; what it does not tell is measured anew."""
        self._times = RunTimes(stated.run_times)
        self._heads = {name: _Longest(points) for name, points in stated.heads.items()}
        self._lasts = {name: _Lately(points) for name, points in stated.lasts.items()}
        self._short_below = dict(stated.short_below)
        self._pools = GpuPools()
        self._numbers: dict[str, int] = {}
        self._arrivals = Arrivals(self._times, self._asked)
        self._known_since: float | None = None
        self._looked_at = 0.0
        # As they were at the last look; and what was told of each since it came, or since the wait became longer.
        self._waiting: tuple[Waiting, ...] = ()
        self._told: list[Waiting] = []
        self._until: list[float] = []  # when each will have waited too long
        self._oldest = math.inf
        self._running: dict[str, tuple[Running, Running]] = {}
        self.num_raised = 0

    def stated(self) -> StatedWaits:
        """For a successor: after a restart, runs go by age when they were told that they would."""
        heads, lasts = (
            {name: tuple(one.points) for name, one in known.items()} for known in (self._heads, self._lasts)
        )
        return StatedWaits(
            heads=heads, lasts=lasts, short_below=dict(self._short_below), run_times=self._times.stated()
        )

    def look(self, snapshot: Snapshot, policy: QueuePolicy, now: float) -> Snapshot:
        """Takes a snapshot in, and returns it with each run's `fifo_wait_seconds`, and which of them are short."""
        if self._known_since is None:
            self._known_since = self._looked_at = now
        self._pools.refresh(snapshot.inventory, snapshot.ever_seen or snapshot.inventory)
        changes = turnover(self._waiting, snapshot.waiting)
        self._arrivals.note(snapshot.running, changes.gone, changes.came, now)
        num_raised = self.num_raised
        self._measure(snapshot, policy, now, has_newcomers=bool(changes.came))
        if self.num_raised != num_raised:
            # Longer waits come from the last look on; who had waited too long by then, has.
            self._tell_longer(policy)
        told = self._tell(changes.came, policy)
        self._told = changes.carried(self._told, [run for run, _ in told])
        self._until = changes.carried(self._until, [until for _, until in told])
        self._note_oldest(snapshot.waiting, changes)
        self._waiting = snapshot.waiting
        running = self._running_told(snapshot.running, policy)
        self._looked_at = now
        self._forget(now)
        return replace(snapshot, waiting=tuple(self._told), running=running)

    def _tell_longer(self, policy: QueuePolicy) -> None:
        places = [place for place, until in enumerate(self._until) if until > self._looked_at]
        for place, (run, until) in zip(
            places, self._tell([self._told[place] for place in places], policy), strict=True
        ):
            self._told[place], self._until[place] = run, until

    def _note_oldest(self, waiting: Sequence[Waiting], changes: Turnover[Waiting]) -> None:
        if any(run.submitted <= self._oldest for run in changes.gone):
            self._oldest = min([run.submitted for run in waiting], default=math.inf)
        else:
            self._oldest = min([self._oldest, *(run.submitted for run in changes.came)])

    def _running_told(self, running: Sequence[Running], policy: QueuePolicy) -> tuple[Running, ...]:
        """Of those that may be stopped alone: others are never asked whether they had waited too long."""
        new = [run for run in running if run.preemptible and not self._is_told(run)]
        told = {run.run_id: (run, run_told) for run, (run_told, _) in zip(new, self._tell(new, policy), strict=True)}
        self._running = {
            run.run_id: told.get(run.run_id) or self._running[run.run_id] for run in running if run.preemptible
        }
        return tuple([self._running[run.run_id][1] if run.preemptible else run for run in running])

    def _is_told(self, run: Running) -> bool:
        known = self._running.get(run.run_id)
        return known is not None and known[0] is run

    def _asked(self, run: PlannedRun) -> Asked | None:
        name = self._pools.name(run.demand)
        if name is None:
            return None
        return Asked(self._numbers.setdefault(name, len(self._numbers)), self._pools.amount(run.demand))

    def _measure(self, snapshot: Snapshot, policy: QueuePolicy, now: float, *, has_newcomers: bool) -> None:
        if not snapshot.waiting:
            return
        work = self._arrivals.work(now, _held_by_limits(snapshot, policy, now))
        for name in self._numbers:
            inside = [number for other, number in self._numbers.items() if is_within(other, name)]
            part = work if len(inside) == len(self._numbers) else work.of(np.isin(work.pool, inside))
            capacity = self._pools.capacity(name)
            if not capacity or not len(part.at):
                continue
            head, last = self._wait(part, capacity, now)
            self.num_raised += self._heads.setdefault(name, _Longest(())).raise_to(head, self._looked_at, now)
            self._lasts.setdefault(name, _Lately(())).note(last, self._looked_at)
            if has_newcomers and policy.order == "shortest_first":
                self._short_below[name] = short_below(part, self._short_share(name))

    def _short_share(self, name: str) -> float:
        """So small that they do not crowd the smallest pool that they can use, either."""
        capacities = [self._pools.capacity(other) for other in self._numbers if is_within(other, name)]
        smallest, all_of_it = min(capacity for capacity in capacities if capacity), self._pools.capacity(name)
        return SHARE if smallest == all_of_it else SHARE * smallest / all_of_it

    def _wait(self, work: Work, capacity: float, now: float) -> tuple[float, float]:
        """Of the head, and of the last."""
        backlog = float(work.waiting.sum())
        newest_first = work.total[::-1].cumsum()
        mean = float(newest_first[-1]) / float(work.amount.sum() or 1.0)
        if not backlog:
            return 0.0, mean
        # As sums of the same numbers in another order, both are a little off.
        back = min(int(newest_first.searchsorted(backlog * (1 - 1e-9))), len(newest_first) - 1)
        # Of what came before the first look, only what was left then is known.
        assert self._known_since is not None
        head = max(float(work.at[len(newest_first) - 1 - back]), self._known_since)
        return now - head, max(backlog / capacity, mean)

    def _forget(self, now: float) -> None:
        oldest = self._oldest if self._waiting else now
        for longest in (*self._heads.values(), *self._lasts.values()):
            longest.drop_before(oldest)
        self._arrivals.drop_before(now - 2 * max((head.at(now) for head in self._heads.values()), default=0.0))

    def _tell(self, runs: Sequence[_Run], policy: QueuePolicy) -> list[tuple[_Run, float]]:
        """Each run with its wait, and when it will have waited too long."""
        alike: defaultdict[tuple[str | None, float], list[int]] = defaultdict(list)
        for place, run in enumerate(runs):
            alike[self._pools.name(run.demand), policy.patience_of(run.demand)].append(place)
        told: dict[int, tuple[_Run, float]] = {}
        for (name, share), places in alike.items():
            since = np.array([_waits_since(runs[place]) for place in places])
            seconds = self._seconds(name, share, since, np.array([_came(runs[place]) for place in places]))
            until = since + share * seconds
            below = 0.0 if name is None else self._short_below.get(name, 0.0)
            for place, its_seconds, its_until in zip(places, seconds.tolist(), until.tolist(), strict=True):
                run = runs[place]
                is_short = run.is_short or run.expected_seconds < below
                if run.fifo_wait_seconds != its_seconds or run.is_short != is_short:
                    run = run.told(its_seconds, is_short=is_short)
                told[place] = run, its_until
        return [told[place] for place in range(len(runs))]

    def _seconds(self, name: str | None, share: float, since: np.ndarray, came: np.ndarray) -> np.ndarray:
        """Waits of runs of one pool, of which each waits since then, and came then."""
        found = np.zeros(len(since))
        if name is None:
            return found
        for pool, head in self._heads.items():
            if is_within(name, pool):
                found = np.maximum(found, (head.waited_out(since, share) - since) / share)
        for pool, last in self._lasts.items():
            if is_within(name, pool):
                found = np.maximum(found, last.at(came))
        return found


def _came(run: Waiting | Running) -> float:
    return run.submitted if isinstance(run, Waiting) else run.started - run.waited_seconds


def _waits_since(run: Waiting | Running) -> float:
    """As if all the time that it ran had been before."""
    return run.submitted + run.ran_seconds if isinstance(run, Waiting) else run.started - run.waited_seconds


class _Points:
    """A number of seconds over time, in points, each of which holds from its moment on, until the next."""

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        self.points = list(points)
        self._table: np.ndarray | None = None

    @property
    def table(self) -> np.ndarray:
        """The points as columns: moments, and seconds."""
        if self._table is None:
            self._table = np.array(self.points, dtype=float).reshape(-1, 2).T
        return self._table

    def places(self, moments: np.ndarray) -> np.ndarray:
        """Of the points that hold just before; the first, where none is so old."""
        return np.maximum(self.table[0].searchsorted(moments) - 1, 0)

    def add(self, since: float, seconds: float) -> None:
        self.points.append((since, round(seconds, 1)))
        self._table = None

    def drop_before(self, moment: float) -> None:
        """Keeps what tells the number at `moment` and later."""
        while len(self.points) > 1 and (self.points[1][0] < moment or len(self.points) > _POINTS_MAX):
            del self.points[0]
            self._table = None


class _Lately(_Points):
    """As it is: what a newcomer meets."""

    def at(self, moments: np.ndarray) -> np.ndarray:
        return self.table[1][self.places(moments)] if self.points else np.zeros(len(moments))

    def note(self, seconds: float, since: float) -> None:
        """`since`: the last look."""
        known = self.points[-1][1] if self.points else 0.0
        if seconds > _OTHER * known or known > _OTHER * seconds:
            self.add(since, seconds)


class _Longest(_Points):
    """The longest wait, which is forgotten slowly."""

    def at(self, moment: float) -> float:
        found = bisect_left(self.points, (moment,))
        if not self.points:
            return 0.0
        since, seconds = self.points[max(0, found - 1)]
        return max(0.0, seconds - max(0.0, moment - since) / _FORGOTTEN_AFTER)

    def waited_out(self, since: np.ndarray, share: float) -> np.ndarray:
        """The first moments when who waits since then has waited that share of the longest wait."""
        if not self.points:
            return since
        first = self.places(since)
        begins, seconds = self.table[:, int(first.min()) :]
        first = (first - first.min())[:, None]
        numbers = np.arange(len(begins))
        # The longest wait falls meanwhile: moment - since = share * (seconds - (moment - begin) / FORGOTTEN).
        solved = (since[:, None] + share * (seconds + begins / _FORGOTTEN_AFTER)) / (1 + share / _FORGOTTEN_AFTER)
        moments = np.maximum(solved, np.where(numbers == first, since[:, None], begins))
        holds = (moments <= np.append(begins[1:], np.inf)) & (numbers >= first)
        return moments[np.arange(len(since)), holds.argmax(axis=1)]

    def raise_to(self, seconds: float, since: float, now: float) -> bool:
        """`since`: the last look; who came after it waits so long already."""
        if seconds <= _LONGER * self.at(now):
            return False
        self.add(since, seconds)
        return True


def _held_by_limits(snapshot: Snapshot, policy: QueuePolicy, now: float) -> list[str]:
    """Waiting runs that GPUs would not help: Dagster's limits hold them, or their stage is at its ceiling."""
    found = list(snapshot.blocked)
    if not policy.stages.rules:
        return found
    limits = policy.stages.limits(now, snapshot.inventory.num_gpus)
    held = dict.fromkeys(limits, 0)
    for run in snapshot.running:
        if run.stage in held:
            held[run.stage] += asked_milli(run.demand)
    for run in snapshot.waiting:
        limit = limits.get(run.stage)
        if limit and limit.ceiling is not None and held[run.stage] + asked_milli(run.demand) > limit.ceiling * WHOLE:
            found.append(run.run_id)
    return found
