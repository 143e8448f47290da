"""Arrow tables as polars frames: without a copy, but for small decimals inside of other types.

polars 2 takes the 4 or 8 bytes of a decimal32 or decimal64 inside of a struct, a list, a map or a dictionary for 16,
reads beyond the buffer and shows what lies there (tests/upstream/test_polars.py). So these go to it as decimal128 of
the same precision, which is also what polars says that they are.
"""

import polars as pl
import pyarrow as pa


def polars_frame(table: pa.Table) -> pl.DataFrame:
    """A column of an extension type loses it where its storage is widened.

    Args:
        table: as read from a file. In memory, a map that came out of `take` may end the process at its cast
            (tests/upstream/test_arrow.py); a file has no such maps.
    """
    frame = pl.from_arrow(widened(table), rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    return frame


def widened(table: pa.Table) -> pa.Table:
    """With decimal128 for every smaller decimal inside of another type; the other columns are the same."""
    for index, field in enumerate(table.schema):
        wanted = _widened(field.type)
        if not wanted.equals(field.type):
            table = table.set_column(index, field.with_type(wanted), table.column(index).cast(wanted))
    return table


def _widened(kind: pa.DataType, *, is_inside: bool = False) -> pa.DataType:
    """List views and run ends stay: polars refuses them, whatever is in them."""
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale) if is_inside else kind
    if isinstance(kind, pa.BaseExtensionType):
        storage = _widened(kind.storage_type, is_inside=is_inside)
        return kind if storage.equals(kind.storage_type) else storage
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _widened(kind.value_type, is_inside=True), kind.ordered)
    if pa.types.is_map(kind):
        return pa.map_(_field(kind.key_field), _field(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_field(kind.value_field))
    if pa.types.is_list(kind):
        return pa.list_(_field(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_field(kind.field(index)) for index in range(kind.num_fields)])
    return kind


def _field(field: pa.Field) -> pa.Field:
    return field.with_type(_widened(field.type, is_inside=True))
