"""Work that waits for a model: which piece is next at a copy, and how long it is expected to take. Pure.

Among equals the oldest goes first. Where callers tell how long their work takes, shorter work passes longer, which
lowers everybody's mean wait; but only what came within a few times the difference: who asks for much waits in
proportion, and nobody forever.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """Of work. `PART`: it keeps a part in its place for other work, which has begun to gather its parts."""

    PART = 0
    LIVE = 1
    BULK = 2


@dataclass(eq=False, kw_only=True)
class Ticket:
    """A piece of work for one model. Times are the table's clock's."""

    key: str
    number: int
    entered_at: float
    # Seconds of work that its caller told; None: nobody did.
    told_seconds: float | None = None
    # Work of which that was told is done in this order: when it came, and some times what it takes.
    turn_at: float = 0.0
    # Told, or what work of this model took so far.
    expected_seconds: float = 1.0
    is_live: bool = False
    # Turns that it is made of; of a batch that its copy takes in several goes, as many as it takes at once.
    size: int = 1
    # The one place where it is to be done; None: wherever its model may be.
    only_at: str | None = None
    # Keys of what must be at the same place while it is at work.
    parts: tuple[str, ...] = ()
    # Where it is at work, or gathers its parts; empty: nowhere yet.
    place: str = ""
    begun_at: float = 0.0
    is_at_work: bool = False
    is_over: bool = False
    # A part is kept in its place by a ticket of its own, which belongs to the work that needs it.
    belongs_to: "Ticket | None" = None
    holds: "list[Ticket]" = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        if self.belongs_to is not None:
            return Kind.PART
        return Kind.LIVE if self.is_live else Kind.BULK


class Line:
    """Tickets that wait for the same, in order of their coming."""

    def __init__(self) -> None:
        self._by_age: dict[Ticket, None] = {}
        # Those whose seconds were told, among them some that wait no more.
        self._by_turn: list[tuple[float, int, Ticket]] = []

    def __len__(self) -> int:
        return len(self._by_age)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._by_age

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._by_age)

    @property
    def oldest(self) -> Ticket | None:
        return next(iter(self._by_age), None)

    def add(self, ticket: Ticket) -> None:
        """One that had left keeps its age: its place is by its number."""
        newest = next(reversed(self._by_age), None)
        self._by_age[ticket] = None
        if newest is not None and newest.number > ticket.number:
            self._by_age = dict.fromkeys(sorted(self._by_age, key=lambda one: one.number))
        if ticket.told_seconds is not None:
            heapq.heappush(self._by_turn, (ticket.turn_at, ticket.number, ticket))

    def remove(self, ticket: Ticket) -> None:
        del self._by_age[ticket]

    def first(self) -> Ticket | None:
        """Whose turn it is; the oldest's if nobody told how long it takes."""
        oldest = self.oldest
        if oldest is None or oldest.told_seconds is None:
            return oldest
        while self._by_turn[0][2] not in self._by_age:
            heapq.heappop(self._by_turn)
        return self._by_turn[0][2]


class Waiting:
    """All that waits for one model: for any of its places, or for one."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str | None, Kind], Line] = {}
        self._num = 0
        # Expected seconds times turns, of all work that may be done anywhere.
        self.open_turn_seconds = 0.0

    def __len__(self) -> int:
        return self._num

    def __contains__(self, ticket: Ticket) -> bool:
        line = self._lines.get((ticket.only_at, ticket.kind))
        return line is not None and ticket in line

    def add(self, ticket: Ticket) -> None:
        self._lines.setdefault((ticket.only_at, ticket.kind), Line()).add(ticket)
        self._num += 1
        if ticket.only_at is None:
            self.open_turn_seconds += ticket.expected_seconds * ticket.size

    def remove(self, ticket: Ticket) -> None:
        self._lines[ticket.only_at, ticket.kind].remove(ticket)
        self._num -= 1
        if ticket.only_at is None:
            # Sums of many floats drift; where nobody waits, there is none.
            left = self.open_turn_seconds - ticket.expected_seconds * ticket.size
            self.open_turn_seconds = max(0.0, left) if self._num else 0.0

    def lines(self) -> list[Line]:
        """Those that somebody is in."""
        return [line for line in self._lines.values() if line]

    def beside(self, ticket: Ticket) -> list[Ticket]:
        """All that wait for the same, itself among them."""
        return list(self._lines[ticket.only_at, ticket.kind])

    def targets(self) -> list[str | None]:
        """Places that somebody waits for; None among them: any."""
        return list(dict.fromkeys(place for (place, _), line in self._lines.items() if line))

    def first_for(self, place: str, kind: Kind) -> Ticket | None:
        """What a copy at this place would do next of one kind."""
        heads = [
            head for only_at in (None, place) if (line := self._lines.get((only_at, kind))) and (head := line.first())
        ]
        return min(heads, key=lambda one: one.number, default=None)


@dataclass
class WorkSeconds:
    """What pieces of work took: their mean, the latest few dozen counting most."""

    num: int = 0
    mean: float = 0.0

    # After so many a new one counts as one of so many.
    _NUM_MAX = 64
    # So many of everybody's stand beside a model's own, until it has more of its own.
    _NUM_OF_ALL = 4

    def add(self, seconds: float) -> None:
        self.num = min(self.num + 1, self._NUM_MAX)
        self.mean += (seconds - self.mean) / self.num

    def beside(self, everybody: "WorkSeconds") -> float:
        """The expected seconds of one more piece; before any was done, one second."""
        num_of_all = self._NUM_OF_ALL if everybody.num else 0
        if not self.num + num_of_all:
            return 1.0
        return (self.num * self.mean + num_of_all * everybody.mean) / (self.num + num_of_all)
