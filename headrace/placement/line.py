"""The order in which waiting runs are considered: aged runs first, then by priority, fair share and length.

Kept from plan to plan: of thousands that wait, few came, left or grew too old since the last one, and only these are
put in their places anew. It knows nothing but the runs, so a new one gives the same order.
"""

import math
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

from headrace.placement.demand import Demand
from headrace.placement.ordering import Shares, goes_by_age_at
from headrace.placement.preemption import may_be_stopped, needs_promise_from, overtaken_since
from headrace.placement.queue_policy import QueuePolicy
from headrace.placement.snapshot import Waiting
from headrace.placement.turnover import turnover

_One = TypeVar("_One")
_Next = TypeVar("_Next", covariant=True)

# Where more than this part of the queue is another, everything is sorted anew.
_MUCH = 0.25


class Kind(NamedTuple):
    """What makes runs alike for a plan: if there is no place for one, there is none for the next."""

    demand: Demand
    stage: str
    priority: int
    may_be_stopped: bool


# A run in its place: what it is sorted by, then its id, by which two always differ, the run, its kind's number, and two
# moments that are asked for too often to be computed each time: since when it needs a promise once it has waited too
# long, and who started when overtook it. A flat tuple, since tuples of numbers are compared fastest.
Entry = tuple[Any, ...]
ID, RUN, KIND, NEEDS_PROMISE_FROM, OVERTAKEN_SINCE = -5, -4, -3, -2, -1


class Served(Protocol[_Next]):
    """The runs of one queue."""

    def __len__(self) -> int: ...

    def pop(self) -> _Next:
        """The one that is next."""
        ...


class Line:
    def __init__(self) -> None:
        self._policy: QueuePolicy | None = None
        self._now = -math.inf
        self._waiting: tuple[Waiting, ...] = ()
        self._aged: list[Entry] = []
        self._young: list[Entry] = []  # by when they will go by age
        self._classes: defaultdict[int, defaultdict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        # Of these, the ones that are let past the aged ones.
        self._short: defaultdict[int, defaultdict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        self._numbers: dict[Kind, int] = {}
        self._counts: Counter[int] = Counter()
        self._num_young: Counter[int] = Counter()
        self._num_kinds = 0  # ever

    def advance(self, waiting: tuple[Waiting, ...], policy: QueuePolicy, now: float) -> None:
        """Takes in who waits now. `waiting` may be in any order."""
        changes = turnover(self._waiting, waiting)
        gone, came = changes.gone, changes.came
        if policy is not self._policy or now < self._now or len(gone) + len(came) > _MUCH * len(waiting):
            self._policy, self._now, self._waiting = policy, now, waiting
            self._fill(waiting, policy, now)
            return
        self._waiting = waiting
        for run in gone:
            self._remove(run, policy)
        for run in came:
            self._insert(run, policy)
        self._now = now
        while self._young and self._young[0][0] <= now:
            entry = self._young.pop(0)
            self._leave_classes(entry[RUN], entry[KIND], policy)
            insort(self._aged, entry)

    @property
    def kinds(self) -> Collection[Kind]:
        return self._numbers.keys()

    @property
    def young_kinds(self) -> list[tuple[int, Kind]]:
        """Of those that have not waited too long, each with its number."""
        return [(number, kind) for kind, number in self._numbers.items() if number in self._num_young]

    def aged(self, promised: Collection[str] = ()) -> list[Entry]:
        """Those that have waited too long, in the order in which they are served.

        Args:
            promised: whoever has a place already is served first, so that nobody takes it who was held back by
                something else until now.
        """
        first = [entry for entry in self._aged if entry[ID] in promised] if promised else []
        return [*first, *(entry for entry in self._aged if entry[ID] not in promised)] if first else self._aged

    def young(self, shares: Shares) -> Iterator[Entry]:
        """The others, run after run; reads `shares` again for each, so that an admission affects the next choice."""
        return chain.from_iterable(
            self._of_priority(self._classes[priority], shares) for priority in sorted(self._classes, reverse=True)
        )

    def short(self, shares: Shares) -> Iterator[Entry]:
        """Those of them that are let past the aged ones, if nobody young of a higher priority waits."""
        highest = max((priority for priority, queues in self._classes.items() if any(queues.values())), default=0)
        return iter(self._of_priority(self._short[highest], shares))

    def _of_priority(self, classes: dict[str, list[Entry]], shares: Shares) -> Iterable[Entry]:
        queues = {queue: entries for queue, entries in classes.items() if entries}
        if len(queues) == 1:
            return next(iter(queues.values()))
        # The next of a list is popped from the end.
        return self._in_turn({queue: entries[::-1] for queue, entries in queues.items()}, shares)

    def young_served_by(
        self, served: "Callable[[list[Waiting]], Served[Waiting]]", shares: Shares, but: Collection[str]
    ) -> Iterator[Waiting]:
        """The others in an order of its own for each queue, in which who is next is asked for anew each time.

        Args:
            served: of a queue's runs in their order.
            but: runs that are left out.
        """
        for priority in sorted(self._classes, reverse=True):
            queues = {
                queue: [entry[RUN] for entry in entries if entry[ID] not in but]
                for queue, entries in self._classes[priority].items()
            }
            yield from self._in_turn({queue: served(runs) for queue, runs in queues.items() if runs}, shares)

    def _in_turn(self, queues: "dict[str, Served[_One]]", shares: Shares) -> Iterator[_One]:
        """From the queue with the smallest share for its weight, each time."""
        assert self._policy is not None
        weights = {queue: self._policy.weight(queue) for queue in queues}
        while queues:
            name = min(queues, key=lambda queue: (shares.of(queue) / weights[queue], queue))
            yield queues[name].pop()
            if not len(queues[name]):
                del queues[name]

    def next_age(self, but: Collection[str]) -> float | None:
        """When the first of the young ones will go by age, without those; None: there is none."""
        return next((entry[0] for entry in self._young if entry[ID] not in but), None)

    def _fill(self, waiting: tuple[Waiting, ...], policy: QueuePolicy, now: float) -> None:
        self._aged, self._young = [], []
        for kept in (self._classes, self._short, self._numbers, self._counts, self._num_young):
            kept.clear()
        alike: dict[tuple[Any, ...], int] = {}
        for run in waiting:
            # One object a demand, mostly: looking up what is the same saves half of the time.
            same = (id(run.demand), run.stage, run.priority, run.preemptible, run.num_preemptions)
            kind = alike.get(same)
            if kind is None:
                kind = alike[same] = self._number_of(run, policy)
            self._counts[kind] += 1
            rest = _rest(run, kind, policy)
            entry = (*_by_age(run, policy), *rest)
            if entry[0] <= now:
                self._aged.append(entry)
            else:
                self._young.append(entry)
                self._num_young[kind] += 1
                by_turn = (*_by_turn(run, policy), *rest)
                for entries in self._classes_of(run):
                    entries.append(by_turn)
        self._aged.sort()
        self._young.sort()
        for queues in (*self._classes.values(), *self._short.values()):
            for entries in queues.values():
                entries.sort()

    def _insert(self, run: Waiting, policy: QueuePolicy) -> None:
        kind = self._number_of(run, policy)
        self._counts[kind] += 1
        rest = _rest(run, kind, policy)
        entry = (*_by_age(run, policy), *rest)
        if entry[0] <= self._now:
            insort(self._aged, entry)
            return
        insort(self._young, entry)
        for entries in self._classes_of(run):
            insort(entries, (*_by_turn(run, policy), *rest))
        self._num_young[kind] += 1

    def _remove(self, run: Waiting, policy: QueuePolicy) -> None:
        kind = _kind_of(run, policy)
        number = self._numbers[kind]
        age = _by_age(run, policy)
        if age[0] <= self._now:
            _take_out(self._aged, age)
        else:
            _take_out(self._young, age)
            self._leave_classes(run, number, policy)
        self._counts[number] -= 1
        if not self._counts[number]:
            del self._counts[number], self._numbers[kind]

    def _leave_classes(self, run: Waiting, kind: int, policy: QueuePolicy) -> None:
        for entries in self._classes_of(run):
            _take_out(entries, _by_turn(run, policy))
        self._num_young[kind] -= 1
        if not self._num_young[kind]:
            del self._num_young[kind]

    def _number_of(self, run: Waiting, policy: QueuePolicy) -> int:
        kind = _kind_of(run, policy)
        if kind not in self._numbers:
            self._num_kinds += 1
            self._numbers[kind] = self._num_kinds
        return self._numbers[kind]

    def _classes_of(self, run: Waiting) -> tuple[list[Entry], ...]:
        young = self._classes[run.priority][run.queue]
        return (young, self._short[run.priority][run.queue]) if run.is_short else (young,)


def _take_out(entries: list[Entry], sorted_by: tuple[Any, ...]) -> None:
    del entries[bisect_left(entries, sorted_by)]


def _by_age(run: Waiting, policy: QueuePolicy) -> tuple[Any, ...]:
    return goes_by_age_at(run, policy), run.num_preemptions, run.submitted, run.run_id


def _by_turn(run: Waiting, policy: QueuePolicy) -> tuple[Any, ...]:
    if policy.order == "shortest_first":
        return run.expected_seconds, run.submitted, run.run_id
    return run.submitted, run.run_id


def _rest(run: Waiting, kind: int, policy: QueuePolicy) -> tuple[Any, ...]:
    """Of an entry, behind the id."""
    overtaken = overtaken_since(run, policy.preemption) if policy.preemption else run.submitted
    return run, kind, needs_promise_from(run, policy), overtaken


def _kind_of(run: Waiting, policy: QueuePolicy) -> Kind:
    return Kind(run.demand, run.stage, run.priority, may_be_stopped(run, policy))
