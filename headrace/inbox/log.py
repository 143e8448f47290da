"""The log of one gateway's inboxes: what was taken and is not sealed yet, and every event's digest for good.

A group of events is one transaction, which also keeps what it changed of sources, windows and the watermark: after a
crash the log goes on as if nothing had been, since the windows' decisions are functions of what is in it. An event is
taken once its transaction is on the disk. Once its window is sealed in the store, the log forgets the event and keeps a
digest (salted, so that nobody can try out names) of campaign, source and id: the same event is never taken again.

Turn events of calls (docs/voice.md) are in the same transactions, by call, epoch and number; they go once the store has
the call as it is after them.

Used from one thread, the writer's; readers have connections of their own.
"""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from headrace.errors import Transient
from headrace.handoff.erasures import ErasedData
from headrace.inbox.events import Event
from headrace.inbox.fairness import is_heavy
from headrace.inbox.rules import InboxRules
from headrace.inbox.schema import lock_directory, open_to_read, open_to_write
from headrace.inbox.sealed import BLANK_EVENT
from headrace.inbox.tally import TenantTally
from headrace.inbox.windows import Changes, Part, Source, Span, SpanKey, Standing, Windows
from headrace.keys import feed_service

# Rows of one statement: a statement for each row would give up and take Python's lock for each. The columns times the
# largest stay below SQLite's 32,766 variables.
_ROWS_A_STATEMENT = (512, 64, 8, 1)
# How many events one transaction forgets, so that producers wait for no longer one.
_NUM_FORGOTTEN = 2_000
_NUM_EVENT_COLUMNS = 11
_NUM_TURN_COLUMNS = 4
_UNSEALED = """
SELECT campaign, part, events.tenant, COUNT(*) FROM events JOIN parts USING (part) WHERE NOT is_sealed GROUP BY 2, 3
"""
_PART_COLUMNS = "part, window, late_part, begins, ends, opened_at, num_events, closed_by, number"
_T = TypeVar("_T")


class LogUnavailable(Transient):
    """The log cannot keep anything now, such as on a full disk; nothing of the group was taken."""


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One turn event of a call. `epoch`: of who has the call; `sequence`: counts the call's events."""

    call: str
    epoch: int
    sequence: int
    event: str


@dataclass(frozen=True, kw_only=True)
class ClosedPart:
    """A part that is to be sealed."""

    campaign: str
    part: Part


class EventLog:
    """Attributes:
    nonce: names this log for good, in every window that it sealed.
    tenants: how many events each tenant has that are not sealed.
    """

    def __init__(
        self,
        directory: Path,
        rules: Mapping[str, InboxRules],
        sealed_waiting: Callable[[str], Mapping[str, int]] = lambda _: {},
        own_rules: Callable[[str], Mapping[str, InboxRules]] = lambda _: {},
    ) -> None:
        """Args:
            rules: of each campaign that takes events; what the log has of others stays, and is sealed.
            sealed_waiting: campaign → tenant → how many of its events are sealed and not worked off.
            own_rules: the log's nonce → the rules of inboxes that are this log's by their names (`call_feed`).

        Raises:
            InvalidInput: another process writes this log, or it is none.
            StoreRefused: the directory cannot be written.
        """
        self.directory = directory
        self._lock = lock_directory(directory)
        try:
            self._connection = open_to_write(directory)
            self.nonce, self._salt = self._connection.execute("SELECT nonce, salt FROM log").fetchone()
        except BaseException:
            os.close(self._lock)
            raise
        self._rules = {**rules, **own_rules(self.nonce)}
        # Parts that were given out by `take_closed` and are not marked as sealed; whose they are.
        self._given_out: dict[int, str] = {}
        self.tenants = TenantTally()
        self._sealed_waiting = sealed_waiting
        self._is_loaded = False
        self._load()

    def _load(self) -> None:
        """Makes the windows as the file has them."""
        run = self._connection.execute
        self._next_offset, self._next_part = run("SELECT next_offset, next_part FROM log").fetchone()
        for (name,) in run("SELECT campaign FROM campaigns"):
            # A campaign that takes no events any more still has its open windows closed, by the usual rules.
            self._rules.setdefault(name, InboxRules())
        self.windows = {name: self._windows(name) for name in self._rules}
        self.tenants.clear()
        for row in run(_UNSEALED):
            self.tenants.add(*row)
        self._closed = [closed for closed in self._unsealed() if closed.part.part not in self._given_out]
        self._is_loaded = True

    def _check_loaded(self) -> None:
        if self._is_loaded:
            return
        try:
            self._load()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> LogUnavailable:
        return LogUnavailable(f"The inbox's log {self.directory} cannot keep events now: {error}.")

    def _windows(self, campaign: str) -> Windows:
        run = self._connection.execute
        standing = run(
            "SELECT watermark, next_window, next_number FROM campaigns WHERE campaign = ?", (campaign,)
        ).fetchone()
        sources = run("SELECT source, newest, heard FROM sources WHERE campaign = ?", (campaign,))
        parts = run(f"SELECT {_PART_COLUMNS}, lane FROM parts WHERE campaign = ? AND closed_by IS NULL", (campaign,))
        return Windows(
            self._rules[campaign],
            new_part=self._new_part,
            spans=_KeptSpans(self._connection, campaign),
            standing=Standing(*standing) if standing else None,
            sources={name: Source(newest, heard, epoch) for epoch, (name, newest, heard) in enumerate(sources, 1)},
            parts=[Part(*row) for row in parts],
        )

    def append(self, events: Sequence[Event], now: int, *, turns: Sequence[TurnRow] = ()) -> list[bool]:
        """Takes the events, durably, in this order. False: that one was taken before.

        Args:
            now: when they arrived, microseconds since the epoch.
            turns: are kept with them.

        Raises:
            LogUnavailable: none of them was taken.
        """
        self._check_loaded()
        digest = partial(event_digest, self._salt)
        # Of events that come twice in one group, the first counts.
        named: dict[bytes, int] = {}
        for index, event in enumerate(events):
            named.setdefault(digest(event.campaign, event.source, event.id), index)
        with self._transaction():
            known = self._known(list(named))
            is_new = [False] * len(events)
            for name, index in named.items():
                is_new[index] = name not in known
            rows: list[object] = []
            for event in (event for event, new in zip(events, is_new, strict=True) if new):
                part = self.windows[event.campaign].place(event.time, event.source, now, self._lane(event))
                time = now if event.time is None else event.time
                rows += (self._next_offset, part.part, time, *event[4:6], *event[1:3], *event[6:])
                self.tenants.add(event.campaign, part.part, event.tenant)
                self._next_offset += 1
            self._insert("seen", 1, [name for name in named if name not in known])
            self._insert("events", _NUM_EVENT_COLUMNS, rows)
            kept: list[object] = []
            for turn in turns:
                kept += (turn.call, turn.epoch, turn.sequence, turn.event)
            self._insert("turns", _NUM_TURN_COLUMNS, kept)
            changes = self._changes()
            if events:
                self._keep(changes)
        self._note_closed(changes)
        return is_new

    def tick(self, now: int) -> None:
        """Closes what is to be closed by now. Raises: LogUnavailable: nothing was closed."""
        self._check_loaded()
        for windows in self.windows.values():
            windows.advance(now)
        if changes := self._changes():
            with self._transaction():
                self._keep(changes)
            self._note_closed(changes)

    def take_closed(self) -> list[ClosedPart]:
        """What was closed since the last call, or before this log was opened; in each campaign's order."""
        taken, self._closed = self._closed, []
        self._given_out |= {closed.part.part: closed.campaign for closed in taken}
        return taken

    def _unsealed(self) -> list[ClosedPart]:
        found = self._connection.execute(
            f"SELECT campaign, {_PART_COLUMNS} FROM parts WHERE closed_by IS NOT NULL AND NOT is_sealed "
            "ORDER BY campaign, number"
        )
        return [ClosedPart(campaign=row[0], part=Part(*row[1:])) for row in found]

    def mark_sealed(self, parts: Collection[int]) -> None:
        """Their windows are in the store, so `forget_sealed` may take their events. Raises: LogUnavailable."""
        with self._transaction():
            self._connection.executemany("UPDATE parts SET is_sealed = 1 WHERE part = ?", [(part,) for part in parts])
        for part in parts:
            self.tenants.drop(self._given_out.pop(part), part)

    def forget_sealed(self) -> bool:
        """Forgets some events of sealed parts; False: none was left. Raises: LogUnavailable."""
        found = self._connection.execute("SELECT part FROM parts WHERE is_sealed LIMIT 1").fetchone()
        if found is None:
            return False
        with self._transaction():
            some = "SELECT offset FROM events WHERE part = ? LIMIT ?"
            deleted = self._connection.execute(f"DELETE FROM events WHERE offset IN ({some})", (*found, _NUM_FORGOTTEN))
            if deleted.rowcount < _NUM_FORGOTTEN:
                self._connection.execute("DELETE FROM parts WHERE part = ?", found)
        return True

    def erased(self) -> set[int]:
        """Numbers of the store's erasures that this log has carried out."""
        return {number for (number,) in self._connection.execute("SELECT number FROM erasures")}

    def erase(self, number: int, data: ErasedData) -> int:
        """Blanks the events that belong to an erasure, in windows that are open or wait to be sealed, and writes the
        file anew without what was deleted. Takes about a second for 100 MB.

        Returns: how many events.

        Raises:
            LogUnavailable: to be tried again.
        """
        self._check_loaded()
        events = self._connection.execute(
            "SELECT offset, campaign, source, id, tenant FROM events JOIN parts USING (part)"
        )
        going = [
            offset
            for offset, campaign, source, identity, tenant in events
            if data.has("event", feed_service(campaign) or campaign, source, identity)
            or data.has("tenant", campaign, tenant)
        ]
        blank = ", ".join(f"{column} = :{column}" for column in BLANK_EVENT)
        with self._transaction():
            rows = [{**BLANK_EVENT, "offset": offset} for offset in going]
            self._connection.executemany(f"UPDATE events SET {blank} WHERE offset = :offset", rows)
        try:
            # What was deleted or changed lies in free pages and in the write-ahead log until both are written anew.
            self._connection.execute("VACUUM")
            (is_busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        if is_busy:
            raise LogUnavailable(f"The inbox's log {self.directory} is being read, so what was erased is still in it.")
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO erasures VALUES (?)", (number,))
        return len(going)

    def forget_turns(self, sealed: Mapping[str, tuple[int, int]]) -> None:
        """Args: sealed: call → the epoch and number of its last event that the store has. Raises: LogUnavailable."""
        if not sealed:
            return
        with self._transaction():
            self._connection.executemany(
                "DELETE FROM turns WHERE call = ? AND (epoch < ? OR (epoch = ? AND sequence <= ?))",
                [(call, epoch, epoch, sequence) for call, (epoch, sequence) in sealed.items()],
            )

    def reader(self) -> "LogReader":
        return LogReader(open_to_read(self.directory))

    def close(self) -> None:
        self._connection.close()
        os.close(self._lock)

    def _known(self, digests: list[bytes]) -> set[bytes]:
        known: set[bytes] = set()
        for some in _pieces(digests, 1):
            places = ",".join("?" * len(some))
            found = self._connection.execute(f"SELECT digest FROM seen WHERE digest IN ({places})", some)
            known.update(digest for (digest,) in found)
        return known

    def _insert(self, table: str, width: int, values: Sequence[object]) -> None:
        row = f"({','.join('?' * width)})"
        for some in _pieces(values, width):
            places = ",".join([row] * (len(some) // width))
            self._connection.execute(f"INSERT INTO {table} VALUES {places}", some)

    def _changes(self) -> dict[str, Changes]:
        taken = {campaign: windows.take_changes() for campaign, windows in self.windows.items()}
        return {campaign: changes for campaign, changes in taken.items() if changes}

    def _note_closed(self, changed: Mapping[str, Changes]) -> None:
        for campaign, changes in changed.items():
            closed = sorted((part for part in changes.parts.values() if part.closed_by), key=lambda part: part.number)
            self._closed += [ClosedPart(campaign=campaign, part=part) for part in closed]

    def _keep(self, changed: Mapping[str, Changes]) -> None:
        run = self._connection.execute
        for campaign, changes in changed.items():
            for part in changes.parts.values():
                values = (part.window, part.late_part, part.begins, part.ends, part.opened_at, part.num_events)
                run(
                    f"INSERT OR REPLACE INTO parts (campaign, {_PART_COLUMNS}, lane) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (campaign, part.part, *values, part.closed_by, part.number, part.lane),
                )
            for (begins, ends), span in changes.spans.items():
                row = (campaign, begins, ends, span.window, span.num_late_parts)
                run("INSERT OR REPLACE INTO spans VALUES (?,?,?,?,?)", row)
            for name, source in changes.sources.items():
                run("INSERT OR REPLACE INTO sources VALUES (?,?,?,?)", (campaign, name, source.newest, source.heard))
            for name in changes.gone:
                run("DELETE FROM sources WHERE campaign = ? AND source = ?", (campaign, name))
            standing = changes.standing
            row = (campaign, standing.watermark, standing.next_window, standing.next_number)
            run("INSERT OR REPLACE INTO campaigns VALUES (?,?,?,?)", row)
        run("UPDATE log SET next_offset = ?, next_part = ?", (self._next_offset, self._next_part))

    def _lane(self, event: Event) -> str:
        """Its tenant, if as many of that one's events wait as a window may have."""
        num_waiting = self.tenants.of(event.campaign)[event.tenant]
        num_waiting += self._sealed_waiting(event.campaign).get(event.tenant, 0)
        return event.tenant if is_heavy(num_waiting, self._rules[event.campaign].rows_max) else ""

    def _new_part(self) -> int:
        self._next_part += 1
        return self._next_part - 1

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. After a failure the windows are made anew: they have gone on, and the file may have not."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._is_loaded = False
            with suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                self._load()
            if isinstance(error, sqlite3.Error):
                raise self._unavailable(error) from error
            raise


class LogReader:
    """Reads what the writer has committed, from another thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def events(self, part: int) -> list[tuple[Any, ...]]:
        """Rows of offset, time, key, sequence, id, source, tenant, class, deadline, data, in the order of a window."""
        # Texts by their bytes, as SQLite compares them: the same on every machine.
        return self._connection.execute(
            "SELECT offset, time, key, sequence, id, source, tenant, class, deadline, data FROM events WHERE part = ? "
            "ORDER BY key, sequence, time, id, source",
            (part,),
        ).fetchall()

    def turns(self, call: str, epoch: int) -> list[tuple[int, str]]:
        """The numbers and texts of a call's events in that epoch, in order."""
        return self._connection.execute(
            "SELECT sequence, event FROM turns WHERE call = ? AND epoch = ? ORDER BY sequence", (call, epoch)
        ).fetchall()

    def begun_calls(self) -> list[tuple[str, int]]:
        """The calls, and their epochs, of which the log has turn events; in order."""
        return self._connection.execute("SELECT DISTINCT call, epoch FROM turns ORDER BY call, epoch").fetchall()

    def close(self) -> None:
        self._connection.close()


def event_digest(salt: bytes, campaign: str, source: str, event: str) -> bytes:
    """16 bytes that name an event in this log alone. With the parts' lengths, so that no two names run together."""
    parts = [campaign.encode(), source.encode()]
    head = f"{len(parts[0])}:{len(parts[1])}:".encode()
    return blake2b(b"".join([head, *parts, event.encode()]), key=salt, digest_size=16).digest()


class _KeptSpans:
    """The spans of a campaign that ever had a window; late events ask for them, mostly for recent ones."""

    def __init__(self, connection: sqlite3.Connection, campaign: str) -> None:
        self._connection, self._campaign = connection, campaign

    def get(self, key: SpanKey) -> Span | None:
        found = self._connection.execute(
            "SELECT window, num_late_parts FROM spans WHERE campaign = ? AND begins = ? AND ends = ?",
            (self._campaign, *key),
        ).fetchone()
        return Span(*found) if found else None


def _pieces(values: Sequence[_T], width: int) -> Iterator[Sequence[_T]]:
    """Cuts rows of `width` values into runs of a few lengths, so that SQLite compiles few statements."""
    at = 0
    for rows in _ROWS_A_STATEMENT:
        step = rows * width
        while len(values) - at >= step:
            yield values[at : at + step]
            at += step
