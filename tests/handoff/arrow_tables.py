"""Any Arrow table that hypothesis can make: nested types in each other, nulls and slices at every level."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

_TEXT = st.text(max_size=4) | st.text(min_size=13, max_size=20)
_SMALL = st.integers(-100, 100)
_FLOATS = st.sampled_from([0.0, -0.0, 1.5, -2.25, float("inf"), float("nan")])


def _decimals(scale: int) -> st.SearchStrategy[Decimal]:
    return _SMALL.map(lambda n: Decimal(n).scaleb(-scale))


LEAVES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    pa.int8(): _SMALL,
    pa.uint16(): st.integers(0, 2**16 - 1),
    pa.int32(): _SMALL,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): _FLOATS.map(np.float16),
    pa.float32(): _FLOATS,
    pa.float64(): _FLOATS,
    pa.string(): _TEXT,
    pa.large_string(): _TEXT,
    pa.string_view(): _TEXT,
    pa.binary(): st.binary(max_size=20),
    pa.large_binary(): st.binary(max_size=20),
    pa.binary_view(): st.binary(max_size=20),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal32(7, 2): _decimals(2),
    pa.decimal64(15, 3): _decimals(3),
    pa.decimal128(30, 4): _decimals(4),
    pa.decimal256(60, 5): _decimals(5),
    pa.date32(): _SMALL,
    pa.date64(): _SMALL.map(lambda days: days * 86_400_000),
    pa.time32("ms"): st.integers(0, 86_399_999),
    pa.time64("us"): st.integers(0, 86_399_999_999),
    pa.timestamp("us"): st.integers(0, 10**15),
    pa.timestamp("ms", "Europe/Berlin"): st.integers(0, 10**12),
    pa.duration("us"): _SMALL,
    pa.month_day_nano_interval(): st.tuples(_SMALL, _SMALL, _SMALL).map(pa.MonthDayNano),
}


class Celsius(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.float64(), "headrace.tests.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Celsius":
        return cls()


def _masks(num_rows: int) -> st.SearchStrategy[pa.Array | None]:
    masks = st.lists(st.booleans(), min_size=num_rows, max_size=num_rows)
    return st.none() | masks.map(lambda mask: pa.array(mask, pa.bool_()))


def _leaf(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    # Arrow's writer narrows lists of nulls in slices of maps wrongly: nulls stand at the top alone.
    kind = draw(st.sampled_from([kind for kind in LEAVES if depth or not pa.types.is_null(kind)]))
    return pa.array(draw(st.lists(st.none() | LEAVES[kind], min_size=num_rows, max_size=num_rows)), kind)


def _struct(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    children = [_array(draw, num_rows, depth - 1) for _ in range(draw(st.integers(1, 2)))]
    return pa.StructArray.from_arrays(children, names=list("ab")[: len(children)], mask=draw(_masks(num_rows)))


def _lengths(draw: st.DrawFn, num_rows: int) -> list[int]:
    return draw(st.lists(st.integers(0, 3), min_size=num_rows, max_size=num_rows))


def _list(lists: Any, width: pa.DataType) -> Callable[[st.DrawFn, int, int], pa.Array]:
    def build(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
        ends = np.cumsum([0, *_lengths(draw, num_rows)])
        values = _array(draw, int(ends[-1]), depth - 1)
        return lists.from_arrays(pa.array(ends, width), values, mask=draw(_masks(num_rows)))

    return build


def _list_view(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    values = _array(draw, 5, depth - 1)
    starts = draw(st.lists(st.integers(0, 2), min_size=num_rows, max_size=num_rows))
    return pa.ListViewArray.from_arrays(
        pa.array(starts, pa.int32()),
        pa.array(_lengths(draw, num_rows), pa.int32()),
        values,
        mask=draw(_masks(num_rows)),
    )


def _fixed_size_list(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    size = draw(st.integers(1, 3))
    values = _array(draw, size * num_rows, depth - 1)
    return pa.FixedSizeListArray.from_arrays(values, size, mask=draw(_masks(num_rows)))


def _map(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    ends = np.cumsum([0, *_lengths(draw, num_rows)])
    keys = pa.array([f"key {n} longer than a view" for n in range(ends[-1])])
    return pa.MapArray.from_arrays(pa.array(ends, pa.int32()), keys, _array(draw, int(ends[-1]), depth - 1))


def _dictionary(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    words = pa.array(
        ["a", "b", "a word longer than a view", None], draw(st.sampled_from([pa.string(), pa.large_string()]))
    )
    indices = draw(st.lists(st.none() | st.integers(0, 3), min_size=num_rows, max_size=num_rows))
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int8()), words)


def _run_ends(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    ends = sorted(draw(st.sets(st.integers(1, num_rows), max_size=3)) | {num_rows}) if num_rows else []
    values = pa.array(draw(st.lists(st.none() | _SMALL, min_size=len(ends), max_size=len(ends))), pa.int64())
    return pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), values)


def _extension(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    storage = pa.array(draw(st.lists(st.none() | _FLOATS, min_size=num_rows, max_size=num_rows)), pa.float64())
    return pa.ExtensionArray.from_storage(Celsius(), storage)


NESTED = [
    _struct,
    _list(pa.ListArray, pa.int32()),
    _list(pa.LargeListArray, pa.int64()),
    _list_view,
    _fixed_size_list,
    _map,
    _dictionary,
    _run_ends,
    _extension,
]


# Inside of others they are refused, since Arrow 25 writes and casts them wrongly there.
_AT_THE_TOP = {_run_ends, _list_view}


def _array(draw: st.DrawFn, num_rows: int, depth: int) -> pa.Array:
    nested = NESTED if depth > 1 else [build for build in NESTED if build not in _AT_THE_TOP]
    build = draw(st.sampled_from([_leaf, *nested])) if depth else _leaf
    before, behind = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    return build(draw, before + num_rows + behind, 1 if build in _AT_THE_TOP else depth).slice(before, num_rows)


@st.composite
def tables(draw: st.DrawFn, depth: int = 2) -> pa.Table:
    """Of one to three columns `x`, `y`, `z`, in one chunk."""
    num_rows = draw(st.integers(0, 6))
    columns = [_array(draw, num_rows, depth) for _ in range(draw(st.integers(1, 3)))]
    return pa.Table.from_arrays(columns, names=list("xyz")[: len(columns)])
