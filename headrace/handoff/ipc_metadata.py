"""Reads the buffers' positions from Arrow's IPC metadata, and changes them in place.

Arrow describes a file in FlatBuffers (format/Message.fbs and File.fbs of the Arrow format). Offsets and lengths are
fixed-width structs, so moving a buffer means overwriting sixteen bytes. Everything else that Arrow wrote (schemas,
nested nodes, dictionaries, counts of view buffers) stays unchanged.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import lib  # pyright: ignore[reportAttributeAccessIssue] (a compiled module; it has the type ids)

from headrace.errors import InvalidInput

_DICTIONARY_BATCH = 2
_RECORD_BATCH = 3
_BUFFER = struct.Struct("<qq")  # offset in the body, length
_BLOCK = struct.Struct("<qi4xq")  # offset in the file, metadata length, body length


@dataclass(frozen=True, kw_only=True)
class Body:
    """The position of one message's body according to its metadata.

    `buffers` has (position of the Buffer struct in the metadata, offset in the body, length in bytes), in field order.
    """

    is_dictionary: bool
    num_bytes: int
    buffers: tuple[tuple[int, int, int], ...]
    variadic_counts: tuple[int, ...]


def body_of(metadata: bytes | bytearray) -> Body | None:
    """Returns None if the message has no body (a schema)."""
    message = _root(metadata)
    (kind,) = struct.unpack_from("<B", metadata, _field(metadata, message, 1))
    if kind not in {_DICTIONARY_BATCH, _RECORD_BATCH}:
        return None
    batch = _child(metadata, message, 2)
    if kind == _DICTIONARY_BATCH:
        batch = _child(metadata, batch, 1)
    at = _field(metadata, message, 3)
    buffers = tuple((at, *_BUFFER.unpack_from(metadata, at)) for at in _vector(metadata, batch, 2, _BUFFER.size))
    counts = tuple(struct.unpack_from("<q", metadata, at)[0] for at in _vector(metadata, batch, 4, 8))
    return Body(
        is_dictionary=kind == _DICTIONARY_BATCH,
        num_bytes=struct.unpack_from("<q", metadata, at)[0] if at else 0,
        buffers=buffers,
        variadic_counts=counts,
    )


def move_buffer(metadata: bytearray, position: int, offset: int, length: int) -> None:
    _BUFFER.pack_into(metadata, position, offset, length)


def set_body_length(metadata: bytearray, num_bytes: int) -> None:
    """A body without bytes stays without: its length has no field, and needs none."""
    if at := _field(metadata, _root(metadata), 3):
        struct.pack_into("<q", metadata, at, num_bytes)


def move_blocks(
    footer: bytearray, dictionaries: list[tuple[int, int, int]], batches: list[tuple[int, int, int]]
) -> None:
    """Overwrites the footer's blocks, each (offset in the file, metadata length with prefix, body length), in order."""
    for index, blocks in ((2, dictionaries), (3, batches)):
        positions = list(_vector(footer, _root(footer), index, _BLOCK.size))
        if len(positions) != len(blocks):
            raise InvalidInput(f"Arrow's footer lists {len(positions)} blocks where {len(blocks)} were written.")
        for at, block in zip(positions, blocks, strict=True):
            _BLOCK.pack_into(footer, at, *block)


def buffer_columns(schema: pa.Schema, body: Body) -> list[int]:
    """For each buffer of a record batch, the index of the top-level column that it belongs to.

    Raises:
        InvalidInput: this module does not know the layout of a type in the schema.
    """
    counts = iter(body.variadic_counts)
    columns = [index for index, field in enumerate(schema) for _ in range(_num_buffers(field.type, counts))]
    if len(columns) != len(body.buffers):
        raise InvalidInput(f"Arrow wrote {len(body.buffers)} buffers where the schema has {len(columns)}: {schema}.")
    return columns


def _num_buffers(kind: pa.DataType, variadic_counts: Iterator[int]) -> int:
    """Buffers of one field and its children, as Columnar.rst lists them (metadata version 5)."""
    if isinstance(kind, pa.BaseExtensionType):
        return _num_buffers(kind.storage_type, variadic_counts)
    if pa.types.is_null(kind):
        return 0
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return 2 + next(variadic_counts)
    if has_offsets_and_values(kind):
        return 3
    own = _OWN_BUFFERS.get(kind.id, 2)
    children = 0 if pa.types.is_dictionary(kind) else kind.num_fields
    return own + sum(_num_buffers(kind.field(index).type, variadic_counts) for index in range(children))


def has_offsets_and_values(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


# Types that are not listed have two: validity, and values or offsets.
_OWN_BUFFERS = {
    lib.Type_FIXED_SIZE_LIST: 1,
    lib.Type_STRUCT: 1,
    lib.Type_SPARSE_UNION: 1,
    lib.Type_DENSE_UNION: 2,
    lib.Type_LIST_VIEW: 3,
    lib.Type_LARGE_LIST_VIEW: 3,
    lib.Type_RUN_END_ENCODED: 0,
}


def _root(table: bytes | bytearray) -> int:
    return struct.unpack_from("<I", table, 0)[0]


def _field(text: bytes | bytearray, table: int, index: int) -> int:
    """The position of field `index` of the table at `table`; 0 if the field is absent."""
    vtable = table - struct.unpack_from("<i", text, table)[0]
    slot = 4 + 2 * index
    if slot >= struct.unpack_from("<H", text, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", text, vtable + slot)[0]
    return table + offset if offset else 0


def _child(text: bytes | bytearray, table: int, index: int) -> int:
    at = _field(text, table, index)
    return at + struct.unpack_from("<I", text, at)[0]


def _vector(text: bytes | bytearray, table: int, index: int, width: int) -> Iterator[int]:
    if not _field(text, table, index):
        return
    start = _child(text, table, index)
    (length,) = struct.unpack_from("<I", text, start)
    for number in range(length):
        yield start + 4 + number * width
