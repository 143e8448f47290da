"""Turns that wait for a replica: which is next, by class and by the fair turns of its tenants. Pure."""

from collections.abc import Iterator

from headrace.engines.dispatch.replica import Ticket
from headrace.fairness import CLASSES, ClassTurns, FairLine, WorkClass

# A turn that stood back for so many times what it takes goes before more urgent ones, so that each class below another
# gets at least a tenth.
_STAND_BACK_FACTOR = 9.0


class Held:
    def __init__(self) -> None:
        self._lines: dict[WorkClass, FairLine[Ticket]] = {one: FairLine() for one in CLASSES}
        self._turns = ClassTurns()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Ticket]:
        for line in self._lines.values():
            yield from line

    def add(self, ticket: Ticket) -> None:
        """One that was sent before keeps its age."""
        self._lines[ticket.work_class].add(ticket)

    def remove(self, ticket: Ticket) -> None:
        """It is given up, and costs its tenant nothing."""
        self._lines[ticket.work_class].remove(ticket)

    def first(self, now: float) -> Ticket | None:
        """Whose turn it is."""
        heads = [head for line in self._lines.values() if (head := line.first()) is not None]
        return self._turns.next(heads, now, factor=_STAND_BACK_FACTOR)

    def last(self) -> Ticket:
        """The youngest of the least urgent: who would wait for longest."""
        line = next(line for work_class in reversed(CLASSES) if (line := self._lines[work_class]))
        return max(line)

    def sent(self, ticket: Ticket, now: float) -> None:
        """A replica has it; its tenant is charged."""
        self._lines[ticket.work_class].begin(ticket)
        self._turns.begun(ticket, now)
