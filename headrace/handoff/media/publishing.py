"""Seals a stream of pictures, sounds or films as one version: first shards, then their index as a handoff.

The handoff store pulls the index's record batches, which are made while the items go to their shards. So it draws the
nonce, cleans up after a failure and lets one writer win, for shards and index alike. Memory is bounded by one batch of
index rows and `LOOKAHEAD_BYTES` of content, for items of any size.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from headrace.errors import HandoffCorrupt, InvalidInput
from headrace.handoff.layout import parts_prefix
from headrace.handoff.media.index import MediaItem, id_hash, index_batch
from headrace.handoff.media.layout import SHARD_BYTES, Layout, Shard, aligned, shard_key
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.schemas import MEDIA_INDEX
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.store.objects import ObjectStore, PartWriter

# A longer stream of unknown length begins a new shard, since it may not fit into the open one.
LOOKAHEAD_BYTES = 32 * 1024 * 1024
_BATCH_ROWS = 16 * 1024
_PADDING = bytes(64)


def publish_media(
    handoffs: HandoffStore,
    asset: str,
    partition: str,
    items: Iterable[MediaItem],
    *,
    code_version: str,
    run_id: str,
    input_versions: Mapping[str, str] | None = None,
    attributes: Mapping[str, str] | None = None,
    once: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Handoff:
    """Seals `items`, in order, as the next version; returns the newest version if it holds the same items.

    Shards hold at most `shard_bytes`; a larger item gets its own shard. If the newest version seems equal, every byte
    of its shards is read first: sealing the same items again repairs a damaged version.

    Raises:
        PublishConflict: another writer sealed this version, with other items, since this call began.
        InvalidInput: an id occurs twice, or an item differs from what it states. The attempt's objects are removed.
        StoreUnavailable: the store cannot take the bytes.
    """
    if shard_bytes < 1:
        raise InvalidInput(f"shard_bytes must be at least 1, got {shard_bytes}.")
    nonce = handoffs.nonces()
    written = _Shards(handoffs.objects, parts_prefix(asset, partition, nonce), shard_bytes)
    return media_versions(handoffs).publish(
        asset,
        partition,
        written.index_batches(items),
        schema=MEDIA_INDEX,
        code_version=code_version,
        run_id=run_id,
        input_versions=input_versions,
        attributes=attributes,
        once=once,
        nonce=nonce,
    )


def media_versions(handoffs: HandoffStore) -> HandoffStore:
    """The same store, which knows that a media version has shards beside its parts."""
    return _MediaVersions(**{one.name: getattr(handoffs, one.name) for one in fields(HandoffStore)})


@dataclass(frozen=True)
class _MediaVersions(HandoffStore):
    """A store that also checks a version's shards before it reuses the version for equal items."""

    def is_intact(self, handoff: Handoff) -> bool:
        try:
            MediaSet.open(handoff).verify()
        except HandoffCorrupt:
            return False
        return True


class _Shards:
    """The shards of one attempt; one of them is open at a time."""

    def __init__(self, store: ObjectStore, prefix: str, shard_bytes: int) -> None:
        self._store = store
        self._prefix = prefix
        self._shard_bytes = shard_bytes
        self._sealed: list[Shard] = []
        self._part: PartWriter | None = None
        self._part_items = 0
        self._ids = _SeenIds()

    def index_batches(self, items: Iterable[MediaItem]) -> Iterator[pa.RecordBatch]:
        """Writes every item, and yields the index's rows for them."""
        rows: list[tuple[Any, ...]] = []
        # After an exception, or if its reader stops half-way, it discards the open shard.
        with ExitStack() as open_part:
            for item in items:
                id_xxh3_64 = id_hash(item.item_id)
                if not self._ids.add(id_xxh3_64):
                    raise InvalidInput(f"Item id {item.item_id!r} occurs twice. Give every media item one of its own.")
                num_bytes, digest = self._write(item, open_part)
                rows.append(item.row(id_xxh3_64, num_bytes, digest))
                if len(rows) == _BATCH_ROWS:
                    yield index_batch(rows)
                    rows = []
            if rows:
                yield index_batch(rows)
            self._seal(open_part)
        Layout(self._prefix, self._sealed).write(self._store)

    def _write(self, item: MediaItem, open_part: ExitStack) -> tuple[int, bytes]:
        chunks = item.chunks()
        ahead, num_bytes = ([], item.num_bytes) if item.num_bytes is not None else _look_ahead(chunks)
        part = self._part_for(num_bytes, open_part)
        part.write(_PADDING[: aligned(part.num_bytes) - part.num_bytes])
        start, digest = part.num_bytes, xxhash.xxh3_128()
        for chunk in chain(ahead, chunks):
            digest.update(chunk)
            part.write(chunk)
        num_written = part.num_bytes - start
        if item.num_bytes not in (None, num_written):
            raise InvalidInput(f"Item {item.item_id!r} states {item.num_bytes} bytes, its content has {num_written}.")
        self._part_items += 1
        return num_written, digest.digest()

    def _part_for(self, num_bytes: int | None, open_part: ExitStack) -> PartWriter:
        """The open shard, or the next one if an item of `num_bytes` (None: many) does not fit into it."""
        part = self._part
        if part and (num_bytes is None or aligned(part.num_bytes) + num_bytes > self._shard_bytes):
            self._seal(open_part)
        if self._part is None:
            self._part = open_part.enter_context(self._store.write_part(shard_key(self._prefix, len(self._sealed))))
        return self._part

    def _seal(self, open_part: ExitStack) -> None:
        if self._part:
            self._sealed.append(Shard(num_items=self._part_items, num_bytes=self._part.num_bytes))
            self._part, self._part_items = None, 0
            open_part.close()


class _SeenIds:
    """Hashes of all ids so far, 8 bytes each: in sorted runs of falling length, and a small set of the latest.

    Two different ids with the same hash are refused too: with ten million ids this happens once in 370,000 sets.
    """

    def __init__(self, run_length: int = 16 * 1024) -> None:
        self._run_length = run_length
        self._latest: set[int] = set()
        self._runs: list[np.ndarray] = []

    def add(self, one: int) -> bool:
        """Returns False if it was added before."""
        if one in self._latest or any(_holds(run, one) for run in self._runs):
            return False
        self._latest.add(one)
        if len(self._latest) == self._run_length:
            run = np.sort(np.fromiter(self._latest, np.uint64, len(self._latest)))
            while self._runs and len(self._runs[-1]) <= len(run):
                run = np.sort(np.concatenate([self._runs.pop(), run]))
            self._runs.append(run)
            self._latest.clear()
        return True


def _holds(run: np.ndarray, one: int) -> bool:
    place = int(run.searchsorted(np.uint64(one)))
    return place < len(run) and int(run[place]) == one


def _look_ahead(chunks: Iterator[memoryview]) -> tuple[list[memoryview], int | None]:
    """The first chunks, and the stream's total size; None if it exceeds LOOKAHEAD_BYTES."""
    ahead, num_bytes = [], 0
    for chunk in chunks:
        ahead.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > LOOKAHEAD_BYTES:
            return ahead, None
    return ahead, num_bytes
