"""Arrow tables as polars frames: without a copy, except for small decimals.

polars 2 takes the 4 or 8 bytes of a decimal32 or decimal64 in a stream for 16, reads beyond the buffer and shows what
lies there (tests/upstream/test_polars.py). So these are converted to decimal128 of the same precision, which is also
the type that polars reports.
"""

import polars as pl
import pyarrow as pa


def polars_frame(table: pa.Table) -> pl.DataFrame:
    """A column of an extension type loses that type if its storage is widened.

    Args:
        table: as read from a file. In memory, casting a map that came out of `take` may kill the process
            (tests/upstream/test_arrow.py); files have no such maps.
    """
    # As a stream of batches, which polars takes as they are: `from_arrow` goes over them column by column, which takes
    # twice the time in a process that has just begun.
    return pl.DataFrame(widened(table).to_reader())


def widened(table: pa.Table) -> pa.Table:
    """Converts every smaller decimal to decimal128, also inside another type; leaves other columns unchanged."""
    for index, field in enumerate(table.schema):
        wanted = _widened(field.type)
        if not wanted.equals(field.type):
            table = table.set_column(index, field.with_type(wanted), table.column(index).cast(wanted))
    return table


def _widened(kind: pa.DataType) -> pa.DataType:
    """Leaves list views and run ends unchanged: polars refuses them, whatever they hold."""
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, pa.BaseExtensionType):
        storage = _widened(kind.storage_type)
        return kind if storage.equals(kind.storage_type) else storage
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _widened(kind.value_type), kind.ordered)
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
    return field.with_type(_widened(field.type))
