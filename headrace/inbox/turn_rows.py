"""Turn events in a gateway's log: written one behind the other, whosever they are, and deleted in blocks.

A thousand calls' events in the order of their calls would change a thousand pages a second or more, each of 4 KiB for
an event of 300 bytes, and copy them all at each checkpoint: 18 times the bytes. So rows have numbers in the order in
which they came; which of them are a call's, writer and readers know in memory, each from one look through the table.

The store has a call's events some time later, and each call's at another time. Rows go once all of their block may:
they are few pages side by side. Until then a reader also finds events that the store has; who reads a call's events
from a certain number on passes over them.
"""

import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Some five pages.
_BLOCK_ROWS = 64
# A reader forgets what it knows of so many rows that are gone, and looks anew.
_GONE_MAX = 50_000


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One turn event of a call. `epoch`: of who has the call; `sequence`: counts the call's events."""

    call: str
    epoch: int
    sequence: int
    event: str


class TurnBlocks:
    """What the writer knows of the rows: whose they are, and how many of each block are needed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._next_number = 1
        # Call → epoch, sequence and number of each row that is needed, in order.
        self._rows: defaultdict[str, deque[tuple[int, int, int]]] = defaultdict(deque)
        self._num_needed: Counter[int] = Counter()

    def load(self) -> None:
        """Learns all anew from the table."""
        self._rows.clear()
        self._num_needed.clear()
        for number, *row in self._connection.execute("SELECT number, call, epoch, sequence FROM turns ORDER BY number"):
            self._add(number, *row)

    def add(self, turns: Sequence[TurnRow]) -> list[tuple[int, str, int, int, str]]:
        """Their rows; `load`, if they were not written."""
        rows: list[tuple[int, str, int, int, str]] = []
        for turn in turns:
            rows.append((self._next_number, turn.call, turn.epoch, turn.sequence, turn.event))
            self._add(self._next_number, turn.call, turn.epoch, turn.sequence)
        return rows

    def forget(self, sealed: Mapping[str, tuple[int, int]]) -> list[tuple[int, int]]:
        """First and last numbers of rows that may go now. Args: sealed: as for `EventLog.forget_turns`."""
        gone: set[int] = set()
        for call, last in sealed.items():
            rows = self._rows.get(call, deque())
            while rows and rows[0][:2] <= last:
                block = rows.popleft()[2] // _BLOCK_ROWS
                self._num_needed[block] -= 1
                if not self._num_needed[block]:
                    del self._num_needed[block]
                    gone.add(block)
            if not rows:
                self._rows.pop(call, None)
        return [(block * _BLOCK_ROWS, (block + 1) * _BLOCK_ROWS - 1) for block in sorted(gone)]

    def _add(self, number: int, call: str, epoch: int, sequence: int) -> None:
        self._rows[call].append((epoch, sequence, number))
        self._num_needed[number // _BLOCK_ROWS] += 1
        # Never one that a reader may have seen, though its row is gone.
        self._next_number = max(self._next_number, number + 1)


class TurnReader:
    """Finds calls' rows by what it saw before; numbers are never used twice while a writer lives."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._first = self._last = 0

    def turns(self, call: str, epoch: int) -> list[tuple[int, str]]:
        """The numbers and texts of a call's events in that epoch, in order."""
        first = self._look()
        found: list[tuple[int, str]] = []
        for number in (number for number in self._numbers.get(call, ()) if number >= first):
            row = self._connection.execute(
                "SELECT sequence, event FROM turns WHERE number = ? AND call = ? AND epoch = ?", (number, call, epoch)
            ).fetchone()
            if row is not None:
                found.append(row)
        return sorted(found)

    def _look(self) -> int:
        """Learns of new rows. Returns the first one's number."""
        first: int = self._connection.execute("SELECT COALESCE(MIN(number), 0) FROM turns").fetchone()[0]
        if first - self._first > _GONE_MAX:
            self._numbers.clear()
            self._first, self._last = first, first - 1
        for number, call in self._connection.execute(
            "SELECT number, call FROM turns WHERE number > ? ORDER BY number", (self._last,)
        ):
            self._numbers[call].append(number)
            self._last = number
        return first
