"""Writes the Arrow IPC files of one version as a stream, and maps them back without a copy.

Small batches are joined first, since a table of ten thousand tiny chunks is slow in every reader; files are cut so that
one handoff larger than memory can be written, and read a part at a time. Neither changes the content digest.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from headrace.errors import InvalidInput
from headrace.handoff.content_digest import ContentDigest
from headrace.handoff.manifest import Part
from headrace.handoff.schemas import schema_differences
from headrace.store.objects import ObjectStore, PartWriter

# Large enough that per-batch costs vanish, small enough for several writers on a laptop.
BATCH_BYTES = 64 * 1024 * 1024
PART_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class WrittenParts:
    parts: tuple[Part, ...]
    num_rows: int
    content_digest: str


def write_parts(
    store: ObjectStore,
    prefix: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    batch_bytes: int = BATCH_BYTES,
    part_bytes: int = PART_BYTES,
) -> WrittenParts:
    """Writes `prefix/part-00000.arrow` and so on; at least one, so that no rows still have a schema.

    Holds about two times `batch_bytes` in memory, or two of the caller's batches where these are larger.
    """
    digest = ContentDigest(schema)
    joined = joined_batches(batches, schema, batch_bytes)
    parts: list[Part] = []
    batch = next(joined, None)
    while batch is not None or not parts:
        key = f"{prefix}/part-{len(parts):05d}.arrow"
        num_rows = 0
        with store.write_part(key) as part:
            sink = _HashingSink(part)
            with pa.ipc.new_file(sink, schema) as writer:
                while batch is not None:
                    writer.write_batch(batch)
                    digest.update(batch)
                    num_rows += batch.num_rows
                    batch = next(joined, None)
                    if sink.num_bytes >= part_bytes:
                        break
        parts.append(Part(key=key, num_rows=num_rows, num_bytes=sink.num_bytes, xxh3_128=sink.hexdigest()))
    return WrittenParts(
        parts=tuple(parts), num_rows=sum(part.num_rows for part in parts), content_digest=digest.hexdigest()
    )


def map_part(path: Path) -> pa.Table:
    """The rows of one part; its buffers are pages of the file."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def file_digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    if path.stat().st_size:
        with pa.memory_map(str(path)) as pages:
            digest.update(pages.read_buffer())
    return digest.hexdigest()


def joined_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """Batches of at least `batch_bytes`, the last one excepted; a batch that is large already is handed on as it is."""
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(_with_schema(batch, schema))
        waiting_bytes += batch.nbytes
        if waiting_bytes >= batch_bytes:
            yield _join(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield _join(waiting)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Nullability and metadata may differ from batch to batch; names and types may not, nor a null where none may be.

    Raises:
        InvalidInput
    """
    if differences := list(schema_differences(batch.schema, schema)):
        raise InvalidInput(f"Record batch does not fit the stream's schema: {'; '.join(differences)}.")
    for field in schema:
        if not field.nullable and (num_nulls := batch.column(field.name).null_count):
            raise InvalidInput(f"Column {field.name} may hold no null, got {num_nulls} in {batch.num_rows} rows.")
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


class _HashingSink:
    """A file for Arrow's writer that counts and digests what goes through it."""

    def __init__(self, part: PartWriter) -> None:
        self._part = part
        self._digest = xxhash.xxh3_128()
        self.num_bytes = 0
        self.closed = False

    def write(self, body: bytes | memoryview, /) -> int:
        self._digest.update(body)
        self.num_bytes += memoryview(body).nbytes
        return self._part.write(body)

    def flush(self) -> None:
        self._part.flush()

    def close(self) -> None:
        self.closed = True

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
