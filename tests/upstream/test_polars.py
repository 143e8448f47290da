"""Facts about polars which `headrace.handoff` leans on, or works around."""

from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest

# Polars takes 16 bytes a value. These are 32 for the first two values, so nothing beyond the buffer is read.
DECIMALS = pa.array([Decimal(1), Decimal(0), Decimal(2), Decimal(0)], pa.decimal64(15, 0))
SMALL = {
    "at the top": DECIMALS,
    "struct": pa.StructArray.from_arrays([DECIMALS[:2]], names=["a"]),
    "list": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), DECIMALS),
    "fixed-size list": pa.FixedSizeListArray.from_arrays(DECIMALS[:2], 2),
}


@pytest.mark.parametrize("column", SMALL.values(), ids=SMALL)
def test_small_decimals_of_a_stream_are_misread(column: pa.Array) -> None:
    """So `headrace.handoff.polars_frame` widens them; when they are read, it can go."""
    frame = pl.DataFrame(pa.table({"x": column}).to_reader())
    assert frame["x"].to_list() != column.to_pylist()


def test_structs_with_small_decimals_in_lists_panic() -> None:
    kind = pa.list_(pa.struct({"a": pa.decimal64(15, 0)}))
    with pytest.raises(pl.exceptions.PanicException, match="Int128 but the value has data type Decimal64"):
        repr(pl.from_arrow(pa.table({"x": pa.array([[{"a": Decimal(1)}]], kind)})))


def test_columns_of_objects_become_addresses_without_a_word() -> None:
    """So `headrace.handoff.frames` refuses them."""
    frame = pl.DataFrame({"x": pl.Series([object()], dtype=pl.Object)})
    assert frame.to_arrow().schema.field("x").type == pa.binary(8)
