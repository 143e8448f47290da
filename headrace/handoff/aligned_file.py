"""Arrow IPC files with aligned buffers and a digest for each buffer.

pyarrow's writer aligns to 8 bytes and has no option for more. This sink moves each buffer, without a copy, to a 64-byte
boundary of the file, which dlpack and SIMD need, or to 4 KiB for O_DIRECT. It adjusts the metadata that holds the
buffers' positions. Every other byte of the format is Arrow's own.

Segments cover the file without a gap, padding included, so a change of any bit changes a digest.
"""

from typing import Protocol

import pyarrow as pa
import xxhash

from headrace.handoff.ipc_metadata import (
    body_of,
    buffer_columns,
    move_blocks,
    move_buffer,
    set_body_length,
)
from headrace.store.objects import Segment

ALIGNMENT = 64
# The `column` of segments that every reader needs: magic, schema, batch metadata, dictionaries, footer.
FRAME = -1

_MAGIC_BYTES = 8
_PREFIX_BYTES = 8  # a continuation mark, and the metadata's length
_TRAILER_BYTES = 10  # the footer's length, and the magic again
# Blocks of this size stay in a core's cache between digesting and writing.
_BLOCK_BYTES = 1024 * 1024


class _Writable(Protocol):
    def write(self, body: bytes | memoryview, /) -> int: ...


class AlignedFile:
    """The sink of one `pa.ipc.RecordBatchFileWriter`; call `finish` after that is closed.

    Follows the stream by position alone, so the sizes of Arrow's writes do not matter.
    """

    def __init__(self, target: _Writable, schema: pa.Schema, alignment: int = ALIGNMENT) -> None:
        self.num_bytes = 0
        self.segments: list[Segment] = []
        self.columns: list[int] = []
        self.closed = False
        self._target = target
        self._schema = schema
        self._alignment = alignment
        self._digest = xxhash.xxh3_128()
        self._segment_start = 0
        # Collects small pieces until `_wanted` bytes are there; then `_step` takes them.
        self._waiting = bytearray()
        self._wanted: int | None = _MAGIC_BYTES
        self._step = self._on_magic
        # The rest of a body: (offset, end, column) of its buffers, offsets as Arrow wrote them.
        self._body: list[tuple[int, int, int]] = []
        self._body_at = 0
        self._body_bytes = 0
        self._blocks: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}

    def write(self, body: bytes | memoryview, /) -> int:
        view = memoryview(body).cast("B")
        num_bytes = len(view)
        while len(view):
            view = self._take_body(view) if self._body_at < self._body_bytes else self._take_small(view)
        return num_bytes

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def finish(self) -> None:
        """Writes the footer, with its blocks at the batches' new positions."""
        footer, trailer = self._waiting[:-_TRAILER_BYTES], self._waiting[-_TRAILER_BYTES:]
        move_blocks(footer, self._blocks[True], self._blocks[False])
        self._emit(footer)
        self._emit(trailer)
        self._cut(FRAME)

    def _take_small(self, view: memoryview) -> memoryview:
        missing = len(view) if self._wanted is None else self._wanted - len(self._waiting)
        self._waiting += view[:missing]
        if self._wanted is not None and len(self._waiting) == self._wanted:
            taken, self._waiting = self._waiting, bytearray()
            self._step(taken)
        return view[missing:]

    def _take_body(self, view: memoryview) -> memoryview:
        if not self._body or self._body_at < self._body[0][0]:
            # Skips Arrow's own padding: ours follows the buffer.
            end = self._body[0][0] if self._body else self._body_bytes
            skipped = min(len(view), end - self._body_at)
            self._body_at += skipped
            return view[skipped:]
        _, end, column = self._body[0]
        taken = view[: end - self._body_at]
        self._emit(taken)
        self._body_at += len(taken)
        if self._body_at == end:
            self._emit(bytes(-self.num_bytes % self._alignment))
            self._cut(column)
            self._body.pop(0)
        return view[len(taken) :]

    def _on_magic(self, magic: bytearray) -> None:
        self._emit(magic)
        self._wanted, self._step = _PREFIX_BYTES, self._on_prefix

    def _on_prefix(self, prefix: bytearray) -> None:
        metadata_bytes = int.from_bytes(prefix[4:], "little")
        if metadata_bytes:
            self._wanted, self._step = metadata_bytes, self._on_metadata
        else:
            self._emit(prefix)  # the stream ends here, and the footer follows
            self._wanted = None

    def _on_metadata(self, metadata: bytearray) -> None:
        self._wanted, self._step = _PREFIX_BYTES, self._on_prefix
        body = body_of(metadata)
        if body is None:
            self._emit(b"\xff\xff\xff\xff" + len(metadata).to_bytes(4, "little"))
            self._emit(metadata)
            return
        in_frame = body.is_dictionary
        columns = [FRAME] * len(body.buffers) if in_frame else buffer_columns(self._schema, body)
        at, moved = 0, []
        for (position, offset, length), column in zip(body.buffers, columns, strict=True):
            move_buffer(metadata, position, at, length)
            at += length + -length % self._alignment
            if length:
                moved.append((offset, offset + length, column))
        set_body_length(metadata, at)
        start = self.num_bytes
        metadata += bytes(-(start + _PREFIX_BYTES + len(metadata)) % self._alignment)
        self._emit(b"\xff\xff\xff\xff" + len(metadata).to_bytes(4, "little"))
        self._emit(metadata)
        self._cut(FRAME)
        self._blocks[in_frame].append((start, _PREFIX_BYTES + len(metadata), at))
        self._body, self._body_at, self._body_bytes = moved, 0, body.num_bytes

    def _emit(self, body: bytes | bytearray | memoryview) -> None:
        view = memoryview(body)
        for start in range(0, len(view), _BLOCK_BYTES):
            block = view[start : start + _BLOCK_BYTES]
            self._digest.update(block)
            self._target.write(block)
        self.num_bytes += len(view)

    def _cut(self, column: int) -> None:
        num_bytes = self.num_bytes - self._segment_start
        if num_bytes:
            digest = self._digest.hexdigest()
            self.segments.append(Segment(offset=self._segment_start, num_bytes=num_bytes, xxh3_128=digest))
            self.columns.append(column)
            self._digest.reset()
            self._segment_start = self.num_bytes
