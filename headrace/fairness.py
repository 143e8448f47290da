"""In which order work goes that waits for the same: by class, and among a class's tenants by fair turns. Pure.

**Classes.** `live`: somebody waits for the answer. `flex`: it fills what live work leaves over. `batch`: it fills what
both leave over. The most urgent class goes first, but never for good: work of another class that has stood back for
some times what it takes goes next, so each class below another has its share of a place under any load.

**Tenants.** Start-time fair queueing (Goyal, Vin, Cheng 1996). Virtual time counts work, divided by the weight of its
tenant. Work of one tenant starts when that tenant's earlier work ends, or now, if that is later; now is the highest
start among what has begun. Who asks for much delays nobody who asks for little, and who had nothing to do saves nothing
up. Work of several tenants starts with the latest of theirs, so that nobody goes early because they share it.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, Literal, Protocol, TypeVar, get_args

WorkClass = Literal["live", "flex", "batch"]
# The most urgent first.
CLASSES: tuple[WorkClass, ...] = get_args(WorkClass)
# Whose work is that nobody named a tenant for, and what a turn of it costs.
NOBODY: Mapping[str, float] = {"": 1.0}
# With more tenants, those whose work ended are looked for.
_NUM_ENDS_MAX = 100


class FairClock:
    """The virtual time of one line. Used from one thread."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        # Twice as many as the last look left: each look is paid for by as many new tenants.
        self._num_ends_max = _NUM_ENDS_MAX
        # Of lines of which work begins one by one: the highest start of what has begun; and the start of the next piece
        # of those who wait, by who shares it.
        self._now = 0.0
        self._next: dict[tuple[str, ...], float] = {}

    def resume(self, past: Iterable[tuple[float, Mapping[str, float]]]) -> None:
        """Takes up starts and costs of earlier work, oldest first, as this clock or another gave them."""
        for start, costs in past:
            self._add(costs, start)

    def start(self, tenants: Iterable[str], now: float) -> float:
        """When work of these tenants would start."""
        return max((max(now, self._ends.get(tenant, now)) for tenant in tenants), default=now)

    def turn(self, costs: Mapping[str, float], now: float) -> float:
        """The start of a piece of work, which is put into the line for good.

        Args: costs: tenant → how much of it is theirs, divided by their weight.
        """
        self._forget(now)
        start = self.start(costs, now)
        self._add(costs, start)
        return start

    def next_start(self, sharers: tuple[str, ...]) -> float:
        """Of the next piece of work that these tenants have in a line. It stays, whatever others ask for meanwhile, or
        who shares work would wait forever for those who have some of their own."""
        if sharers not in self._next:
            self._next[sharers] = self.start(sharers, self._now)
        return self._next[sharers]

    def nothing_waits(self, sharers: tuple[str, ...]) -> None:
        """Who had nothing to do begins now, when there is something."""
        self._next.pop(sharers, None)

    def begun(self, sharers: tuple[str, ...], costs: Mapping[str, float]) -> None:
        """The next piece of these tenants has begun. Args: costs: as of `turn`."""
        start = self.next_start(sharers)
        del self._next[sharers]
        self._now = max(self._now, start)
        self._add(costs, start)
        self._forget(self._now)

    def _forget(self, now: float) -> None:
        """Whose work ended before now starts now, as does who was never here."""
        if len(self._ends) > self._num_ends_max:
            self._ends = {tenant: end for tenant, end in self._ends.items() if end > now}
            self._num_ends_max = max(_NUM_ENDS_MAX, 2 * len(self._ends))

    def _add(self, costs: Mapping[str, float], start: float) -> None:
        for tenant, cost in costs.items():
            self._ends[tenant] = max(self._ends.get(tenant, 0.0), start) + cost


class Waiter(Hashable, Protocol):
    """What waits. `number`: in the order of coming. `costs`: as of `FairClock.turn`."""

    number: int
    costs: Mapping[str, float]


T = TypeVar("T", bound=Waiter)


class Line(Generic[T]):
    """What waits, in order of its coming."""

    def __init__(self) -> None:
        self._by_age: dict[T, None] = {}

    def __len__(self) -> int:
        return len(self._by_age)

    def __contains__(self, one: T) -> bool:
        return one in self._by_age

    def __iter__(self) -> Iterator[T]:
        return iter(self._by_age)

    def __reversed__(self) -> Iterator[T]:
        return reversed(self._by_age)

    @property
    def oldest(self) -> T | None:
        return next(iter(self._by_age), None)

    def add(self, one: T) -> None:
        """One that had left keeps its age: its place is by its number."""
        newest = next(reversed(self._by_age), None)
        self._by_age[one] = None
        if newest is not None and newest.number > one.number:
            self._by_age = dict.fromkeys(sorted(self._by_age, key=lambda other: other.number))

    def remove(self, one: T) -> None:
        del self._by_age[one]

    def first(self) -> T | None:
        """Whose turn it is."""
        return self.oldest


class FairLine(Generic[T]):
    """What waits for the same: the tenants take turns, and of one tenant's goes what its line says. What leaves without
    having begun costs its tenant nothing."""

    def __init__(self, clock: FairClock | None = None, line: Callable[[], Line[T]] = Line) -> None:
        """Args:
        clock: shared with other lines of which the same tenants are served.
        line: makes one tenant's.
        """
        self._clock, self._line = clock or FairClock(), line
        # Those who share work are a tenant of their own here.
        self._lines: dict[tuple[str, ...], Line[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __contains__(self, one: T) -> bool:
        line = self._lines.get(_sharers(one))
        return line is not None and one in line

    def __iter__(self) -> Iterator[T]:
        """All, tenant by tenant."""
        for line in self._lines.values():
            yield from line

    @property
    def oldest(self) -> T | None:
        heads = (line.oldest for line in self._lines.values())
        return min((one for one in heads if one is not None), key=lambda one: one.number, default=None)

    def add(self, one: T) -> None:
        sharers = _sharers(one)
        if sharers not in self._lines:
            self._lines[sharers] = self._line()
            self._clock.next_start(sharers)
        self._lines[sharers].add(one)

    def remove(self, one: T) -> None:
        """It waits no more: it is given up, or has begun."""
        sharers = _sharers(one)
        self._lines[sharers].remove(one)
        if not self._lines[sharers]:
            del self._lines[sharers]
            self._clock.nothing_waits(sharers)

    def begin(self, one: T) -> None:
        """It waits no more, and its tenants are charged."""
        sharers = _sharers(one)
        self._clock.begun(sharers, one.costs)
        if len(self._lines[sharers]) > 1:
            self._clock.next_start(sharers)
        self.remove(one)

    def first(self) -> T | None:
        """Whose turn it is; among equals the oldest."""
        return first_of([self])

    def heads(self) -> Iterator[tuple[tuple[str, ...], float, T]]:
        """Of each who waits, the next piece and its start."""
        for sharers, line in self._lines.items():
            if (one := line.first()) is not None:
                yield sharers, self._clock.next_start(sharers), one


def first_of(lines: Sequence[FairLine[T]]) -> T | None:
    """Whose turn it is among lines of one clock: of one tenant's work in several of them the oldest."""
    heads: dict[tuple[str, ...], tuple[float, int, T]] = {}
    for line in lines:
        for sharers, start, one in line.heads():
            if sharers not in heads or one.number < heads[sharers][1]:
                heads[sharers] = (start, one.number, one)
    return min(heads.values(), key=lambda head: head[:2])[2] if heads else None


def _sharers(one: Waiter) -> tuple[str, ...]:
    return tuple(sorted(one.costs))


class OfClass(Protocol):
    """Work as a gate between classes sees it. Times are seconds of one clock."""

    work_class: WorkClass
    entered_at: float
    expected_seconds: float


C = TypeVar("C", bound=OfClass)


class ClassTurns:
    """Which class is next at one place."""

    def __init__(self) -> None:
        # Until when the last work of a class was expected to take.
        self._until: dict[WorkClass, float] = {}

    def next(self, heads: Sequence[C], now: float, *, factor: float) -> C | None:
        """The most urgent of them, unless another has stood back for `factor` times what it takes: then the one that
        has for most times of that.

        Args: heads: the next piece of each class that has one.
        """
        by_urgency = sorted(heads, key=lambda one: CLASSES.index(one.work_class))
        due = [one for one in by_urgency[1:] if self._stood_back(one, now) >= factor * one.expected_seconds]
        if due:
            return max(due, key=lambda one: self._stood_back(one, now) / max(one.expected_seconds, 1e-9))
        return next(iter(by_urgency), None)

    def begun(self, one: OfClass, now: float) -> None:
        self._until[one.work_class] = now + one.expected_seconds

    def _stood_back(self, one: OfClass, now: float) -> float:
        return now - max(one.entered_at, self._until.get(one.work_class, one.entered_at))
