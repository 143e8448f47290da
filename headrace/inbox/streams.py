"""How far streams of a broker are read into a gateway's log, and which of their messages were refused.

A position changes in the transaction that takes the events before it. So it is the log that knows what was read, and
not the broker, which takes an acknowledgement from whoever sends one, and sends again what it has no acknowledgement
of. What was refused is kept in the same transaction: no message is passed over without a trace.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import InvalidInput
from headrace.inbox.schema import FILE, open_to_read

# Of each campaign, the newest ones; of each the first bytes. A stream of something else must not fill the disk.
_REFUSED_MAX = 10_000
_REFUSED_BYTES_MAX = 16_384

_Run = Callable[..., sqlite3.Cursor]


@dataclass(frozen=True, kw_only=True)
class StreamPosition:
    """Up to where a campaign's stream is read.

    Attributes:
        made_at: when the stream was made, in its server's words: one that was made anew is another stream.
        sequence: of the last message that was read; 0: none was.
        written_at: when that one was written, nanoseconds since the epoch; 0: none was read.
        note: what was found to be missing last; empty: nothing ever was.
    """

    campaign: str
    stream: str
    made_at: str
    sequence: int = 0
    written_at: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RefusedMessage:
    """A message that is no event. `data`: its first 16 KiB; None: erased. `at`: microseconds since the epoch."""

    campaign: str
    stream: str
    made_at: str
    sequence: int
    subject: str
    reason: str
    at: int
    data: bytes | None


@dataclass(frozen=True, kw_only=True)
class StreamProgress:
    """What is kept with events of a stream: the position behind them, and the messages before it that are none."""

    position: StreamPosition
    refused: Sequence[RefusedMessage] = ()


def keep_progress(run: _Run, progress: StreamProgress) -> None:
    """Within the log's transaction."""
    position = progress.position
    campaign = position.campaign
    where = (position.stream, position.made_at, position.sequence, position.written_at, position.note)
    run("INSERT OR REPLACE INTO streams VALUES (?,?,?,?,?,?)", (campaign, *where))
    for one in progress.refused:
        data = one.data and one.data[:_REFUSED_BYTES_MAX]
        row = (one.campaign, one.stream, one.made_at, one.sequence, one.subject, one.reason, one.at, data)
        run("INSERT OR REPLACE INTO refused_messages VALUES (NULL,?,?,?,?,?,?,?,?)", row)
    if progress.refused:
        newest = "SELECT number FROM refused_messages WHERE campaign = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
        run(
            f"DELETE FROM refused_messages WHERE campaign = ? AND number <= ({newest})",
            (campaign, campaign, _REFUSED_MAX),
        )


def blank_refused(run: _Run) -> None:
    """Within a transaction of an erasure: nobody can tell whose data a message holds that is no event."""
    run("UPDATE refused_messages SET data = NULL, reason = 'erased', subject = '' WHERE data IS NOT NULL")


class StreamTables:
    """Reads what a log says of streams. One connection, used from one thread."""

    def __init__(self, directory: Path) -> None:
        """Raises: InvalidInput: there is no log in this directory."""
        if not (directory / FILE).is_file():
            raise InvalidInput(
                f"There is no inbox's log in {directory}: name the directory that --inbox-log of its gateway named."
            )
        self._connection = open_to_read(directory)
        known = self._connection.execute("SELECT COUNT(*) FROM sqlite_schema WHERE name = 'refused_messages'")
        # Of a log from before, which its gateway has not opened since.
        self._is_empty = not known.fetchone()[0]

    def close(self) -> None:
        self._connection.close()

    def position(self, campaign: str) -> StreamPosition | None:
        """None: nothing was read of any stream."""
        return next((one for one in self.positions() if one.campaign == campaign), None)

    def positions(self) -> list[StreamPosition]:
        found = self._rows("SELECT campaign, stream, made_at, sequence, written_at, note FROM streams ORDER BY 1")
        names = ("campaign", "stream", "made_at", "sequence", "written_at", "note")
        return [StreamPosition(**dict(zip(names, row, strict=True))) for row in found]

    def num_refused(self, campaign: str) -> int:
        rows = self._rows("SELECT COUNT(*) FROM refused_messages WHERE campaign = ?", campaign)
        return rows[0][0] if rows else 0

    def refused(self, campaign: str | None = None) -> list[RefusedMessage]:
        """In the order in which they were refused."""
        names = ("campaign", "stream", "made_at", "sequence", "subject", "reason", "at", "data")
        chosen = f"SELECT {', '.join(names)} FROM refused_messages"
        if campaign is None:
            found = self._rows(f"{chosen} ORDER BY number")
        else:
            found = self._rows(f"{chosen} WHERE campaign = ? ORDER BY number", campaign)
        return [RefusedMessage(**dict(zip(names, row, strict=True))) for row in found]

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return [] if self._is_empty else self._connection.execute(statement, values).fetchall()
