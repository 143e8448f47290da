"""The tables of a gateway's log, and how its file is opened: SQLite with a write-ahead log, synced at every commit.

Who writes is alone: the first connection holds a lock on the directory for as long as it lives.
"""

import fcntl
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from headrace.errors import InvalidInput, StoreRefused
from headrace.inbox.kept import keep_again

FILE = "inbox.db"
_LOCK = "inbox.lock"
# Logs of formats 1 and 2 become ones of the present when they are opened.
_FORMAT = 3
# Of a 4 KiB page: a commit beyond it copies the write-ahead log into the file. More lets it grow, fewer copy often.
_CHECKPOINT_PAGES = 4_000
# Of the writer: the index of what was seen is asked in no order, and of SQLite's usual 2 MB most would be read again.
_CACHE_KIB = 64 * 1_024
# Of a batch that is made of a log of before.
_NUM_AGAIN = 1_000

_TABLES = """
CREATE TABLE log (format INTEGER NOT NULL, nonce TEXT NOT NULL, salt BLOB NOT NULL,
                  next_offset INTEGER NOT NULL, next_part INTEGER NOT NULL);
-- Every event that was ever taken: a salted digest of campaign, source and id. Nothing is ever removed.
CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE campaigns (campaign TEXT PRIMARY KEY, watermark INTEGER, next_window INTEGER NOT NULL,
                        next_number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (campaign TEXT, source TEXT, newest INTEGER NOT NULL, heard INTEGER NOT NULL,
                      PRIMARY KEY (campaign, source)) WITHOUT ROWID;
CREATE TABLE spans (campaign TEXT, begins INTEGER, ends INTEGER, window INTEGER NOT NULL,
                    num_late_parts INTEGER NOT NULL, PRIMARY KEY (campaign, begins, ends)) WITHOUT ROWID;
-- Open: closed_by is null. Closed: to be sealed, as `number` of its campaign's chain. Sealed: its events may go.
CREATE TABLE parts (part INTEGER PRIMARY KEY, campaign TEXT NOT NULL, window INTEGER NOT NULL,
                    late_part INTEGER NOT NULL, begins INTEGER NOT NULL, ends INTEGER NOT NULL,
                    opened_at INTEGER NOT NULL, num_events INTEGER NOT NULL, closed_by TEXT,
                    number INTEGER NOT NULL, is_sealed INTEGER NOT NULL DEFAULT 0, lane TEXT NOT NULL DEFAULT '');
"""
# Since format 3: events that are not sealed, as `headrace.inbox.kept` has them.
_BATCHES = """
CREATE TABLE record_batches (batch INTEGER PRIMARY KEY, part INTEGER NOT NULL, num_events INTEGER NOT NULL,
                      events BLOB NOT NULL);
CREATE INDEX record_batches_of_part ON record_batches (part);
"""
# The erasures of the store that this log has carried out; a log from before has none.
_ERASURES = "CREATE TABLE IF NOT EXISTS erasures (number INTEGER PRIMARY KEY)"
# Streams that are read, and their messages that are no events: `headrace.inbox.streams`. A log from before has none,
# and a release from before leaves them alone.
_STREAMS = """
CREATE TABLE IF NOT EXISTS streams (campaign TEXT PRIMARY KEY, stream TEXT NOT NULL, made_at TEXT NOT NULL,
                      sequence INTEGER NOT NULL, written_at INTEGER NOT NULL, note TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused_messages (number INTEGER PRIMARY KEY AUTOINCREMENT, campaign TEXT NOT NULL,
                      stream TEXT NOT NULL, made_at TEXT NOT NULL, sequence INTEGER NOT NULL, subject TEXT NOT NULL,
                      reason TEXT NOT NULL, at INTEGER NOT NULL, data BLOB,
                      UNIQUE (campaign, stream, made_at, sequence));
"""
# Since format 2: turn events of calls, until the store has the call as it is after them. Numbers follow the order in
# which they came (`headrace.inbox.turn_rows`).
_TURNS = """
CREATE TABLE turns (number INTEGER PRIMARY KEY, call TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
                    event TEXT NOT NULL);
"""
_LANES = f"ALTER TABLE parts ADD COLUMN lane TEXT NOT NULL DEFAULT ''; {_TURNS}"
# In format 2 they were in the order of their calls.
_TURNS_AGAIN = f"""
ALTER TABLE turns RENAME TO turns_of_calls;
{_TURNS}
INSERT INTO turns (call, epoch, sequence, event)
SELECT call, epoch, sequence, event FROM turns_of_calls ORDER BY call, epoch, sequence;
DROP TABLE turns_of_calls;
"""


def lock_directory(directory: Path) -> int:
    """Makes the directory, and takes it until the descriptor is closed or the process ends.

    Raises:
        InvalidInput: another process has it.
        StoreRefused: it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(f"The inbox's log {directory} cannot be written: {error}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InvalidInput(
            f"The inbox's log {directory} is another gateway's, which runs now: a log has one writer. Give this one a "
            "directory and campaigns of its own."
        ) from error
    return descriptor


def open_to_write(directory: Path) -> sqlite3.Connection:
    """The writer's connection; makes the tables in a new file.

    Raises:
        InvalidInput: the file is no log of ours, or of a newer Headrace.
        StoreRefused: it cannot be read or written.
    """
    file = directory / FILE
    try:
        connection = connect_durably(file)
        is_new = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
        if is_new:
            salt, nonce = os.urandom(16), os.urandom(16).hex()
            connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}{_TURNS}{_BATCHES}")
            connection.execute("INSERT INTO log VALUES (?, ?, ?, 1, 1)", (_FORMAT, nonce, salt))
            connection.execute("COMMIT")
            _sync(directory)
        connection.execute(_ERASURES)
        connection.executescript(f"BEGIN IMMEDIATE; {_STREAMS} COMMIT")
        (found,) = connection.execute("SELECT format FROM log").fetchone()
        if found in (1, 2):
            connection.executescript(f"BEGIN IMMEDIATE; {_LANES if found == 1 else _TURNS_AGAIN} {_BATCHES}")
            keep_again(connection, _NUM_AGAIN)
            # One by one: a script would begin with a commit.
            for statement in ("DROP TABLE events", f"UPDATE log SET format = {_FORMAT}", "COMMIT"):
                connection.execute(statement)
            found = _FORMAT
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except sqlite3.OperationalError as error:
        raise StoreRefused(f"The inbox's log {file} cannot be opened: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise InvalidInput(f"{file} is not an inbox's log: {error}. Name another directory.") from error
    if found != _FORMAT:
        raise InvalidInput(
            f"The inbox's log {file} has format {found}, this Headrace reads {_FORMAT}. Upgrade Headrace."
        )
    return connection


def connect_durably(file: Path) -> sqlite3.Connection:
    """A connection whose every commit is on the disk before it returns; used from one thread at a time.

    Raises: sqlite3.Error: the file cannot be opened, or is none of SQLite's.
    """
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL would lose the last commits with the machine's power.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    # Debian's SQLite overwrites what is deleted, which would write every page of every sealed window again. An erasure
    # writes the whole file anew instead (decision 48).
    connection.execute("PRAGMA secure_delete = OFF")
    return connection


def write_anew(connection: sqlite3.Connection) -> bool:
    """Writes the file without what was deleted or changed, which lies in free pages and in the write-ahead log until
    both are written anew. False: somebody reads, so the write-ahead log has it still.

    Raises: sqlite3.Error.
    """
    connection.execute("VACUUM")
    (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


def open_to_read(directory: Path) -> sqlite3.Connection:
    """Another connection to a log that a writer has opened; used from one thread at a time."""
    address = f"{(directory / FILE).absolute().as_uri()}?mode=ro"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
