"""A sparse file that several processes fill, and marks for the bytes that are there.

A mark is a line that is appended after a piece's bytes were written and compared with their digest. A filler that is
killed leaves bytes without a mark; nobody reads them, and the next filler overwrites them. Marks from an earlier boot,
or older than the file's last write, count only after the bytes were checked again.
"""

import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from headrace.store.node_cache import boot_identity

_READ_BYTES = 256 * 1024
_MARK = re.compile(r"([0-9a-f]{32}) (\d+) (\d+) ([0-9a-f]{32}|[0-9a-f]{64})")


class Hasher(Protocol):
    def update(self, body: memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


class Piece(Protocol):
    """Consecutive bytes of the file, and their digest in hex."""

    @property
    def offset(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def digest(self) -> str: ...


class Stretch(NamedTuple):
    """A `Piece` that says no more."""

    offset: int
    num_bytes: int
    digest: str


P = TypeVar("P", bound=Piece)


class SparseFile:
    """`hasher`: makes the digest of the pieces, such as `xxhash.xxh3_128`."""

    def __init__(self, path: Path, marks: Path, num_bytes: int, *, hasher: Callable[[], Hasher]) -> None:
        self.path = path
        self._hasher = hasher
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._marks = os.open(marks, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError:
            os.close(self._descriptor)
            raise
        if os.fstat(self._descriptor).st_size != num_bytes:
            os.ftruncate(self._descriptor, num_bytes)

    def close(self) -> None:
        os.close(self._descriptor)
        os.close(self._marks)

    @contextmanager
    def turn(self, offset: int, num_bytes: int) -> Iterator[None]:
        """Keeps every other filler on this node, also in this process, from these bytes."""
        self._lock(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, offset, num_bytes)
        try:
            yield
        finally:
            self._lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, offset, num_bytes)

    def settle_doubts(self, *, always: bool = False) -> None:
        """Compares all marked bytes with their digests if the file was written to after its last mark.

        A killed filler wrote then, or a process that must not write here. New marks would hide that from the next
        check.

        Args: always: compares them in any case.
        """
        if always or self._is_doubtful():
            with self.turn(0, 0):  # locks to the end of the file: no filler runs
                if always or self._is_doubtful():
                    marked = [piece for piece in self._marked() if self.digest(piece) == piece.digest]
                    os.ftruncate(self._marks, 0)
                    self.mark(marked)

    def missing(self, pieces: Iterable[P]) -> list[P]:
        """The pieces without a trustworthy mark, in the file's order, each once."""
        marked, boot = self._marked(), boot_identity()
        found: list[P] = []
        again: list[P] = []
        for piece in sorted(set(pieces), key=lambda piece: (piece.offset, piece.num_bytes)):
            marked_in = marked.get(_key(piece))
            if marked_in == boot:
                continue
            (again if marked_in and self.digest(piece) == piece.digest else found).append(piece)
        self.mark(again)
        return found

    def _is_doubtful(self) -> bool:
        marks = os.fstat(self._marks)
        return marks.st_size > 0 and os.fstat(self._descriptor).st_mtime_ns > marks.st_mtime_ns

    def _marked(self) -> dict[Stretch, str]:
        return _marks(os.pread(self._marks, os.fstat(self._marks).st_size, 0))

    def mark(self, pieces: Sequence[Piece]) -> None:
        if pieces:
            boot = boot_identity()
            lines = [f"{boot} {one.offset} {one.num_bytes} {one.digest}\n" for one in pieces]
            os.write(self._marks, "".join(lines).encode())

    def write(self, body: memoryview, offset: int) -> None:
        while body:
            num_written = os.pwrite(self._descriptor, body, offset)
            body, offset = body[num_written:], offset + num_written

    def digest(self, piece: Piece) -> str:
        digest, buffer = self._hasher(), bytearray(min(_READ_BYTES, piece.num_bytes))
        position, end = piece.offset, piece.offset + piece.num_bytes
        while position < end:
            view = memoryview(buffer)[: end - position]
            num_read = os.preadv(self._descriptor, [view], position)
            if not num_read:
                break
            digest.update(view[:num_read])
            position += num_read
        return digest.hexdigest()

    def _lock(self, command: int, kind: int, offset: int, num_bytes: int) -> None:
        # struct flock: type, whence, start, length, pid (0 for locks of an open file, which threads do not share).
        fcntl.fcntl(self._descriptor, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, offset, num_bytes, 0))


def marked_pieces(marks: Path, *, boot: str | None = None) -> set[Stretch]:
    """The pieces that a file of marks names: in this boot; without one in any, for who compares them with digests."""
    try:
        return {piece for piece, marked_in in _marks(marks.read_bytes()).items() if boot in (None, marked_in)}
    except FileNotFoundError:
        return set()


def _marks(lines: bytes) -> dict[Stretch, str]:
    """Maps each marked piece to the boot of its last mark."""
    marked = {}
    for line in lines.decode("ascii", "replace").splitlines():
        if match := _MARK.fullmatch(line):  # a writer killed in the middle leaves a partial line
            boot, offset, num_bytes, digest = match.groups()
            marked[Stretch(int(offset), int(num_bytes), digest)] = boot
    return marked


def _key(piece: Piece) -> Stretch:
    return Stretch(piece.offset, piece.num_bytes, piece.digest)
