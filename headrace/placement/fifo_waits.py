"""How long the queue would keep a run waiting if the same work were served in order of submission.

That is the measure of too long: a run that has waited so long without having started was overtaken too often. It follows
from the queue's own backlog, so it is right for runs of minutes and of days, on four GPUs and on a thousand.

By *pool*: the GPUs that some run may use. A run's wait is the longest of those pools that have all of its GPUs, counting
in each only the runs that can use nothing else. In a pool it is the largest of

- how old the head of the queue would be: how far back in time one must go until the runs that came since then are as
  much work as waits now;
- what the last in the queue would wait: the work that waits, over the pool's GPUs;
- what a run takes, in the mean: with a small backlog, priorities and shares should still count for a while.

The longest ever holds, and loses 1 s every 20 s: it must not follow the queue down, or runs that have waited too long
would be patient again. What counts for a run is what held when it came, so that the time when it goes by age stands from
the first moment. Nothing else would bound its wait: under a growing load, a patience that grew too would never end.

Gangs that find no node whole, CPUs and memory beside the GPUs, limits of Dagster's or of stages: none of these is known
here. What waits for such limits alone counts as no backlog.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headrace.placement.arrivals import Arrivals, Asked, Work
from headrace.placement.demand import WHOLE
from headrace.placement.gpu_pools import GpuPools, is_within
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.run_times import RunTimes, StatedTimes
from headrace.placement.snapshot import PlannedRun, Running, Snapshot, Waiting
from headrace.placement.stage_ledger import asked_milli

# A wait is forgotten within so many times its length.
_FORGOTTEN_AFTER = 20.0
# Only a wait that is longer by so much is noted, so that few points tell it, and fit into one row of a database.
_LONGER = 1.02
_POINTS_MAX = 500


@dataclass(frozen=True, kw_only=True)
class StatedWaits:
    """What must outlive a restart. `pools`: by name, since when the longest wait was how many seconds."""

    pools: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    run_times: StatedTimes = field(default_factory=StatedTimes)


class FifoWaits:
    """One queue's waits, measured look by look."""

    def __init__(self, stated: StatedWaits = StatedWaits()) -> None:
        """`stated`: what `stated` of a predecessor gave; what it does not tell is measured anew."""
        self._times = RunTimes(stated.run_times)
        self._longest = {name: _Longest(points) for name, points in stated.pools.items()}
        self._pools = GpuPools()
        self._numbers: dict[str, int] = {}
        self._arrivals = Arrivals(self._times, self._asked)
        self._known_since: float | None = None
        self._looked_at = 0.0
        self._filled: dict[str, tuple[Any, Any]] = {}
        self.num_raised = 0

    def stated(self) -> StatedWaits:
        """For a successor: after a restart, runs go by age when they were told that they would."""
        pools = {name: tuple(longest.points) for name, longest in self._longest.items()}
        return StatedWaits(pools=pools, run_times=self._times.stated())

    def look(self, snapshot: Snapshot, policy: QueuePolicy, now: float) -> Snapshot:
        """Takes a snapshot in, and returns it with each run's `fifo_wait_seconds`."""
        if self._known_since is None:
            self._known_since = self._looked_at = now
        self._pools.refresh(snapshot.inventory, snapshot.ever_seen or snapshot.inventory)
        self._arrivals.note(snapshot, now)
        self._measure(snapshot, policy, now)
        self._looked_at = now
        self._forget(snapshot, now)
        filled: dict[str, tuple[Any, Any]] = {}
        waiting = tuple([self._with_wait(run, filled) for run in snapshot.waiting])
        # Others are never asked whether they had waited too long.
        running = tuple([self._with_wait(run, filled) if run.preemptible else run for run in snapshot.running])
        self._filled = filled
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
            longest = self._longest.setdefault(name, _Longest(()))
            self.num_raised += longest.raise_to(self._wait(part, capacity, now), self._looked_at, now)

    def _wait(self, work: Work, capacity: float, now: float) -> float:
        backlog = float(work.waiting.sum())
        if not backlog:
            return 0.0
        newest_first = work.total[::-1].cumsum()
        # As sums of the same numbers in another order, both are a little off.
        back = min(int(newest_first.searchsorted(backlog * (1 - 1e-9))), len(newest_first) - 1)
        # Of what came before the first look, only what was left then is known.
        assert self._known_since is not None
        head = max(float(work.at[len(newest_first) - 1 - back]), self._known_since)
        mean = float(newest_first[-1]) / float(work.amount.sum() or 1.0)
        return max(now - head, backlog / capacity, mean)

    def _forget(self, snapshot: Snapshot, now: float) -> None:
        oldest = min((run.submitted for run in snapshot.waiting), default=now)
        for longest in self._longest.values():
            longest.drop_before(oldest)
        self._arrivals.drop_before(now - 2 * max((one.at(now) for one in self._longest.values()), default=0.0))

    def _with_wait(self, run: Any, filled: dict[str, tuple[Any, Any]]) -> Any:
        known = self._filled.get(run.run_id)
        if known is None or known[0] is not run:
            known = (run, replace(run, fifo_wait_seconds=self._seconds(run)))
        filled[run.run_id] = known
        return known[1]

    def _seconds(self, run: Waiting | Running) -> float:
        name = self._pools.name(run.demand)
        came = run.submitted if isinstance(run, Waiting) else run.started - run.waited_seconds
        if name is None:
            return 0.0
        return max((one.at(came) for other, one in self._longest.items() if is_within(name, other)), default=0.0)


class _Longest:
    """A pool's longest wait over time: points, each of which holds from its moment on, until the next."""

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        self.points = list(points)

    def at(self, moment: float) -> float:
        for since, seconds in reversed(self.points):
            if since < moment:
                return max(0.0, seconds - (moment - since) / _FORGOTTEN_AFTER)
        return self.points[0][1] if self.points else 0.0

    def raise_to(self, seconds: float, since: float, now: float) -> bool:
        """`since`: the last look; who came after it waits so long already."""
        if seconds <= _LONGER * self.at(now):
            return False
        self.points.append((since, round(seconds, 1)))
        return True

    def drop_before(self, moment: float) -> None:
        """Keeps what tells the wait at `moment` and later."""
        while len(self.points) > 1 and (self.points[1][0] < moment or len(self.points) > _POINTS_MAX):
            del self.points[0]


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
