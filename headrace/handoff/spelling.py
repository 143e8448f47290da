"""One text, several spellings: Arrow has three types for strings, and as many for bytes.

Files carry views (`string_view`), which polars and DuckDB read in place; pyarrow's kernels need the older types.
Schemas, digests and checks treat all spellings of a column alike.
"""

from collections.abc import Callable

import pyarrow as pa

_TypeOf = Callable[[pa.DataType], pa.DataType]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The same type with `string` and `binary` for every spelling of text and bytes, at any depth."""
    return _respelled(kind, pa.string(), pa.binary())


def view_type(kind: pa.DataType) -> pa.DataType:
    return _respelled(kind, pa.string_view(), pa.binary_view())


def large_type(kind: pa.DataType) -> pa.DataType:
    return _respelled(kind, pa.large_string(), pa.large_binary())


def respelled(schema: pa.Schema, spelling: _TypeOf) -> pa.Schema:
    return pa.schema([field.with_type(_castable(field.type, spelling)) for field in schema], metadata=schema.metadata)


def respell(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """The same column as `kind`; from `string` to a view, the text is not copied."""
    return column if column.type.equals(kind) else column.cast(kind)


def _castable(kind: pa.DataType, spelling: _TypeOf) -> pa.DataType:
    """Returns types without a cast (some nestings) unchanged. Maps too: Arrow 25 kills the process when it casts a map
    that came out of `take` (tests/upstream/test_arrow.py).
    """
    wanted = spelling(kind)
    if wanted.equals(kind) or _has_map(kind):
        return kind
    try:
        # `pa.array([])` would import pandas, which takes longer than writing a GB.
        pa.nulls(0, kind).cast(wanted)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        return kind
    return wanted


def _has_map(kind: pa.DataType) -> bool:
    return pa.types.is_map(kind) or any(_has_map(kind.field(index).type) for index in range(kind.num_fields))


def _respelled(kind: pa.DataType, text: pa.DataType, raw: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return text
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return raw
    if pa.types.is_map(kind):
        return pa.map_(_field(kind.key_field, text, raw), _field(kind.item_field, text, raw), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field, text, raw), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_field(kind.value_field, text, raw))
    if pa.types.is_list(kind):
        return pa.list_(_field(kind.value_field, text, raw))
    if pa.types.is_struct(kind):
        return pa.struct([_field(kind.field(index), text, raw) for index in range(kind.num_fields)])
    return kind


def _field(field: pa.Field, text: pa.DataType, raw: pa.DataType) -> pa.Field:
    return field.with_type(_respelled(field.type, text, raw))
