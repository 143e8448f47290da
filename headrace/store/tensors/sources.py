"""Where leaves come from: siblings on this node, and requests that join what lies side by side."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from headrace.errors import HandoffCorrupt
from headrace.store.node_cache import NodeCache
from headrace.store.sparse_file import SparseFile, marked_pieces
from headrace.store.tensors.index import INDEX, LEAF_BYTES, Leaf

# So long that a request's fixed cost is small.
REQUEST_BYTES = 4 * 1024 * 1024
# For who waits for the first layers: they do not share the link with much that comes later.
NUM_SHORT = 48
# A file system shares whole blocks alone.
_BLOCK_BYTES = 4096
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True, kw_only=True)
class Requested:
    """Leaves side by side, in one file and one segment."""

    leaves: Sequence[Leaf]

    @property
    def num_bytes(self) -> int:
        return sum(leaf.num_bytes for leaf in self.leaves)


@dataclass(frozen=True, kw_only=True)
class Copied(Requested):
    """The same bytes at `start` of a file of this node."""

    path: Path
    start: int


def joined(
    leaves: Iterable[Leaf], here: Mapping[Leaf, tuple[Path, int]] | None = None, *, num_short: int = 0
) -> Iterator[Copied]:
    """Joins neighbours up to a request's length, in the order given.

    Args:
        here: where on this node the leaves lie; None: they come from elsewhere, and neither path nor start count.
        num_short: how many requests at the beginning take a MiB at most.
    """
    group: list[Leaf] = []

    def source(leaf: Leaf) -> tuple[object, int]:
        return here[leaf] if here else (leaf.segment, leaf.at)

    def made() -> Copied:
        path, start = here[group[0]] if here else (Path(), 0)
        return Copied(leaves=tuple(group), path=path, start=start)

    for leaf in leaves:
        if group:
            last = group[-1]
            (place, start), (last_place, last_start) = source(leaf), source(last)
            adjoins = (leaf.file, leaf.offset) == (last.file, last.offset + last.num_bytes)
            follows = (place, start) == (last_place, last_start + last.num_bytes)
            longest = LEAF_BYTES if num_short else REQUEST_BYTES
            if not (adjoins and follows) or sum(one.num_bytes for one in group) + leaf.num_bytes > longest:
                yield made()
                group, num_short = [], max(0, num_short - 1)
        group.append(leaf)
    if group:
        yield made()


def siblings_of(cache: NodeCache, own: Path, leaves: Iterable[Leaf]) -> dict[Leaf, tuple[Path, int]]:
    """Leaf → a file with the same bytes in another entry of the cache, and where; not compared with the digest yet."""
    prefix = own.name.rpartition("-")[0]
    places: dict[tuple[str, int], tuple[Path, int]] = {}
    for entry in sorted(own.parent.glob(f"{prefix}-*")):
        if entry == own:
            continue
        # Opened for the moment: one that is in use is not evicted.
        with suppress(OSError, ValueError, HandoffCorrupt), cache.entry(entry.name):
            index = INDEX.checked((entry / "index.json").read_bytes())
            for number, file in enumerate(index.files):
                path = entry / "files" / file.name
                for piece in marked_pieces(entry / "marks" / str(number)):
                    places.setdefault((piece.digest, piece.num_bytes), (path, piece.offset))
    return {leaf: place for leaf in leaves if (place := places.get((leaf.digest, leaf.num_bytes)))}


def copy_range(copied: Copied, file: SparseFile) -> None:
    """Copies in the kernel where it can: there the file system may share the blocks, and does not read them.

    Raises:
        OSError: the source cannot be read, or the target not written.
    """
    source = os.open(copied.path, os.O_RDONLY)
    target = os.open(file.path, os.O_WRONLY)
    try:
        start, offset, left = copied.start, copied.leaves[0].offset, copied.num_bytes
        while left:
            # Up to a block's border first: from there on, blocks can be shared if both files have their borders there.
            to_border = -start % _BLOCK_BYTES
            length = min(left, to_border) if to_border and (start - offset) % _BLOCK_BYTES == 0 else left
            num_copied = _copied(source, target, length, start, offset)
            if not num_copied:
                return  # the source ends early: the digests tell
            start, offset, left = start + num_copied, offset + num_copied, left - num_copied
    finally:
        os.close(source)
        os.close(target)


def read_verified(
    read: Callable[[], "bytes | bytearray | memoryview"], request: Requested, *, tries: int = 1
) -> memoryview | None:
    """The bytes, if every leaf is what its digest says; None: not once in `tries`.

    Raises:
        ObjectMissing: there is no such object.
    """
    for _ in range(tries):
        with suppress(HandoffCorrupt):  # it ends early
            body = memoryview(read())
            position = 0
            for leaf in request.leaves:
                if blake3(body[position : position + leaf.num_bytes]).hexdigest() != leaf.digest:
                    break
                position += leaf.num_bytes
            else:
                return body[: request.num_bytes]
    return None


def _copied(source: int, target: int, length: int, start: int, offset: int) -> int:
    try:
        return os.copy_file_range(source, target, length, start, offset)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    return os.pwrite(target, os.pread(source, min(length, REQUEST_BYTES), start), offset)
