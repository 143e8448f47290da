"""The engine host's own table of residents, under a simulated clock: what it says is done, and takes its time."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from benchmarks.residency.image_trace import Job
from benchmarks.residency.outcome import Done, Figures, figures_of
from headrace.engines.host.residents import Residents
from headrace.engines.host.rules import Rules
from headrace.engines.host.steps import Load, Refuse, Sleep, Start, Step, Stop, Wake
from headrace.engines.host.work import Ticket

# As the host looks at its table while somebody waits.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What is brought: a model, or a part of one. Seconds, MiB."""

    seconds: float
    mib: int
    is_part: bool = False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a job asks of the table."""

    key: str
    parts: tuple[str, ...] = ()
    told_seconds: float | None = None


class Simulated:
    """Workers, each a place of its own that does one request at a time and brings one thing at a time."""

    def __init__(
        self,
        *,
        num_workers: int,
        worker_mib: int,
        brought: Mapping[str, Brought],
        asked: Callable[[Job], Asked],
        has_ended: Callable[[Job], None] = lambda job: None,
        rules: Rules | None = None,
    ) -> None:
        self._now = 0.0
        places = [f"worker {number}" for number in range(num_workers)]
        self.table = Residents(lambda: self._now, dict.fromkeys(places, worker_mib), idle_seconds=1e9, rules=rules)
        for key, one in brought.items():
            self.table.know(key, places=places, label=key, guess_mib=one.mib)
        self._brought, self._asked, self._has_ended = brought, asked, has_ended
        self._jobs: dict[Ticket, Job] = {}
        self._happens: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._loads_until = dict.fromkeys(places, 0.0)
        self._done: list[Done] = []
        self._num_brought = 0
        self._num_waiting = 0

    def replayed(self, jobs: Sequence[Job]) -> Figures:
        for job in jobs:
            self._at(job.arrives, self._arrives, job)
        look_at = 0.0
        while self._happens or self._num_waiting:
            if self._num_waiting and (not self._happens or self._happens[0][0] > look_at + _LOOK_SECONDS):
                self._now = look_at = max(self._now, look_at) + _LOOK_SECONDS
            else:
                self._now, _, happens = heapq.heappop(self._happens)
                look_at = self._now
                happens()
            self._step()
        return figures_of(self._done, self._num_brought)

    def _at(self, time: float, happens: Callable[..., None], *what: object) -> None:
        heapq.heappush(self._happens, (time, next(self._numbers), lambda: happens(*what)))

    def _arrives(self, job: Job) -> None:
        asked = self._asked(job)
        ticket = self.table.enter(asked.key, seconds=asked.told_seconds, parts=asked.parts)
        self._jobs[ticket] = job
        self._num_waiting += 1

    def _ends(self, ticket: Ticket, job: Job, begun: float) -> None:
        self._done.append(Done(job=job, begun=begun, ended=self._now))
        self.table.leave(ticket, is_answered=True)
        self._has_ended(job)

    def _step(self) -> None:
        while steps := self.table.next_steps():
            for step in steps:
                self._do(step)

    def _do(self, step: Step) -> None:
        match step:
            case Load(key=key, place=place):
                seconds = self._brought[key].seconds
                self.table.measured(key, place, self._brought[key].mib)
                self._num_brought += 1
                ends = max(self._now, self._loads_until[place]) + seconds
                self._loads_until[place] = ends
                num_at_once = None if self._brought[key].is_part else 1
                self._at(ends, lambda: self.table.loaded(key, place, seconds=seconds, num_at_once=num_at_once))
            case Stop(key=key, place=place):
                self.table.gone(key, place)
            case Start(ticket=ticket):
                job = self._jobs.pop(ticket)
                self._num_waiting -= 1
                self._at(self._now + job.seconds, self._ends, ticket, job, self._now)
            case Refuse(error=error):
                raise error
            case Sleep() | Wake():
                raise AssertionError("no model here can sleep")
