"""Reads byte ranges from a version's shards: from files of this machine, or from any other store.

Files stay open and are read with pread(2): no seek, safe in threads and forked children, and still readable after the
version was deleted. A store over a network gets all ranges of a shard in one call.
"""

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Protocol

from headrace.errors import HandoffCollected, ObjectMissing, PartMissing, PartTorn
from headrace.handoff.layout import manifest_key
from headrace.handoff.media.layout import Layout
from headrace.handoff.sealed import Handoff
from headrace.store.local import LocalStore

# With more shards, a file is opened for each read: a process has few descriptors.
_OPEN_FILES_MAX = 128
# How many ranges are announced to the kernel: this keeps a disk's queue full without flooding the page cache.
_READ_AHEAD_RANGES = 32
_REMEDY = "Materialize the partition again; what read it before has to be made again too."

Range = tuple[int, int]  # offset, number of bytes


class ShardReader(Protocol):
    """Raises PartMissing or PartTorn if a shard is missing or too short, HandoffCollected if the version is gone."""

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes: ...

    def read_ranges(self, shard: int, ranges: Sequence[Range]) -> Sequence[bytes | memoryview]: ...


def open_shards(handoff: Handoff, layout: Layout) -> ShardReader:
    store = handoff.objects
    return LocalShards(store, handoff, layout) if isinstance(store, LocalStore) else StoredShards(handoff, layout)


class StoredShards:
    def __init__(self, handoff: Handoff, layout: Layout) -> None:
        self._handoff = handoff
        self._layout = layout

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        return bytes(self.read_ranges(shard, [(offset, num_bytes)])[0])

    def read_ranges(self, shard: int, ranges: Sequence[Range]) -> Sequence[bytes | memoryview]:
        try:
            return self._handoff.objects.read_ranges(self._layout.key(shard), ranges)
        except ObjectMissing as error:
            raise _missing(self._handoff, self._layout.key(shard)) from error


class LocalShards:
    def __init__(self, store: LocalStore, handoff: Handoff, layout: Layout) -> None:
        self._store = store
        self._handoff = handoff
        self._layout = layout
        self._lock = threading.Lock()
        self._descriptors: dict[int, int] = {}
        weakref.finalize(self, _close, self._descriptors)

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            descriptor = self._open(shard)
        try:
            body = os.pread(descriptor, num_bytes, offset)
            return body if len(body) == num_bytes else self._read_on(shard, descriptor, body, offset, num_bytes)
        finally:
            if shard not in self._descriptors:
                os.close(descriptor)

    def read_ranges(self, shard: int, ranges: Sequence[Range]) -> Sequence[bytes | memoryview]:
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            descriptor = self._open(shard)
        bodies = []
        try:
            for index, (offset, num_bytes) in enumerate(ranges):
                if index % _READ_AHEAD_RANGES == 0:
                    start = index + _READ_AHEAD_RANGES if index else 0
                    for ahead in ranges[start : index + 2 * _READ_AHEAD_RANGES]:
                        os.posix_fadvise(descriptor, *ahead, os.POSIX_FADV_WILLNEED)
                body = os.pread(descriptor, num_bytes, offset)
                whole = len(body) == num_bytes
                bodies.append(body if whole else self._read_on(shard, descriptor, body, offset, num_bytes))
        finally:
            if shard not in self._descriptors:
                os.close(descriptor)
        return bodies

    def _open(self, shard: int) -> int:
        key = self._layout.key(shard)
        with self._lock:
            if shard in self._descriptors:
                return self._descriptors[shard]
            try:
                descriptor = os.open(self._store.local_path(key), os.O_RDONLY)
            except FileNotFoundError as error:
                raise _missing(self._handoff, key) from error
            # Items are read in random places: the kernel's own read-ahead would be wasted.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            if len(self._descriptors) < _OPEN_FILES_MAX:
                self._descriptors[shard] = descriptor
            return descriptor

    def _read_on(self, shard: int, descriptor: int, body: bytes, offset: int, num_bytes: int) -> bytes:
        """Reads the rest: one call reads at most 2 GiB."""
        pieces, num_read = [body], len(body)
        while num_read < num_bytes:
            piece = os.pread(descriptor, num_bytes - num_read, offset + num_read)
            if not piece:
                raise PartTorn(
                    f"Media {self._handoff.label} do not match their index: {self._layout.key(shard)} ends at byte "
                    f"{offset + num_read}, an item needs it up to byte {offset + num_bytes}. {_REMEDY}",
                    handoff=self._handoff.label,
                    key=self._layout.key(shard),
                )
            pieces.append(piece)
            num_read += len(piece)
        return b"".join(pieces)


def _missing(handoff: Handoff, key: str) -> PartMissing | HandoffCollected:
    if handoff.objects.exists(manifest_key(handoff.asset, handoff.partition, handoff.version)):
        return PartMissing(
            f"Media {handoff.label} do not match their index: {key} is missing. {_REMEDY}",
            handoff=handoff.label,
            key=key,
        )
    return HandoffCollected(
        f"Media {handoff.label} were garbage-collected before they were read. Open the newest version instead."
    )


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
