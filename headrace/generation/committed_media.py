"""A step's committed pictures or recordings on their way into a sealed version, never all in memory.

Batches hold texts of similar length, and a version has its items in the order of rows, so neighbours there come from
any batch. Each batch is first read whole and compared with its digest; what stays of it is the record of its rows and
where each item's bytes lie. When the items are sealed they are read from there in their order, some at a time. Memory
holds one micro-batch or `WINDOW_BYTES` of items, whichever is more, at the price of reading every byte twice.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from headrace.errors import ObjectMissing
from headrace.generation.claim_objects import Claim
from headrace.generation.media_batches import COLUMNS, MediaBatch, item_id
from headrace.generation.micro_batches import damaged_commit, lost_commit
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.reading import WINDOW_BYTES
from headrace.handoff.schemas import MEDIA_EXECUTION
from headrace.store.objects import ObjectStore

_FACTS = ("media_type", "width", "height", "duration_seconds", "attributes")
_PLACES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        # Null: nothing was made of the row.
        pa.field("num_bytes", pa.int64()),
        pa.field("xxh3_128", pa.binary(16)),
    ]
)
_ROWS = pa.schema([*(COLUMNS.field(name) for name in (*MEDIA_EXECUTION.names, "position", *_FACTS)), *_PLACES])
# Items' descriptions that are Python values at once.
_SLICE_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class CommittedMedia:
    """What one step made of a partition's rows, in their order; the bytes stay where they were committed."""

    objects: ObjectStore
    claim: Claim
    _rows: pa.Table

    @classmethod
    def of(cls, objects: ObjectStore, claim: Claim, batches: Iterable[MediaBatch]) -> "CommittedMedia":
        """Draws `batches` one by one, and keeps none of their bytes."""
        rows = pa.concat_tables(chain((_ROWS.empty_table(),), map(_placed, batches)))
        return cls(objects=objects, claim=claim, _rows=rows.sort_by("position"))

    @property
    def execution(self) -> pa.Table:
        """How each row was made, as MEDIA_EXECUTION."""
        return self._rows.select(MEDIA_EXECUTION.names).cast(MEDIA_EXECUTION)

    def items(self) -> Iterator[MediaItem]:
        """What was made.

        Raises: HandoffCorrupt: a batch is gone or changed since it was read first.
        """
        for window in self._windows():
            for row, content in zip(window, self._contents(window), strict=True):
                yield self._item(row, content)

    def _windows(self) -> Iterator[list[dict[str, Any]]]:
        """Neighbours of `WINDOW_BYTES` together, or one larger item."""
        window: list[dict[str, Any]] = []
        num_bytes = 0
        for some in self._rows.to_batches(max_chunksize=_SLICE_ROWS):
            for row in some.to_pylist():
                if row["num_bytes"] is None:
                    continue
                if window and num_bytes + row["num_bytes"] > WINDOW_BYTES:
                    yield window
                    window, num_bytes = [], 0
                window.append(row)
                num_bytes += row["num_bytes"]
        yield window

    def _contents(self, window: Sequence[Mapping[str, Any]]) -> list[bytes]:
        by_key: dict[str, list[int]] = {}
        for index, row in enumerate(window):
            if row["num_bytes"]:
                by_key.setdefault(row["key"], []).append(index)
        contents = [b""] * len(window)
        for key, indices in by_key.items():
            extents = [(window[index]["offset"], window[index]["num_bytes"]) for index in indices]
            for index, content in zip(indices, self._read(key, extents), strict=True):
                if xxhash.xxh3_128_digest(content) != window[index]["xxh3_128"]:
                    raise damaged_commit(self.objects, self.claim, key)
                contents[index] = content
        return contents

    def _read(self, key: str, extents: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        start = min(offset for offset, _ in extents)
        num_bytes = max(offset + size for offset, size in extents) - start
        try:
            if num_bytes <= 2 * sum(size for _, size in extents):
                # They lie close together: one request, and what lies between is not much.
                [body] = self.objects.read_ranges(key, [(start, num_bytes)])
                return (bytes(body[offset - start : offset - start + size]) for offset, size in extents)
            return map(bytes, self.objects.read_ranges(key, extents))
        except ObjectMissing as error:
            raise lost_commit(self.objects, key) from error

    def _item(self, row: Mapping[str, Any], content: bytes) -> MediaItem:
        return MediaItem(
            item_id=item_id(row["row_id"], row["role"]),
            media_type=row["media_type"],
            content=content,
            num_bytes=len(content),
            width=row["width"],
            height=row["height"],
            duration_seconds=row["duration_seconds"],
            caption=row["asked"],
            row_id=row["row_id"],
            version_set=self.claim.version_set,
            attributes={**json.loads(row["attributes"]), "role": row["role"], "seed": row["seed"]},
        )


def _placed(batch: MediaBatch) -> pa.Table:
    """The batch's rows with the places of their items' bytes in its object."""
    places = [place for chunk in batch.table["content"].chunks for place in _places(chunk, batch)]
    # A copy: views would keep all bytes of the batch.
    rows = batch.table.drop_columns("content").take(pa.array(range(batch.table.num_rows), pa.int64()))
    for field, column in zip(_PLACES, zip(*places, strict=True), strict=True):
        rows = rows.append_column(field, pa.array(column, field.type))
    return rows.select(_ROWS.names)


def _places(contents: pa.Array, batch: MediaBatch) -> Iterator[tuple[str, int, int | None, bytes | None]]:
    if not len(contents):
        return
    _, bounds, values = contents.buffers()
    # Arrow reads a stream in memory without a copy, so an address tells where a value lies in the object
    # (`tests/upstream/test_arrow.py`).
    first = values.address - batch.body.address if values else 0
    offsets = np.frombuffer(bounds, np.int64, len(contents) + 1, contents.offset * 8) + first
    body = memoryview(batch.body)
    extents = pairwise(offsets.tolist())
    for (start, end), is_there in zip(extents, contents.is_valid().to_pylist(), strict=True):
        digest = xxhash.xxh3_128_digest(body[start:end])
        yield (batch.key, start, end - start, digest) if is_there else (batch.key, start, None, None)
