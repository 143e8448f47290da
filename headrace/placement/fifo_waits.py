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

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from headrace.placement.arrivals import Arrivals, Asked, Work
from headrace.placement.demand import WHOLE
from headrace.placement.gpu_pools import GpuPools, is_within
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.run_times import RunTimes, StatedTimes
from headrace.placement.snapshot import PlannedRun, Running, Snapshot, Waiting
from headrace.placement.stage_ledger import asked_milli

# A wait is forgotten within so many times its length.
_FORGOTTEN_AFTER = 100.0
# Only a wait that is longer by so much is noted, so that few points tell it, and fit into one row of a database.
_LONGER = 1.02
# What a newcomer would wait is noted where it has changed by so much.
_OTHER = 1.25
_POINTS_MAX = 500


@dataclass(frozen=True, kw_only=True)
class StatedWaits:
    """What must outlive a restart, by pool: since when the head's longest wait was how long, and the last's."""

    heads: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    lasts: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    run_times: StatedTimes = field(default_factory=StatedTimes)


class FifoWaits:
    """One queue's waits, measured look by look."""

    def __init__(self, stated: StatedWaits = StatedWaits()) -> None:
        """`stated`: what `stated` of a predecessor gave; what it does not tell is measured anew."""
        self._times = RunTimes(stated.run_times)
        self._heads = {name: _Longest(points) for name, points in stated.heads.items()}
        self._lasts = {name: _Lately(points) for name, points in stated.lasts.items()}
        self._pools = GpuPools()
        self._numbers: dict[str, int] = {}
        self._arrivals = Arrivals(self._times, self._asked)
        self._known_since: float | None = None
        self._looked_at = 0.0
        self._filled: dict[str, _Filled] = {}
        self.num_raised = 0

    def stated(self) -> StatedWaits:
        """For a successor: after a restart, runs go by age when they were told that they would."""
        heads, lasts = (
            {name: tuple(one.points) for name, one in known.items()} for known in (self._heads, self._lasts)
        )
        return StatedWaits(heads=heads, lasts=lasts, run_times=self._times.stated())

    def look(self, snapshot: Snapshot, policy: QueuePolicy, now: float) -> Snapshot:
        """Takes a snapshot in, and returns it with each run's `fifo_wait_seconds`."""
        if self._known_since is None:
            self._known_since = self._looked_at = now
        self._pools.refresh(snapshot.inventory, snapshot.ever_seen or snapshot.inventory)
        self._arrivals.note(snapshot, now)
        self._measure(snapshot, policy, now)
        filled: dict[str, _Filled] = {}
        waiting = tuple([self._with_wait(run, policy, filled) for run in snapshot.waiting])
        # Others are never asked whether they had waited too long.
        running = tuple([self._with_wait(run, policy, filled) if run.preemptible else run for run in snapshot.running])
        self._filled = filled
        self._looked_at = now
        self._forget(snapshot, now)
        return replace(snapshot, waiting=waiting, running=running)

    def _asked(self, run: PlannedRun) -> Asked | None:
        name = self._pools.name(run.demand)
        if name is None:
            return None
        return Asked(self._numbers.setdefault(name, len(self._numbers)), self._pools.amount(run.demand))

    def _measure(self, snapshot: Snapshot, policy: QueuePolicy, now: float) -> None:
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

    def _forget(self, snapshot: Snapshot, now: float) -> None:
        oldest = min([run.submitted for run in snapshot.waiting], default=now)
        for longest in (*self._heads.values(), *self._lasts.values()):
            longest.drop_before(oldest)
        self._arrivals.drop_before(now - 2 * max((head.at(now) for head in self._heads.values()), default=0.0))

    def _with_wait(self, run: Any, policy: QueuePolicy, filled: "dict[str, _Filled]") -> Any:
        known = self._filled.get(run.run_id)
        # Longer waits come from the last look on; who had waited too long by then, has.
        if (
            known is not None
            and known.run is run
            and (known.num_raised == self.num_raised or known.until <= self._looked_at or isinstance(run, Running))
        ):
            filled[run.run_id] = known
            return known.filled
        share = policy.patience_of(run.demand)
        seconds = self._seconds(run, share)
        if known is not None and known.run is run and known.filled.fifo_wait_seconds == seconds:
            told = known.filled
        else:
            told = replace(run, fifo_wait_seconds=seconds)
        filled[run.run_id] = _Filled(run, told, self.num_raised, _waits_since(run) + share * seconds)
        return told

    def _seconds(self, run: Waiting | Running, share: float) -> float:
        name = self._pools.name(run.demand)
        if name is None:
            return 0.0
        came = run.submitted if isinstance(run, Waiting) else run.started - run.waited_seconds
        since = _waits_since(run)
        found = [0.0]
        for pool, head in self._heads.items():
            if is_within(name, pool):
                found.append((head.waited_out(since, share) - since) / share)
        found += [last.at(came) for pool, last in self._lasts.items() if is_within(name, pool)]
        return max(found)


class _Filled(NamedTuple):
    """A run as it was given and as it is told, after how many longer waits, and until when it is not too late."""

    run: Any
    filled: Any
    num_raised: int
    until: float


def _waits_since(run: Waiting | Running) -> float:
    """As if all the time that it ran had been before."""
    return run.submitted + run.ran_seconds if isinstance(run, Waiting) else run.started - run.waited_seconds


class _Points:
    """A number of seconds over time, in points, each of which holds from its moment on, until the next."""

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        self.points = list(points)

    def before(self, moment: float) -> tuple[float, float] | None:
        """The point that holds just before; the first, if none is so old."""
        found = bisect_left(self.points, (moment,))
        return self.points[max(0, found - 1)] if self.points else None

    def drop_before(self, moment: float) -> None:
        """Keeps what tells the number at `moment` and later."""
        while len(self.points) > 1 and (self.points[1][0] < moment or len(self.points) > _POINTS_MAX):
            del self.points[0]


class _Lately(_Points):
    """As it is: what a newcomer meets."""

    def at(self, moment: float) -> float:
        point = self.before(moment)
        return point[1] if point else 0.0

    def note(self, seconds: float, since: float) -> None:
        """`since`: the last look."""
        known = self.points[-1][1] if self.points else 0.0
        if seconds > _OTHER * known or known > _OTHER * seconds:
            self.points.append((since, round(seconds, 1)))


class _Longest(_Points):
    """The longest wait, which is forgotten slowly."""

    def at(self, moment: float) -> float:
        point = self.before(moment)
        if point is None:
            return 0.0
        since, seconds = point
        return max(0.0, seconds - max(0.0, moment - since) / _FORGOTTEN_AFTER)

    def waited_out(self, since: float, share: float) -> float:
        """The first moment when who waits since then has waited that share of the longest wait."""
        first = max(0, bisect_left(self.points, (since,)) - 1)
        moment = since
        for number in range(first, len(self.points)):
            begin, seconds = self.points[number]
            # The longest wait falls meanwhile: moment - since = share * (seconds - (moment - begin) / FORGOTTEN).
            solved = (since + share * (seconds + begin / _FORGOTTEN_AFTER)) / (1 + share / _FORGOTTEN_AFTER)
            moment = max(solved, since if number == first else begin)
            if number + 1 < len(self.points) and moment <= self.points[number + 1][0]:
                return moment
        return moment

    def raise_to(self, seconds: float, since: float, now: float) -> bool:
        """`since`: the last look; who came after it waits so long already."""
        if seconds <= _LONGER * self.at(now):
            return False
        self.points.append((since, round(seconds, 1)))
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
