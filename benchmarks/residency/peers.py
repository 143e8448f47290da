"""Other policies, on workers that each hold one checkpoint and bring another for `switch_seconds`.

- jsq: at once to the worker with the fewest requests.
- least_work: at once to the worker whose requests, of known length, and switches end first.
- ray_multiplex: Ray Serve's `MultiplexMixin` over its power of two choices, at its default of five requests a replica
  at a time. Two replicas are drawn of those that hold the model, else of those with the fewest models; the one with
  fewer requests gets it, unless both are full: then two of all that are not full are drawn.
- ray_multiplex_1: the same with one request a replica, the others waiting at the router.
- central_affinity_16: one queue. A free worker's checkpoint is looked for among the 16 oldest; else the oldest goes
  first, to the worker that has been free longest.

Requests wait in their worker's line in order of arrival. Ties are drawn.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.residency.image_trace import Job
from benchmarks.residency.outcome import Done, Figures, figures_of

_NUM_LOOKED_AT = 16
_NUM_AT_ONCE_IN_RAY = 5


@dataclass(eq=False)
class Worker:
    """`held`: the checkpoint that is there once its line has been worked off."""

    number: int
    held: str = ""
    free_at: float = 0.0
    ends: deque[float] = field(default_factory=deque)

    def num_requests(self, now: float) -> int:
        while self.ends and self.ends[0] <= now:
            self.ends.popleft()
        return len(self.ends)


class Fleet:
    """Workers with a line each; who has got a request works it off."""

    def __init__(self, num_workers: int, switch_seconds: float, draw: random.Random) -> None:
        self.workers = [Worker(number) for number in range(num_workers)]
        self.draw = draw
        self._switch_seconds = switch_seconds
        self._done: list[Done] = []
        self._num_brought = 0

    def give(self, job: Job, worker: Worker, now: float) -> float:
        """When it will have ended."""
        begun = max(now, worker.free_at)
        if worker.held != job.checkpoint:
            begun += self._switch_seconds
            self._num_brought += 1
        worker.held, worker.free_at = job.checkpoint, begun + job.seconds
        worker.ends.append(worker.free_at)
        self._done.append(Done(job=job, begun=begun, ended=worker.free_at))
        return worker.free_at

    def drawn_least(self, rank: Callable[[Worker], float]) -> Worker:
        ranks = [rank(worker) for worker in self.workers]
        least = min(ranks)
        return self.draw.choice([worker for worker, one in zip(self.workers, ranks, strict=True) if one == least])

    def figures(self) -> Figures:
        return figures_of(self._done, self._num_brought)


def jsq(jobs: Sequence[Job], fleet: Fleet) -> Figures:
    for job in jobs:
        fleet.give(job, fleet.drawn_least(lambda worker, now=job.arrives: worker.num_requests(now)), job.arrives)
    return fleet.figures()


def least_work(jobs: Sequence[Job], fleet: Fleet) -> Figures:
    for job in jobs:
        fleet.give(job, fleet.drawn_least(lambda worker, now=job.arrives: max(now, worker.free_at)), job.arrives)
    return fleet.figures()


def ray_multiplex(jobs: Sequence[Job], fleet: Fleet) -> Figures:
    return _ray(jobs, fleet, _NUM_AT_ONCE_IN_RAY)


def ray_multiplex_1(jobs: Sequence[Job], fleet: Fleet) -> Figures:
    return _ray(jobs, fleet, 1)


def central_affinity_16(jobs: Sequence[Job], fleet: Fleet) -> Figures:
    waiting: deque[Job] = deque()
    # The one that has been free longest in front.
    free = deque(fleet.workers)

    def begin(now: float) -> list[tuple[float, Worker]]:
        begun: list[tuple[float, Worker]] = []
        while free and waiting:
            holders: dict[str, Worker] = {}
            for worker in free:
                holders.setdefault(worker.held, worker)
            oldest = [waiting[at] for at in range(min(_NUM_LOOKED_AT, len(waiting)))]
            job = next((one for one in oldest if one.checkpoint in holders), oldest[0])
            worker = holders.get(job.checkpoint, free[0])
            waiting.remove(job)
            free.remove(worker)
            begun.append((fleet.give(job, worker, now), worker))
        return begun

    _as_it_happens(jobs, arrives=lambda job: waiting.append(job), is_free=free.append, begin=begin)
    return fleet.figures()


PEERS: dict[str, Callable[[Sequence[Job], Fleet], Figures]] = {
    "jsq": jsq,
    "least_work": least_work,
    "ray_multiplex": ray_multiplex,
    "ray_multiplex_1": ray_multiplex_1,
    "central_affinity_16": central_affinity_16,
}


def _ray(jobs: Sequence[Job], fleet: Fleet, num_at_once: int) -> Figures:
    # At the router, since all replicas are full.
    waiting: deque[Job] = deque()

    def begin(now: float) -> list[tuple[float, Worker]]:
        begun: list[tuple[float, Worker]] = []
        while waiting:
            holders = [worker for worker in fleet.workers if worker.held == waiting[0].checkpoint]
            # Without a holder, replicas with the fewest models: those that have none yet, else all.
            few = [worker for worker in fleet.workers if not worker.held] or fleet.workers
            has_room = [worker for worker in fleet.workers if worker.num_requests(now) < num_at_once]
            worker = drawn(holders or few, now) or drawn(has_room, now)
            if worker is None:
                break
            begun.append((fleet.give(waiting.popleft(), worker, now), worker))
        return begun

    def drawn(workers: Sequence[Worker], now: float) -> Worker | None:
        two = fleet.draw.sample(workers, min(2, len(workers)))
        least = min(two, key=lambda worker: worker.num_requests(now), default=None)
        return least if least and least.num_requests(now) < num_at_once else None

    _as_it_happens(jobs, arrives=waiting.append, is_free=lambda worker: None, begin=begin)
    return fleet.figures()


def _as_it_happens(
    jobs: Sequence[Job],
    *,
    arrives: Callable[[Job], None],
    is_free: Callable[[Worker], None],
    begin: Callable[[float], list[tuple[float, Worker]]],
) -> None:
    """Args: begin: what begins at this time; each with its end, and its worker."""
    ends: list[tuple[float, int, Worker]] = []
    coming = deque(jobs)
    while coming or ends:
        if not ends or (coming and coming[0].arrives < ends[0][0]):
            job = coming.popleft()
            now = job.arrives
            arrives(job)
        else:
            now, _, worker = heapq.heappop(ends)
            is_free(worker)
        for end, worker in begin(now):
            heapq.heappush(ends, (end, worker.number, worker))
