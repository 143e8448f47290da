"""Work that waits for a model: which piece is next at a copy, and how long it is expected to take. Pure.

Tenants of a class take fair turns (`headrace.fairness`). Of one tenant's work the oldest goes first. Where callers tell
how long their work takes, shorter work passes longer, which lowers everybody's mean wait; but only what came within a
few times the difference: who asks for much waits in proportion, and nobody forever.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from headrace import fairness
from headrace.fairness import CLASSES, NOBODY, FairClock, FairLine, WorkClass, first_of


class Kind(IntEnum):
    """Of work. `PART`: it keeps a part in its place for other work, which has begun to gather its parts."""

    PART = 0
    LIVE = 1
    FLEX = 2
    BATCH = 3


CLASS_KINDS = (Kind.LIVE, Kind.FLEX, Kind.BATCH)
_KINDS: Mapping[WorkClass, Kind] = dict(zip(CLASSES, CLASS_KINDS, strict=True))


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
    work_class: WorkClass = "batch"
    # Turns that it is made of; of a batch that its copy takes in several goes, as many as it takes at once.
    size: int = 1
    # Tenant → all of its turns that are theirs, divided by their weight.
    costs: Mapping[str, float] = field(default_factory=lambda: NOBODY)
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
        return _KINDS[self.work_class]

    @property
    def is_live(self) -> bool:
        return self.work_class == "live"


class Line(fairness.Line[Ticket]):
    """One tenant's tickets that wait for the same, in order of their coming, or as long as they are told to take."""

    def __init__(self) -> None:
        super().__init__()
        # Those whose seconds were told, among them some that wait no more.
        self._by_turn: list[tuple[float, int, Ticket]] = []

    def add(self, one: Ticket) -> None:
        super().add(one)
        if one.told_seconds is not None:
            heapq.heappush(self._by_turn, (one.turn_at, one.number, one))

    def first(self) -> Ticket | None:
        """Whose turn it is; the oldest's if nobody told how long it takes."""
        oldest = self.oldest
        if oldest is None or oldest.told_seconds is None:
            return oldest
        while self._by_turn[0][2] not in self:
            heapq.heappop(self._by_turn)
        return self._by_turn[0][2]


class Waiting:
    """All that waits for one model: for any of its places, or for one. Tenants take turns within a class."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str | None, Kind], FairLine[Ticket]] = {}
        self._clocks = {kind: FairClock() for kind in Kind}
        self._num = 0
        # Expected seconds times turns, of all work that may be done anywhere.
        self.open_turn_seconds = 0.0

    def __len__(self) -> int:
        return self._num

    def __contains__(self, ticket: Ticket) -> bool:
        line = self._lines.get((ticket.only_at, ticket.kind))
        return line is not None and ticket in line

    def add(self, ticket: Ticket) -> None:
        at = (ticket.only_at, ticket.kind)
        if at not in self._lines:
            self._lines[at] = FairLine(self._clocks[ticket.kind], Line)
        self._lines[at].add(ticket)
        self._num += 1
        if ticket.only_at is None:
            self.open_turn_seconds += ticket.expected_seconds * ticket.size

    def remove(self, ticket: Ticket, *, has_begun: bool) -> None:
        """Args: has_begun: its tenants are charged; one that is given up costs them nothing."""
        line = self._lines[ticket.only_at, ticket.kind]
        if has_begun:
            line.begin(ticket)
        else:
            line.remove(ticket)
        self._num -= 1
        if ticket.only_at is None:
            # Sums of many floats drift; where nobody waits, there is none.
            left = self.open_turn_seconds - ticket.expected_seconds * ticket.size
            self.open_turn_seconds = max(0.0, left) if self._num else 0.0

    def oldest(self) -> list[Ticket]:
        """Of each line that somebody is in, who has waited longest."""
        return [oldest for line in self._lines.values() if (oldest := line.oldest) is not None]

    def beside(self, ticket: Ticket) -> list[Ticket]:
        """All that wait for the same, itself among them."""
        return list(self._lines[ticket.only_at, ticket.kind])

    def num_of(self, work_class: WorkClass) -> int:
        """How much of one class waits, for any place or one."""
        return sum(len(line) for (_, kind), line in self._lines.items() if kind is _KINDS[work_class])

    def targets(self) -> list[str | None]:
        """Places that somebody waits for; None among them: any."""
        return list(dict.fromkeys(place for (place, _), line in self._lines.items() if line))

    def first_for(self, place: str, kind: Kind) -> Ticket | None:
        """What a copy at this place would do next of one kind."""
        return first_of([line for only_at in (None, place) if (line := self._lines.get((only_at, kind)))])


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
