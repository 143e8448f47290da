"""Writes the Arrow IPC files of one version as a stream, and maps them back without a copy."""

import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from headrace.errors import HandoffCorrupt, InvalidInput, PartFlipped, PartForeign, PartMissing, PartTorn
from headrace.handoff.aligned_file import ALIGNMENT, AlignedFile
from headrace.handoff.batching import joined_batches
from headrace.handoff.content_digest import ContentDigest
from headrace.handoff.manifest import Part
from headrace.handoff.spelling import large_type, respelled, view_type
from headrace.handoff.trimming import trimmed
from headrace.store.objects import ObjectStore, Segment

# Large enough that per-part costs are negligible, small enough for several writers on a laptop.
BATCH_BYTES = 64 * 1024 * 1024
# A larger batch is cut here, well below the 2 GiB that a view can count.
PART_BYTES = 1024 * 1024 * 1024
# The magic bytes of an Arrow IPC file come before its first message.
_MAGIC_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class WrittenParts:
    """`schema` is the files' schema; `content_digest` is the same for every spelling of it."""

    parts: tuple[Part, ...]
    num_rows: int
    content_digest: str
    schema: pa.Schema


def write_parts(
    store: ObjectStore,
    prefix: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    compat: bool = False,
    alignment: int = ALIGNMENT,
    batch_bytes: int = BATCH_BYTES,
    part_bytes: int = PART_BYTES,
) -> WrittenParts:
    """Writes `prefix/part-00000.arrow` and so on, one record batch each; without rows, one file for the schema.

    Text becomes views, or large strings with `compat`. Holds about two times `batch_bytes` in memory, or two of the
    caller's batches if these are larger.

    Raises:
        InvalidInput: a batch does not fit the schema, or `alignment` is not a power of two from 64 up.
    """
    if alignment < ALIGNMENT or alignment & (alignment - 1):
        raise InvalidInput(f"Handoff alignment must be a power of two, at least {ALIGNMENT} bytes, got {alignment}.")
    carried = respelled(schema, large_type if compat else view_type)
    digest = ContentDigest(schema)
    parts: list[Part] = []
    for batch in joined_batches(batches, schema, batch_bytes, part_bytes):
        digest.update(batch)
        parts.append(_write(store, f"{prefix}/part-{len(parts):05d}.arrow", carried, batch, alignment))
    if not parts:
        empty = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
        parts.append(_write(store, f"{prefix}/part-00000.arrow", carried, empty, alignment))
    return WrittenParts(
        parts=tuple(parts),
        num_rows=sum(part.num_rows for part in parts),
        content_digest=digest.hexdigest(),
        schema=carried,
    )


class Pages(mmap.mmap):
    """A part's file, mapped for reading. Arrow's buffers keep it alive, and it keeps `lease` alive."""

    lease: Any = None


def open_pages(path: Path, part: Part, label: str, lease: Any = None) -> Pages:
    """Raises: PartMissing, PartTorn."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise mismatch(PartMissing, label, part, "is missing") from None
    try:
        num_bytes = os.fstat(descriptor).st_size
        if num_bytes != part.num_bytes:
            raise mismatch(PartTorn, label, part, f"has {num_bytes} bytes, manifest says {part.num_bytes}")
        pages = Pages(descriptor, num_bytes, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    pages.lease = lease
    return pages


def batch_of(
    pages: Pages, part: Part, label: str, columns: Sequence[int] | None = None, sealed: "SealedSchema | None" = None
) -> pa.RecordBatch:
    """The rows of one part; its buffers are pages of the file. Columns outside `columns` are not touched.

    Arrow's `included_fields` would read into its own memory (tests/upstream/test_arrow.py).

    Raises:
        PartForeign: the file does not belong to this handoff.
    """
    try:
        batch = _only_batch(pa.py_buffer(pages), sealed)
        batch = batch if columns is None else batch.select(list(columns))
    except (pa.ArrowException, OSError, EOFError, ValueError, IndexError) as error:
        raise mismatch(PartForeign, label, part, f"is not the Arrow file that was sealed ({error})") from error
    if batch.num_rows != part.num_rows:
        raise mismatch(PartForeign, label, part, f"has {batch.num_rows} rows, manifest says {part.num_rows}")
    return batch


class SealedSchema:
    """A version's schema, and the message with which each of its files states it."""

    def __init__(self, serialized: bytes) -> None:
        self.schema: pa.Schema = pa.ipc.read_schema(pa.py_buffer(serialized))
        self.header: pa.Buffer = pa.ipc.read_message(pa.py_buffer(serialized)).metadata


def _only_batch(file: pa.Buffer, sealed: SealedSchema | None) -> pa.RecordBatch:
    """If the file begins with the sealed schema's exact bytes, reads from the front, without the footer.

    That takes half of the time of Arrow's file reader, which parses schema and footer of each file. Behind the
    magic is a stream of messages: the schema, dictionaries if there are any, one batch.
    """
    if sealed is not None:
        messages = pa.BufferReader(file.slice(_MAGIC_BYTES))
        if pa.ipc.read_message(messages).metadata.equals(sealed.header):
            message = pa.ipc.read_message(messages)
            if message.type == "record batch":
                return pa.ipc.read_record_batch(message, sealed.schema)
    batch = pa.ipc.open_file(file).get_batch(0)
    if sealed is not None and not batch.schema.equals(sealed.schema):
        raise pa.ArrowInvalid("its columns are others")
    return batch


def check_segments(
    pages: Pages, part: Part, label: str, names: Sequence[str], segments: Iterable[tuple[Segment, int]]
) -> None:
    """Checks the bytes of `segments`, each with its column's index, against their digests.

    Raises:
        PartFlipped: naming the column.
    """
    pages.madvise(mmap.MADV_WILLNEED)
    view = memoryview(pages)
    try:
        for segment, column in segments:
            digest = xxhash.xxh3_128_hexdigest(view[segment.offset : segment.offset + segment.num_bytes])
            if digest != segment.xxh3_128:
                raise flipped(label, part, names[column] if column >= 0 else None, digest, segment)
    finally:
        view.release()


def _write(store: ObjectStore, key: str, schema: pa.Schema, batch: pa.RecordBatch, alignment: int) -> Part:
    columns = [trimmed(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
    with store.write_part(key) as target:
        file = AlignedFile(target, schema, alignment)
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        file.finish()
    return Part(
        key=key,
        num_rows=batch.num_rows,
        columns=tuple(file.columns),
        sizes=tuple(segment.num_bytes for segment in file.segments),
        digests=tuple(segment.xxh3_128 for segment in file.segments),
    )


def mismatch(
    kind: type[HandoffCorrupt], label: str, part: Part, what: str, column: str | None = None
) -> HandoffCorrupt:
    """The error of one part of a handoff; `what` continues the sentence after the part's name."""
    return kind(
        f"Handoff {label} does not match its manifest: {part.name}{what if what.startswith(',') else f' {what}'}. "
        f"Materialize {label.rpartition(' ')[0]} again; what read it before has to be made again too.",
        handoff=label,
        part=part.name,
        key=part.key,
        column=column,
    )


def flipped(label: str, part: Part, column: str | None, digest: str, segment: Segment) -> HandoffCorrupt:
    """The error of one segment of a part. `column`: None: its frame, which every reader needs."""
    where = f"column {column}" if column else "its frame"
    what = f", {where}, has digest {digest[:8]}…, manifest says {segment.xxh3_128[:8]}…"
    return mismatch(PartFlipped, label, part, what, column)
