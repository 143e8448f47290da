"""Writes many runs' tags at once, and keeps the database open between writes.

Dagster opens its SQLite file anew for each of a launch's 13 statements, and the last one to close it writes back the
whole log and deletes it, for the next one to recreate: half of a launch's wall time. One idle open connection keeps the
log, and all promises of a look are one transaction, not one for each run. Other databases pool their connections, and
are written in Dagster's way.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import sqlalchemy as db
from dagster import DagsterInstance
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.legacy_storage import LegacyEventLogStorage, LegacyRunStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._serdes import serialize_value
from dagster._time import get_current_datetime

_RUNS_AT_ONCE = 500


def add_tags(instance: DagsterInstance, tags_by_run: Mapping[str, Mapping[str, str]]) -> None:
    """`instance.add_run_tags` for several runs; if the process is killed, SQLite has all of them or none."""
    storage = run_storage(instance)
    if not isinstance(storage, SqliteRunStorage) or len(tags_by_run) < 2:
        for run_id, tags in tags_by_run.items():
            instance.add_run_tags(run_id, tags)
        return
    ids = sorted(tags_by_run)
    with storage.connect() as connection:
        # Before the rows are read, so that nobody else writes between reading and writing.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for start in range(0, len(ids), _RUNS_AT_ONCE):
            _add_tags(storage, connection, {run_id: tags_by_run[run_id] for run_id in ids[start:][:_RUNS_AT_ONCE]})


def _add_tags(
    storage: SqliteRunStorage, connection: db.Connection, tags_by_run: Mapping[str, Mapping[str, str]]
) -> None:
    columns = (RunsTable.c.run_id, RunsTable.c.run_body, RunsTable.c.status)
    rows = connection.execute(db.select(*columns).where(RunsTable.c.run_id.in_(tags_by_run))).mappings().all()
    bodies, changed, added = [], [], []
    for row in rows:
        run = storage._row_to_run(dict(row))
        tags = tags_by_run[run.run_id]
        bodies.append({"of_run": run.run_id, "body": serialize_value(run.with_tags({**run.tags, **tags}))})
        for key, value in tags.items():
            if key in run.tags:
                changed.append({"of_run": run.run_id, "of_key": key, "text": value})
            else:
                added.append({"run_id": run.run_id, "key": key, "value": value})
    if bodies:
        connection.execute(
            RunsTable.update()
            .where(RunsTable.c.run_id == db.bindparam("of_run"))
            .values(run_body=db.bindparam("body"), update_timestamp=get_current_datetime()),
            bodies,
        )
    if changed:
        connection.execute(
            RunTagsTable.update()
            .where(RunTagsTable.c.run_id == db.bindparam("of_run"), RunTagsTable.c.key == db.bindparam("of_key"))
            .values(value=db.bindparam("text")),
            changed,
        )
    if added:
        connection.execute(RunTagsTable.insert(), added)


class OpenDatabases:
    """Idle connections to the instance's SQLite files of runs and of all runs' events; none for other databases."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._connections = [_opened(path) for path in _sqlite_files(instance) if path.exists()]
        has_runs = self._connections and isinstance(run_storage(instance), SqliteRunStorage)
        self._runs = self._connections[0] if has_runs else None

    def runs_version(self) -> int | None:
        """A number that changes whenever somebody else has written to the runs; None: this database does not tell.

        SQLite counts commits by other connections, of this process and of others; asking takes 10 µs.
        """
        return self._runs.execute("PRAGMA data_version").fetchone()[0] if self._runs else None

    def close(self) -> None:
        self._runs = None
        while self._connections:
            with suppress(sqlite3.Error):
                self._connections.pop().close()


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    # The first read opens the log, which stays open; the read itself has ended.
    connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
    return connection


def _sqlite_files(instance: DagsterInstance) -> list[Path]:
    runs, events = run_storage(instance), instance.event_log_storage
    if isinstance(events, LegacyEventLogStorage):
        events = events._storage.event_log_storage
    found = []
    if isinstance(runs, SqliteRunStorage):
        found.append(Path(db.make_url(runs._conn_string).database or ""))
    if isinstance(events, SqliteEventLogStorage):
        found.append(Path(events.path_for_shard(INDEX_SHARD_NAME)))
    return found


def run_storage(instance: DagsterInstance) -> object:
    storage = instance.run_storage
    return storage._storage.run_storage if isinstance(storage, LegacyRunStorage) else storage
