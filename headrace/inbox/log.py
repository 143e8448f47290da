"""The log of one gateway's inboxes: what was taken and is not sealed yet, and every event's digest for good.

A group of events is one transaction, which also keeps what it changed of sources, windows and the watermark: after a
crash the log goes on as if nothing had been, since the windows' decisions are functions of what is in it. An event is
taken once its transaction is on the disk. Once its window is sealed in the store, the log forgets the event and keeps a
digest (salted, so that nobody can try out names) of campaign, source and id: the same event is never taken again.

Turn events of calls (docs/voice.md) are in the same transactions, by call, epoch and number; they go once the store has
the call as it is after them. So are positions in streams, with the events before them (`headrace.inbox.streams`).

Used from one thread, the writer's; readers have connections of their own.
"""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.errors import Transient
from headrace.handoff.erasures import ErasedData
from headrace.inbox import kept
from headrace.inbox.events import Event
from headrace.inbox.fairness import is_heavy
from headrace.inbox.rules import InboxRules
from headrace.inbox.schema import lock_directory, open_to_read, open_to_write, write_anew
from headrace.inbox.streams import StreamProgress, blank_refused, keep_progress
from headrace.inbox.tally import TenantTally
from headrace.inbox.turn_rows import TurnBlocks, TurnReader, TurnRow
from headrace.inbox.windows import Changes, Part, Source, Span, SpanKey, Standing, Windows

# Of one statement: each gives up Python's lock some times, and waits for the event loop to get it back. Few sizes, so
# that SQLite compiles few statements. The columns times the largest stay below its 32,766 variables.
_ROWS_A_STATEMENT = (1, 8, 64, 512)
# How many events one transaction forgets, so that producers wait for no longer one.
_NUM_FORGOTTEN = 10_000
# Of sources whose digests are begun; some hundred bytes each.
_NUM_BEGUN_MAX = 10_000
# What a part's events have in the file: read from the rows' heads, without the events.
_PART_BYTES = "(SELECT COALESCE(SUM(LENGTH(events)), 0) FROM record_batches WHERE part = parts.part)"
_PART_COLUMNS = "part, window, late_part, begins, ends, opened_at, num_events, closed_by, number"


class LogUnavailable(Transient):
    """The log cannot keep anything now, such as on a full disk; nothing of the group was taken."""


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
        self._digests = EventDigests(self._salt)
        kept.warm_up()
        self._rules = {**rules, **own_rules(self.nonce)}
        # Parts that were given out by `take_closed` and are not marked as sealed; whose they are.
        self._given_out: dict[int, str] = {}
        self.tenants = TenantTally()
        self._sealed_waiting = sealed_waiting
        self._turns = TurnBlocks(self._connection)
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
        for campaign, part in run("SELECT campaign, part FROM parts WHERE NOT is_sealed").fetchall():
            for tenant, num_events in kept.tenants_of(self._connection, part).items():
                self.tenants.add(campaign, part, tenant, num_events)
        self._closed = [closed for closed in self._unsealed() if closed.part.part not in self._given_out]
        self._turns.load()
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
        columns = f"{_PART_COLUMNS}, lane, {_PART_BYTES}"
        parts = run(f"SELECT {columns} FROM parts WHERE campaign = ? AND closed_by IS NULL", (campaign,))
        return Windows(
            self._rules[campaign],
            new_part=self._new_part,
            spans=_KeptSpans(self._connection, campaign),
            standing=Standing(*standing) if standing else None,
            sources={name: Source(newest, heard, epoch) for epoch, (name, newest, heard) in enumerate(sources, 1)},
            parts=[Part(*row) for row in parts],
        )

    def append(
        self,
        events: Sequence[Event],
        now: int,
        *,
        turns: Sequence[TurnRow] = (),
        progress: Sequence[StreamProgress] = (),
    ) -> list[bool]:
        """Takes the events, durably, in this order. False: that one was taken before.

        Args:
            now: when they arrived, microseconds since the epoch.
            turns, progress: are kept with them.

        Raises:
            LogUnavailable: none of them was taken.
        """
        self._check_loaded()
        # Of events that come twice in one group, the first counts.
        named: dict[bytes, int] = {}
        for index, event in enumerate(events):
            named.setdefault(self._digests.of(event.campaign, event.source, event.id), index)
        with self._transaction():
            known = self._known(list(named))
            is_new = [False] * len(events)
            for name, index in named.items():
                is_new[index] = name not in known
            rows: dict[int, list[kept.Row]] = {}
            for event in (event for event, new in zip(events, is_new, strict=True) if new):
                windows, lane = self.windows[event.campaign], self._lane(event)
                part = windows.place(event.time, event.source, now, lane, _num_bytes(event)).part
                time = now if event.time is None else event.time
                row = (self._next_offset, event.id, event.source, time, *event[4:])
                rows.setdefault(part, []).append(row)
                self.tenants.add(event.campaign, part, event.tenant)
                self._next_offset += 1
            self._see([name for name in named if name not in known])
            kept.keep(self._connection, rows)
            self._say(turns)
            for one in progress:
                keep_progress(self._connection.execute, one)
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
        (part,) = found
        with self._transaction():
            if kept.forget(self._connection, part, _NUM_FORGOTTEN):
                self._connection.execute("DELETE FROM parts WHERE part = ?", (part,))
        return True

    def erased(self) -> set[int]:
        """Numbers of the store's erasures that this log has carried out."""
        return {number for (number,) in self._connection.execute("SELECT number FROM erasures")}

    def erase(self, number: int, data: ErasedData) -> int:
        """Blanks the events that belong to an erasure, in windows that are open or wait to be sealed, deletes what its
        calls said, and writes the file anew without what was deleted. Takes about a second for 100 MB.

        Returns: how many events.

        Raises:
            LogUnavailable: to be tried again.
        """
        self._check_loaded()

        def is_erased(campaign: str, row: Mapping[str, Any]) -> bool:
            return data.has_event(campaign, row["source"], row["id"]) or data.has_tenant(campaign, row["tenant"])

        calls = self._connection.execute("SELECT DISTINCT call FROM turns").fetchall()
        gone = [(call,) for (call,) in calls if data.has("call", call)]
        parts = self._connection.execute("SELECT part, campaign, lane FROM parts WHERE lane != ''").fetchall()
        lanes = [(f"{part}", part) for part, campaign, lane in parts if data.has("tenant", campaign, lane)]
        with self._transaction():
            num_blanked = kept.blank(self._connection, is_erased)
            blank_refused(self._connection.execute)
            self._connection.executemany("DELETE FROM turns WHERE call = ?", gone)
            # Lanes of an earlier release are tenants' names. No two of these parts become one lane's.
            self._connection.executemany("UPDATE parts SET lane = ? WHERE part = ?", lanes)
        # Windows and tallies in memory know tenants by name.
        self._is_loaded = False
        self._check_loaded()
        try:
            is_written = write_anew(self._connection)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        if not is_written:
            raise LogUnavailable(f"The inbox's log {self.directory} is being read, so what was erased is still in it.")
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO erasures VALUES (?)", (number,))
        return num_blanked

    def forget_turns(self, sealed: Mapping[str, tuple[int, int]]) -> None:
        """Their rows go once all near them may.

        Args:
            sealed: call → the epoch and number of its last event that the store has.

        Raises:
            LogUnavailable: none was forgotten.
        """
        self._check_loaded()
        if blocks := self._turns.forget(sealed):
            with self._transaction():
                self._connection.executemany("DELETE FROM turns WHERE number BETWEEN ? AND ?", blocks)

    def reader(self) -> "LogReader":
        return LogReader(open_to_read(self.directory))

    def close(self) -> None:
        self._connection.close()
        os.close(self._lock)

    def _known(self, digests: list[bytes]) -> set[bytes]:
        known: set[bytes] = set()
        for some, places in _padded([(digest,) for digest in digests]):
            found = self._connection.execute(f"SELECT digest FROM seen WHERE digest IN (VALUES {places})", some)
            known.update(digest for (digest,) in found)
        return known

    def _see(self, digests: list[bytes]) -> None:
        for some, places in _padded([(digest,) for digest in digests]):
            self._connection.execute(f"INSERT OR IGNORE INTO seen VALUES {places}", some)

    def _say(self, turns: Sequence[TurnRow]) -> None:
        for some, places in _padded(self._turns.add(turns)):
            self._connection.execute(f"INSERT INTO turns SELECT DISTINCT * FROM (VALUES {places})", some)

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
        """Its tenant's, by a salted digest, if as many of that one's events wait as a window may have."""
        num_waiting = self.tenants.of(event.campaign)[event.tenant]
        num_waiting += self._sealed_waiting(event.campaign).get(event.tenant, 0)
        is_own = is_heavy(num_waiting, self._rules[event.campaign].rows_max)
        return blake2b(event.tenant.encode(), key=self._salt, digest_size=16).hexdigest() if is_own else ""

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
        self._turns = TurnReader(connection)

    def events(self, part: int) -> pa.Table:
        """The offsets and EVENT_COLUMNS of a part's events, in the order of a window."""
        return kept.in_order(self._connection, part)

    def calls(self) -> list[tuple[str, int, int]]:
        """Calls with turn events here: of each epoch, in order, the number of its last one."""
        return self._connection.execute(
            "SELECT call, epoch, MAX(sequence) FROM turns GROUP BY call, epoch ORDER BY call, epoch"
        ).fetchall()

    def turns(self, call: str, epoch: int) -> list[tuple[int, str]]:
        """The numbers and texts of a call's events in that epoch, in order; perhaps of some that the store has, too."""
        return self._turns.turns(call, epoch)

    def close(self) -> None:
        self._connection.close()


class EventDigests:
    """16 bytes that name an event in one log alone. With the parts' lengths, so that no two names run together.

    Most events come from few sources, of which what comes before the id is digested once.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._begun: dict[tuple[str, str], blake2b] = {}

    def of(self, campaign: str, source: str, event: str) -> bytes:
        begun = self._begun.get((campaign, source))
        if begun is None:
            begun = self._begin(campaign.encode(), source.encode())
            if len(self._begun) >= _NUM_BEGUN_MAX:
                self._begun.clear()
            self._begun[campaign, source] = begun
        digest = begun.copy()
        digest.update(event.encode())
        return digest.digest()

    def _begin(self, campaign: bytes, source: bytes) -> blake2b:
        head = b"%d:%d:" % (len(campaign), len(source))
        return blake2b(head + campaign + source, key=self._salt, digest_size=16)


def _num_bytes(event: Event) -> int:
    """Of its texts."""
    texts = (event.id, event.source, event.key, event.tenant, event.data)
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


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


def _padded(rows: Sequence[tuple[object, ...]]) -> Iterator[tuple[list[object], str]]:
    """Values for one statement each, and its places; of too few rows the last one stands there several times."""
    for start in range(0, len(rows), _ROWS_A_STATEMENT[-1]):
        some = rows[start : start + _ROWS_A_STATEMENT[-1]]
        size = next(size for size in _ROWS_A_STATEMENT if size >= len(some))
        values = [value for row in [*some, *[some[-1]] * (size - len(some))] for value in row]
        yield values, ",".join([f"({','.join('?' * len(some[0]))})"] * size)
