"""The policies that we are held against, written as their users know them."""

from collections.abc import Iterable, Mapping

from benchmarks.queueing.simulation import Active, Choice, Queued
from headrace.placement.demand import Demand
from headrace.placement.fleet import Fleet
from headrace.placement.packing import best_placement
from headrace.placement.placements import Placement


class Fifo:
    """In order of arrival; whoever does not fit stops everybody behind it."""

    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice:
        twin, starts = fleet.copy(), {}
        for name, queued in queue.items():
            placement = best_placement(twin, queued.job.demand)
            if placement is None:
                break
            twin.take(name, placement)
            starts[name] = placement
        return Choice(starts=starts)


class BestEffort:
    """In order of arrival; whoever does not fit is passed over."""

    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice:
        twin, starts = fleet.copy(), {}
        no_fit: set[Demand] = set()
        for name in self._order(queue):
            demand = queue[name].job.demand
            if demand in no_fit:
                continue
            placement = best_placement(twin, demand)
            if placement is None:
                no_fit.add(demand)
                continue
            twin.take(name, placement)
            starts[name] = placement
        return Choice(starts=starts)

    def _order(self, queue: Mapping[str, Queued]) -> Iterable[str]:
        return queue


class Shortest(BestEffort):
    """Shortest estimate first; whoever does not fit is passed over."""

    def _order(self, queue: Mapping[str, Queued]) -> Iterable[str]:
        return _shortest_first(queue, queue)


class Easy:
    """EASY back-filling (Lifka 1995): the first that does not fit starts when estimates say that it can.

    Others pass it if they end before that by their own estimate, or use what it will not need.
    """

    def choose(self, now: float, fleet: Fleet, queue: Mapping[str, Queued], active: Mapping[str, Active]) -> Choice:
        twin = fleet.copy()
        starts: dict[str, Placement] = {}
        waiting = list(queue)
        while waiting:
            placement = best_placement(twin, queue[waiting[0]].job.demand)
            if placement is None:
                break
            twin.take(waiting[0], placement)
            starts[waiting.pop(0)] = placement
        if len(waiting) > 1:
            self._back_fill(now, twin, waiting, queue, active, starts)
        return Choice(starts=starts)

    def _back_fill(
        self,
        now: float,
        twin: Fleet,
        waiting: list[str],
        queue: Mapping[str, Queued],
        active: Mapping[str, Active],
        starts: dict[str, Placement],
    ) -> None:
        ends = [(max(now, run.started + run.job.estimate_seconds), name) for name, run in active.items()]
        ends += [(now + queue[name].job.estimate_seconds, name) for name in starts]
        later, shadow, place = twin.copy(), now, None
        for end, name in sorted(ends):
            later.release(name)
            place, shadow = best_placement(later, queue[waiting[0]].job.demand), end
            if place is not None:
                break
        if place is None:
            return
        # What is left beside the first one when it starts.
        later.take(waiting[0], place)
        no_fit: set[Demand] = set()
        for name in self._order(waiting[1:], queue):
            job = queue[name].job
            placement = None if job.demand in no_fit else best_placement(twin, job.demand)
            if placement is None:
                no_fit.add(job.demand)
                continue
            if now + job.estimate_seconds > shadow:
                if not _is_free(later, placement):
                    continue
                later.take(name, placement)
            twin.take(name, placement)
            starts[name] = placement

    def _order(self, names: list[str], queue: Mapping[str, Queued]) -> list[str]:
        """In which the others are tried."""
        return names


class EasyShortest(Easy):
    """EASY, the others shortest estimate first (SJBF, Tsafrir et al. 2007)."""

    def _order(self, names: list[str], queue: Mapping[str, Queued]) -> list[str]:
        return _shortest_first(names, queue)


def _shortest_first(names: Iterable[str], queue: Mapping[str, Queued]) -> list[str]:
    return sorted(names, key=lambda name: (queue[name].job.estimate_seconds, queue[name].job.arrival))


def _is_free(fleet: Fleet, placement: Placement) -> bool:
    return all(fleet.free_milli(share.node, share.device) >= share.milli for share in placement.gpus)
