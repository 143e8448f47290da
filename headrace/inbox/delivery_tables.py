"""What a gateway keeps of deliveries to webhooks, in a SQLite file beside its inbox's log: positions, and undelivered
results.

Everything up to a campaign's position is delivered, or listed as undelivered: waiting for a further attempt, or given
up. Both change in one transaction. Results themselves stay in the store; here are their positions.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import InvalidInput, StoreRefused
from headrace.handoff.erasures import ErasedData
from headrace.inbox.feed import Position
from headrace.inbox.log import LogUnavailable
from headrace.inbox.schema import connect_durably, write_anew

FILE = "deliveries.db"
_FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS deliveries (format INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS positions (campaign TEXT PRIMARY KEY, finished INTEGER NOT NULL, event INTEGER NOT NULL)
    WITHOUT ROWID;
-- given_up: 1, nobody tries any more. 0, it waits for its next attempt. `finished`, `place`: the result's position.
CREATE TABLE IF NOT EXISTS undelivered (campaign TEXT, finished INTEGER, place INTEGER, event TEXT NOT NULL,
    source TEXT NOT NULL, num_attempts INTEGER NOT NULL, first_at REAL NOT NULL, next_at REAL NOT NULL,
    given_up INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (campaign, finished, place)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS undelivered_in_turn ON undelivered (campaign, given_up, next_at);
"""
_DELETE = "DELETE FROM undelivered WHERE campaign = ? AND finished = ? AND place = ?"
_COLUMNS = "campaign, finished, place, event, source, num_attempts, first_at, next_at, given_up, reason"


@dataclass(frozen=True, kw_only=True)
class Undelivered:
    """A result that its receiver has not taken. Times are seconds since the epoch."""

    campaign: str
    position: Position
    event: str
    source: str
    num_attempts: int
    first_at: float
    next_at: float
    is_given_up: bool
    reason: str


class DeliveryTables:
    """One connection, used from one thread. Several processes may have one: each change is a transaction."""

    def __init__(self, directory: Path, *, is_made: bool = True) -> None:
        """Args: is_made: the file is made if there is none.

        Raises:
            InvalidInput: there is no such file, it is none of ours, or a newer Headrace's.
            StoreRefused: it cannot be read or written.
        """
        self._file = directory / FILE
        if not is_made and not self._file.exists():
            raise InvalidInput(
                f"There is no {self._file}: no gateway with this inbox's log has sent results to a webhook. Name the "
                "directory of its --inbox-log."
            )
        try:
            self._connection = connect_durably(self._file)
            with self._transaction() as run:
                for statement in _TABLES.split(";"):
                    run(statement)
                run("INSERT INTO deliveries SELECT ? WHERE NOT EXISTS (SELECT 1 FROM deliveries)", (_FORMAT,))
            (found,) = self._connection.execute("SELECT format FROM deliveries").fetchone()
        except (sqlite3.OperationalError, LogUnavailable) as error:
            raise StoreRefused(f"The deliveries {self._file} cannot be opened: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise InvalidInput(f"{self._file} has no deliveries: {error}. Name another directory.") from error
        if found != _FORMAT:
            raise InvalidInput(
                f"The deliveries {self._file} have format {found}, this Headrace reads {_FORMAT}. Upgrade Headrace."
            )

    def close(self) -> None:
        self._connection.close()

    def position(self, campaign: str) -> Position | None:
        """Up to where results are delivered, or listed; None: none of the campaign was ever sent."""
        with self._told():
            row = self._connection.execute(
                "SELECT finished, event FROM positions WHERE campaign = ?", (campaign,)
            ).fetchone()
        return Position(*row) if row else None

    def keep(
        self,
        campaign: str,
        position: Position,
        *,
        settled: Sequence[Position] = (),
        undelivered: Sequence[Undelivered] = (),
        is_erased: Callable[[Undelivered], bool] = lambda _: False,
    ) -> None:
        """One transaction.

        Args:
            settled: delivered, or erased: those of them that were listed are no more.
            is_erased: whether the event of one that failed is erased: then it is not listed. It is asked within the
                transaction, so that `erase` comes before it and is seen, or after it and finds the row.

        Raises: LogUnavailable: nothing was kept; and what `is_erased` raises.
        """
        with self._transaction() as run:
            gone = [one.position for one in undelivered if is_erased(one)]
            for one in (*settled, *gone):
                run(_DELETE, (campaign, one.finished, one.event))
            for one in undelivered:
                if one.position not in gone:
                    place = (one.campaign, one.position.finished, one.position.event, one.event, one.source)
                    state = (one.num_attempts, one.first_at, one.next_at, int(one.is_given_up), one.reason)
                    run(
                        f"INSERT OR REPLACE INTO undelivered ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)",
                        (*place, *state),
                    )
            run("INSERT OR REPLACE INTO positions VALUES (?,?,?)", (campaign, position.finished, position.event))

    def erase(self, data: ErasedData) -> int:
        """Deletes what belongs to an erasure, and writes the file anew without it. Returns how many results.

        Raises: LogUnavailable: to be tried again.
        """
        with self._transaction() as run:
            listed = run("SELECT campaign, finished, place, source, event FROM undelivered").fetchall()
            going = [
                (campaign, finished, place)
                for campaign, finished, place, source, event in listed
                if data.has("event", campaign, source, event)
            ]
            for key in going:
                run(_DELETE, key)
        with self._told():
            if not write_anew(self._connection):
                raise LogUnavailable(f"The deliveries {self._file} are being read, so what was erased is still there.")
        return len(going)

    def waiting(self, campaign: str, num_max: int) -> list[Undelivered]:
        """Those that wait for an attempt, the next one first."""
        with self._told():
            chosen = "campaign = ? AND given_up = 0 ORDER BY next_at, finished, place LIMIT ?"
            return list(self._listed(chosen, campaign, num_max))

    def given_up(self, campaign: str | None = None) -> list[Undelivered]:
        """Those that nobody tries any more, in the order of results."""
        with self._told():
            order = "ORDER BY campaign, finished, place"
            if campaign is None:
                return list(self._listed(f"given_up = 1 {order}"))
            return list(self._listed(f"given_up = 1 AND campaign = ? {order}", campaign))

    def numbers(self, campaign: str) -> tuple[int, int]:
        """How many wait, and how many are given up."""
        with self._told():
            counted = dict(
                self._connection.execute(
                    "SELECT given_up, COUNT(*) FROM undelivered WHERE campaign = ? GROUP BY given_up", (campaign,)
                ).fetchall()
            )
        return counted.get(0, 0), counted.get(1, 0)

    def try_now(self, campaign: str, now: float) -> None:
        """What waits is tried at once: the receiver has come back. Raises: LogUnavailable."""
        with self._transaction() as run:
            run("UPDATE undelivered SET next_at = ? WHERE campaign = ? AND given_up = 0", (now, campaign))

    def take_up_again(self, now: float, *, campaign: str | None = None, event: str | None = None) -> int:
        """What was given up waits again, as if it had not been tried; returns how many. Raises: LogUnavailable."""
        chosen, values = "given_up = 1", list[object]()
        for name, value in (("campaign", campaign), ("event", event)):
            if value is not None:
                chosen += f" AND {name} = ?"
                values.append(value)
        with self._transaction() as run:
            changed = run(
                f"UPDATE undelivered SET given_up = 0, num_attempts = 0, first_at = ?, next_at = ? WHERE {chosen}",
                (now, now, *values),
            )
        return changed.rowcount

    def _listed(self, chosen: str, *values: object) -> Iterator[Undelivered]:
        for row in self._connection.execute(f"SELECT {_COLUMNS} FROM undelivered WHERE {chosen}", values):
            campaign, finished, place, event, source, num_attempts, first_at, next_at, given_up, reason = row
            yield Undelivered(
                campaign=campaign,
                position=Position(finished, place),
                event=event,
                source=source,
                num_attempts=num_attempts,
                first_at=first_at,
                next_at=next_at,
                is_given_up=bool(given_up),
                reason=reason,
            )

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LogUnavailable(f"The deliveries {self._file} cannot be kept or read now: {error}.") from error


def erase_deliveries(directory: Path, data: ErasedData) -> int:
    """Deletes undelivered results that belong to an erasure, if a log's directory has deliveries. Returns how many.

    A gateway may have the file open: each change is a transaction.

    Raises: as `DeliveryTables`; LogUnavailable: to be tried again.
    """
    if not (directory / FILE).exists():
        return 0
    tables = DeliveryTables(directory, is_made=False)
    try:
        return tables.erase(data)
    finally:
        tables.close()
