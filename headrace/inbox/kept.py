"""How a log keeps events until their window is sealed: those of one transaction and part as one record batch of Arrow.

A row of SQLite for each event would be made, indexed, read, sorted and deleted one by one, and then become Arrow all
the same. So a record batch is one row, and sealing puts them together without looking at an event. A record batch of
one event has some 600 bytes beside it (decision 52).
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from headrace.inbox.sealed import BLANK_EVENT, EVENT_COLUMNS

OFFSET = "offset"
_KEPT = pa.schema([pa.field(OFFSET, pa.int64(), nullable=False), *EVENT_COLUMNS])
# Of a window's rows. Texts by their bytes: the same on every machine. The offset tells erased events apart.
_ORDER = [(name, "ascending") for name in ("key", "sequence", "time", "id", "source", OFFSET)]
# The row of an event: its offset, then EVENT_COLUMNS, with times in microseconds since the epoch.
Row = tuple[Any, ...]


def _packed(rows: Sequence[Row]) -> pa.Buffer:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _KEPT, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_KEPT).serialize()


def _unpacked(events: bytes) -> pa.RecordBatch:
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(events), _KEPT)
        batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        # As SQLite itself says it of a damaged page.
        raise sqlite3.DatabaseError(f"events that were kept are damaged: {error}") from error
    return batch


def warm_up() -> None:
    """pyarrow imports pandas, where that is installed, with its first array: no producer is to wait for it."""
    pa.array([], pa.string())


def keep(connection: sqlite3.Connection, rows: Mapping[int, Sequence[Row]]) -> None:
    """Part → its new events. In the caller's transaction."""
    for part, own in rows.items():
        connection.execute(
            "INSERT INTO record_batches (part, num_events, events) VALUES (?, ?, ?)", (part, len(own), _packed(own))
        )


def in_order(connection: sqlite3.Connection, part: int) -> pa.Table:
    """The offset and EVENT_COLUMNS of a part's events, in the order of a window.

    Raises: sqlite3.DatabaseError: the file is damaged.
    """
    found = connection.execute("SELECT events FROM record_batches WHERE part = ? ORDER BY batch", (part,))
    table = pa.Table.from_batches([_unpacked(events) for (events,) in found], _KEPT).combine_chunks()
    return table.sort_by(_ORDER)


def tenants_of(connection: sqlite3.Connection, part: int) -> Counter[str]:
    """How many events of the part each tenant has. Raises: as `in_order`."""
    found = connection.execute("SELECT events FROM record_batches WHERE part = ?", (part,))
    return Counter(tenant for (events,) in found for tenant in _unpacked(events)["tenant"].to_pylist())


def forget(connection: sqlite3.Connection, part: int, num_events: int) -> bool:
    """Deletes batches of the part until so many events are gone; whether none is left. In the caller's transaction."""
    going: list[tuple[int]] = []
    found = connection.execute(
        "SELECT batch, num_events FROM record_batches WHERE part = ? LIMIT ?", (part, num_events)
    )
    for batch, number in found.fetchall():
        if num_events <= 0:
            break
        num_events -= number
        going.append((batch,))
    connection.executemany("DELETE FROM record_batches WHERE batch = ?", going)
    return not connection.execute("SELECT 1 FROM record_batches WHERE part = ? LIMIT 1", (part,)).fetchone()


def blank(connection: sqlite3.Connection, is_erased: Callable[[str, Mapping[str, Any]], bool]) -> int:
    """Blanks the events for which that is so, by campaign and columns; how many. In the caller's transaction."""
    num_blanked = 0
    for batch, campaign in connection.execute(
        "SELECT batch, campaign FROM record_batches JOIN parts USING (part)"
    ).fetchall():
        (events,) = connection.execute("SELECT events FROM record_batches WHERE batch = ?", (batch,)).fetchone()
        rows = _unpacked(events).to_pylist()
        going = [row for row in rows if is_erased(campaign, row)]
        if going:
            for row in going:
                row.update(BLANK_EVENT)
            # From Python's own values: a view of the batch would take the erased texts along.
            changed = _packed([tuple(row.values()) for row in rows])
            connection.execute("UPDATE record_batches SET events = ? WHERE batch = ?", (changed, batch))
            num_blanked += len(going)
    return num_blanked


def keep_again(connection: sqlite3.Connection, num_events: int) -> None:
    """Puts the table `events`, in which logs had a row for each event until format 3, into batches of so many."""
    for (part,) in connection.execute("SELECT DISTINCT part FROM events").fetchall():
        rows = connection.execute(
            "SELECT offset, id, source, time, key, sequence, tenant, class, deadline, data FROM events "
            "WHERE part = ? ORDER BY offset",
            (part,),
        )
        while some := rows.fetchmany(num_events):
            keep(connection, {part: some})


def without_offsets(events: pa.Table) -> pa.Table:
    return pa.Table.from_arrays([events[field.name] for field in EVENT_COLUMNS], schema=EVENT_COLUMNS)
