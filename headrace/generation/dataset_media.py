"""Rows with their pictures and recordings in one Parquet file, as Hugging Face's `datasets` reads them.

A column of each role that paints or speaks stands in the place of `media`: the bytes as they were sealed, of the
version that was reviewed. The file says which column holds pictures and which sound, so that they are decoded when they
are read. Bytes stream: memory holds about one window of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from headrace.errors import HandoffMissing
from headrace.generation.day_media import Part, day_media
from headrace.generation.sealed_tables import version_read
from headrace.handoff.export import Progress, Selected
from headrace.handoff.media.file_names import file_name
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.schemas import MEDIA
from headrace.handoff.sealed import Handoff
from headrace.handoff.spelling import large_type, respell, respelled
from headrace.handoff.versions import HandoffStore

WINDOW_BYTES = 32 * 1024 * 1024
# As `datasets` keeps a picture or a sound.
CELL = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_FEATURES = {"image": "Image", "audio": "Audio"}


def media_roles(selected: Selected) -> dict[str, str]:
    """Role → "image" or "audio", of all that the rows name."""
    found: dict[str, str] = {}
    for batch in selected.batches([MEDIA.name]):
        for row in batch.column(0).to_pylist():
            found |= {one["role"]: one["media_type"].partition("/")[0] for one in row}
    return found


def write_dataset_file(
    selected: Selected,
    handoffs: HandoffStore,
    file: IO[bytes],
    *,
    columns: Sequence[str] | None = None,
    progress: Progress = lambda num_rows: None,
    window_bytes: int = WINDOW_BYTES,
) -> pa.Schema:
    """Writes reviewed rows with their parts; returns what the file holds. A row without a part has null there.

    Raises:
        HandoffMissing: a part that a row names is gone. HandoffCorrupt: a part's bytes differ from the published ones.
    """
    import pyarrow.parquet as pq

    names = [name for name in (columns or selected.schema.names) if name != MEDIA.name]
    roles = media_roles(selected)
    plain = respelled(pa.schema([selected.schema.field(name) for name in names]), large_type)
    called = _columns_of(roles, names)
    kinds = {called[role]: {"_type": _FEATURES[kind]} for role, kind in roles.items() if kind in _FEATURES}
    schema = pa.schema([*plain, *(pa.field(called[role], CELL) for role in roles)]).with_metadata(
        {"huggingface": json.dumps({"info": {"features": kinds}})}
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for one in selected.handoffs:
            own = Selected(label=one.label, handoffs=(one,), where=selected.where)
            parts = day_media([_reviewed(one, handoffs)], handoffs)
            for batch in own.batches(list(dict.fromkeys([*names, "row_id", MEDIA.name]))):
                for window in _windows(batch, window_bytes):
                    texts = [respell(window.column(name), plain.field(name).type) for name in names]
                    cells = [pa.array(list(_cells(window, role, parts, one)), CELL) for role in roles]
                    writer.write_batch(pa.RecordBatch.from_arrays([*texts, *cells], schema=schema))
                    progress(window.num_rows)
    return schema


def _columns_of(roles: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Role → its column. A role may be called as a column is, or as the column that another one gets."""
    taken, called = {*names, *roles}, {}
    for role in roles:
        column = role
        while column in names or (column != role and column in taken):
            column = f"{column}_media"
        taken.add(column)
        called[role] = column
    return called


def _reviewed(rows: Handoff, handoffs: HandoffStore) -> Handoff:
    return handoffs.open(CONTENT, rows.partition, version_read(rows, CONTENT))


def _windows(batch: pa.RecordBatch, window_bytes: int) -> Iterator[pa.RecordBatch]:
    """Slices whose parts take at most `window_bytes`, or one row."""
    start = taken = 0
    for index, row in enumerate(batch.column(MEDIA.name).to_pylist()):
        num_bytes = sum(one["num_bytes"] for one in row)
        if index > start and taken + num_bytes > window_bytes:
            yield batch.slice(start, index - start)
            start, taken = index, 0
        taken += num_bytes
    if batch.num_rows > start:
        yield batch.slice(start)


def _cells(
    window: pa.RecordBatch, role: str, parts: Mapping[str, Sequence[Part]], rows: Handoff
) -> Iterator[dict[str, Any] | None]:
    for row_id, media in zip(window.column("row_id").to_pylist(), window.column(MEDIA.name).to_pylist(), strict=True):
        if not any(one["role"] == role for one in media):
            yield None
            continue
        part = next((one for one in parts.get(row_id, ()) if one.role == role), None)
        if part is None:
            raise HandoffMissing(
                f"{rows.label} says that {role} made something of row {row_id[:12]}, and it is gone. Materialize "
                f"{CONTENT}[{rows.partition}] again with regenerate: keep_set, or leave {MEDIA.name} out (--columns).",
                handoff=rows.label,
            )
        yield {"bytes": part.read(), "path": file_name(row_id, part.media_type)}
