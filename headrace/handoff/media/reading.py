"""Reads a media version: one item by id in one ranged read, many in the order of their places, or all in a row.

Every item is checked against its digest when its bytes are returned, whatever the handoff's verification mode: a shard
is too large to be verified whole before its first item.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import xxhash

from headrace.errors import InvalidInput, PartFlipped
from headrace.handoff.media.layout import Layout, aligned, media_prefix
from headrace.handoff.media.lookup import COLUMNS, Lookup, Place
from headrace.handoff.media.shards import ShardReader, open_shards
from headrace.handoff.sealed import Handoff

CHUNK_BYTES = 1024 * 1024
# Bytes of one sequential read: small enough for memory, large enough to justify a request over a network.
WINDOW_BYTES = 8 * 1024 * 1024
_INDEX_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class StoredItem:
    """The index's fields of one item. `xxh3_128`: 32 hex characters."""

    item_id: str
    media_type: str
    num_bytes: int
    xxh3_128: str
    width: int | None
    height: int | None
    duration_seconds: float | None
    caption: str | None
    row_id: str | None
    version_set: str | None
    attributes: dict[str, Any]


@dataclass(frozen=True)
class MediaSet:
    """One version's items. Opening it takes the reader's lease and reads `shards.json`."""

    handoff: Handoff
    layout: Layout
    _shards: ShardReader = field(repr=False)

    @classmethod
    def open(cls, handoff: Handoff) -> "MediaSet":
        """Raises: InvalidInput: the handoff is not a media index. HandoffCorrupt: its layout is missing or damaged."""
        media_prefix(handoff.manifest)
        handoff.hold()
        layout = Layout.read(handoff.objects, handoff.manifest)
        return cls(handoff, layout, open_shards(handoff, layout))

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards, including the padding between items."""
        return self.layout.num_bytes

    def __len__(self) -> int:
        return self.handoff.num_rows

    def __contains__(self, item_id: str) -> bool:
        return self._lookup.row(item_id) is not None

    def __iter__(self) -> Iterator[StoredItem]:
        """The items as published, without their bytes."""
        for _, item in self._placed():
            yield item

    def ids(self) -> Iterator[str]:
        for batch in self._batches(["item_id"]):
            yield from batch.column(0).to_pylist()

    def item(self, item_id: str) -> StoredItem:
        """Raises: InvalidInput: the item does not exist."""
        row = self._row(item_id)
        return _stored(self.handoff.table(rows=range(row, row + 1)).to_pylist()[0])

    def read(self, item_id: str) -> bytes:
        """All bytes of one item, in one read; use `stream` for large ones.

        Raises:
            InvalidInput: the item does not exist.
            HandoffCorrupt: the bytes differ from the published ones.
        """
        place = self._lookup.place(self._row(item_id))
        body = self._shards.read(place.shard, place.offset, place.num_bytes) if place.num_bytes else b""
        if xxhash.xxh3_128_digest(body) != place.xxh3_128:
            raise self._flipped(item_id, place, xxhash.xxh3_128_digest(body))
        return body

    def read_many(self, item_ids: Sequence[str]) -> list[bytes]:
        """The bytes of each item, in the requested order; read in the order of their places.

        Raises: as `read`.
        """
        rows, found = self._lookup.rows(item_ids)
        if not found.all():
            self._row(item_ids[int(found.argmin())])
        places = self._lookup.places(rows)
        bodies: list[bytes] = [b""] * len(places)
        by_shard: dict[int, list[int]] = {}
        for index in rows.argsort().tolist():
            if places[index].num_bytes:
                by_shard.setdefault(places[index].shard, []).append(index)
        for shard, indices in by_shard.items():
            ranges = [(places[index].offset, places[index].num_bytes) for index in indices]
            for index, body in zip(indices, self._shards.read_ranges(shard, ranges), strict=True):
                bodies[index] = body if isinstance(body, bytes) else bytes(body)
        for item_id, place, body in zip(item_ids, places, bodies, strict=True):
            if xxhash.xxh3_128_digest(body) != place.xxh3_128:
                raise self._flipped(item_id, place, xxhash.xxh3_128_digest(body))
        return bodies

    def stream(self, item_id: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """One item in chunks of `chunk_bytes`, the last one shorter; a damaged item raises before its end.

        Raises: as `read`; for a wrong digest instead of the last chunk.
        """
        if chunk_bytes < 1:
            raise InvalidInput(f"chunk_bytes must be at least 1, got {chunk_bytes}.")
        return self._stream(item_id, self._lookup.place(self._row(item_id)), chunk_bytes)

    def contents(self) -> Iterator[tuple[StoredItem, Iterator[bytes]]]:
        """Every item with its bytes in chunks, in the order of the shards; small items are read together.

        Raises: as `stream`, while an item's chunks are drawn.
        """
        window: list[tuple[Place, StoredItem]] = []
        for place, item in self._placed():
            if window and not _fits(window, place):
                yield from self._window(window)
                window = []
            if place.num_bytes > WINDOW_BYTES:
                yield item, self._stream(item.item_id, place, CHUNK_BYTES)
            else:
                window.append((place, item))
        yield from self._window(window)

    def locations(self) -> pa.Table:
        """`item_id`, `shard_uri`, `offset`, `num_bytes` of every item, for programs that read shards themselves."""
        text, number = pa.string(), pa.int64()
        schema = pa.schema({"item_id": text, "shard_uri": text, "offset": number, "num_bytes": number})
        uris = [self.handoff.objects.uri(self.layout.key(shard)) for shard in range(len(self.layout.shards))]
        rows = [(item.item_id, uris[place.shard], place.offset, place.num_bytes) for place, item in self._placed()]
        columns = zip(*rows, strict=True) if rows else [[]] * 4
        return pa.table(
            [pa.array(column, one.type) for column, one in zip(columns, schema, strict=True)], schema=schema
        )

    def verify(self) -> None:
        """Reads every byte of index and shards, in bounded memory.

        Raises:
            HandoffCorrupt: naming the first item or part that differs.
        """
        self.handoff.verify()
        _ = self._lookup
        for _, chunks in self.contents():
            for _ in chunks:
                pass

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.handoff.table(COLUMNS), self.layout)

    def _row(self, item_id: str) -> int:
        row = self._lookup.row(item_id)
        if row is None:
            some = ", ".join(repr(one) for _, one in zip(range(3), self.ids(), strict=False)) or "none"
            raise InvalidInput(
                f"Media {self.handoff.label} have no item {item_id!r}. There are {len(self)}, the first: {some}."
            )
        return row

    def _placed(self) -> Iterator[tuple[Place, StoredItem]]:
        """Every item and its place; memory does not grow with their number."""
        ends = iter(self.layout.first_items[1:])
        shard, offset, end = -1, 0, 0
        row = 0
        for batch in self._batches(None):
            for values in batch.to_pylist():
                if row == end:
                    shard, offset, end = shard + 1, 0, next(ends)
                yield Place(shard, offset, values["num_bytes"], values["xxh3_128"]), _stored(values)
                offset += aligned(values["num_bytes"])
                row += 1

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        for batch in self.handoff.batches(columns):
            for start in range(0, batch.num_rows, _INDEX_ROWS):
                yield batch.slice(start, _INDEX_ROWS)

    def _window(self, window: list[tuple[Place, StoredItem]]) -> Iterator[tuple[StoredItem, Iterator[bytes]]]:
        if not window:
            return
        start, last = window[0][0].offset, window[-1][0]
        num_bytes = last.offset + last.num_bytes - start
        body = memoryview(self._shards.read(last.shard, start, num_bytes) if num_bytes else b"")
        for place, item in window:
            chunk = bytes(body[place.offset - start : place.offset - start + place.num_bytes])
            if xxhash.xxh3_128_digest(chunk) != place.xxh3_128:
                raise self._flipped(item.item_id, place, xxhash.xxh3_128_digest(chunk))
            yield item, iter((chunk,) if chunk else ())

    def _stream(self, item_id: str, place: Place, chunk_bytes: int) -> Iterator[bytes]:
        digest = xxhash.xxh3_128()
        for start in range(0, place.num_bytes, chunk_bytes):
            num_bytes = min(chunk_bytes, place.num_bytes - start)
            chunk = self._shards.read(place.shard, place.offset + start, num_bytes)
            digest.update(chunk)
            if start + num_bytes == place.num_bytes and digest.digest() != place.xxh3_128:
                raise self._flipped(item_id, place, digest.digest())
            yield chunk

    def _flipped(self, item_id: str, place: Place, found: bytes) -> PartFlipped:
        handoff = self.handoff
        return PartFlipped(
            f"Media {handoff.label} do not match their index: item {item_id!r} in "
            f"{self.layout.key(place.shard)} at byte {place.offset} has digest {found.hex()[:8]}…, the index says "
            f"{place.xxh3_128.hex()[:8]}…. Materialize {handoff.asset}[{handoff.partition}] again; what read it before "
            "has to be made again too.",
            handoff=handoff.label,
            key=self.layout.key(place.shard),
        )


def _fits(window: list[tuple[Place, StoredItem]], place: Place) -> bool:
    first = window[0][0]
    return place.shard == first.shard and place.offset + place.num_bytes - first.offset <= WINDOW_BYTES


def _stored(values: dict[str, Any]) -> StoredItem:
    stated = {name: value for name, value in values.items() if name != "id_xxh3_64"}
    return StoredItem(
        **{**stated, "xxh3_128": values["xxh3_128"].hex(), "attributes": json.loads(values["attributes"])}
    )
