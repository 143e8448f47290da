"""Columns without text that none of their rows refers to.

A slice keeps the whole buffers that it was cut from. Arrow's writer narrows them for most types, but writes a view's
buffers whole, however little of them is used. Without this module, each part of a version would carry the text of all.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.handoff.spelling import large_type, respell

# A text column keeps a buffer for each batch that it was joined from; with more than this it is rewritten.
_TEXT_BUFFERS = 16


def trimmed(column: pa.Array, kind: pa.DataType | None = None) -> pa.Array:
    """The same rows (as `kind`, another spelling), with at most half of the text superfluous.

    Copies text only if more would be.
    """
    if kind is not None and not column.type.equals(kind):
        column = respell(_narrowed(column), kind)
    if any(map(_is_wasteful, _views(column))):
        return _afresh(column)
    return column


def _afresh(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        # A cast of lists would include all values behind the last row's.
        lengths = pc.call_function("list_value_length", [column]).fill_null(0).to_numpy(zero_copy_only=False)
        ends = np.concatenate([[0], lengths.cumsum()]).astype(np.int64 if pa.types.is_large_list(kind) else np.int32)
        lists = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
        mask = column.is_null() if column.null_count else None
        return lists.from_arrays(pa.array(ends), trimmed(column.flatten()), type=kind, mask=mask)
    try:
        return respell(column.cast(large_type(kind)), kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return column  # some nestings have no cast: larger than necessary, but correct


def num_bytes_of(batch: pa.RecordBatch) -> int:
    """The bytes that its rows need, whatever else its buffers hold."""
    return sum(map(_num_bytes, batch.columns))


def _num_bytes(column: pa.Array) -> int:
    """Replaces Arrow's count for views, which includes all of their text."""
    views = list(_views(column))
    if not views:
        return column.get_total_buffer_size() if _is_opaque(column.type) else column.nbytes
    without_text = 0 if is_view(column.type) else 8 * len(column)
    return without_text + sum(16 * len(each) + _text_bytes(each) for each in views)


def _is_opaque(kind: pa.DataType) -> bool:
    """Types for whose slices `nbytes` can kill the process. Their buffers count whole, which is too much for slices."""
    if isinstance(kind, pa.BaseExtensionType):
        return _is_opaque(kind.storage_type)
    if isinstance(kind, (pa.UnionType, pa.RunEndEncodedType)) or pa.types.is_list_view(kind):
        return True
    return pa.types.is_map(kind) or any(_is_opaque(kind.field(index).type) for index in range(kind.num_fields))


def is_view(kind: pa.DataType) -> bool:
    return pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)


def _is_wasteful(views: pa.Array) -> bool:
    texts = views.buffers()[2:]
    return len(texts) > _TEXT_BUFFERS or sum(text.size for text in texts if text) > 2 * _text_bytes(views)


def _views(column: pa.Array) -> Iterator[pa.Array]:
    """The view arrays in a column, at any depth, each narrowed to what the column's rows refer to."""
    kind = column.type
    if is_view(kind):
        yield column
    elif isinstance(column, pa.ExtensionArray):
        yield from _views(column.storage)
    elif not _has_views(kind):
        return  # flattening some types kills the process
    elif pa.types.is_struct(kind):
        for child in column.flatten():
            yield from _views(child)
    elif pa.types.is_map(kind):
        start, stop = (column.offsets[at].as_py() for at in (0, -1)) if len(column) else (0, 0)
        yield from _views(column.keys[start:stop])
        yield from _views(column.items[start:stop])
    elif (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)) and (
        _has_views(kind.value_type)
    ):
        yield from _views(column.flatten())


def _has_views(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_views(kind.storage_type)
    return is_view(kind) or any(_has_views(kind.field(index).type) for index in range(kind.num_fields))


def _text_bytes(column: pa.Array) -> int:
    """Bytes outside the views themselves: a text of up to 12 bytes is part of its view."""
    views = column.buffers()[1]
    if views is None or not len(column):
        return 0
    lengths = np.frombuffer(views, np.int32).reshape(-1, 4)[column.offset : column.offset + len(column), 0]
    if column.null_count:
        lengths = lengths[np.asarray(column.is_valid())]  # bytes under a null are arbitrary
    return int(lengths[lengths > 12].sum(dtype=np.int64))


def _narrowed(column: pa.Array) -> pa.Array:
    """Drops other rows' text, without a copy; offsets may count beyond what a view can."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        width = np.dtype(np.int32)
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        width = np.dtype(np.int64)
    else:
        return column
    valid, offsets, text = column.buffers()
    if text is None or not len(column):
        return column
    bit = column.offset % 8 if valid else 0  # validity is narrowed to whole bytes
    first = column.offset - bit
    ends = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    start, stop = int(ends[0]), int(ends[-1])
    if stop - start == text.size:
        return column
    rebased = np.concatenate([np.zeros(bit, width), ends - ends[0]])
    buffers = [valid.slice(first // 8) if valid else None, pa.py_buffer(rebased), text.slice(start, stop - start)]
    return pa.Array.from_buffers(kind, len(column), buffers, offset=bit)
