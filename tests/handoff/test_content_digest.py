from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.handoff.content_digest import ContentDigest

# One type of each layout, with the values that it takes.
KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=6),
    pa.large_binary(): st.binary(max_size=6),
    pa.string_view(): st.text(max_size=20),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.timestamp("us"): st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)),
    pa.decimal128(9, 2): st.integers(-(10**6), 10**6).map(lambda cents: Decimal(cents).scaleb(-2)),
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(0, 9), max_size=3),
    pa.large_list(pa.string()): st.lists(st.text(max_size=3), max_size=3),
    pa.list_(pa.int32(), 2): st.lists(st.integers(0, 9), min_size=2, max_size=2),
    pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]): st.fixed_dictionaries(
        {"a": st.none() | st.integers(0, 9), "b": st.none() | st.lists(st.text(max_size=2), max_size=2)}
    ),
    pa.null(): st.none(),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    num_rows = draw(st.integers(0, 12))
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3))
    columns = [
        pa.array(draw(st.lists(st.none() | KINDS[kind], min_size=num_rows, max_size=num_rows)), kind) for kind in kinds
    ]
    return pa.table(dict(zip("xyz", columns, strict=False)))


def digest_of(*batches: pa.RecordBatch) -> str:
    digest = ContentDigest(batches[0].schema)
    for batch in batches:
        digest.update(batch)
    return digest.hexdigest()


def whole(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(table.to_pylist(), schema=table.schema)


@given(table=tables(), cuts=st.lists(st.integers(0, 12), max_size=3), surplus=st.integers(0, 4))
def test_equal_values_have_one_digest_however_they_are_cut(table: pa.Table, cuts: list[int], surplus: int) -> None:
    longer = pa.concat_tables([table.slice(0, surplus), table, table.slice(0, surplus)]).combine_chunks()
    offset = min(surplus, table.num_rows)
    batch = (longer.to_batches() or [whole(table)])[0]
    edges = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    pieces = [batch.slice(offset + start, end - start) for start, end in pairwise(edges)]
    assert digest_of(*pieces) == digest_of(whole(table))


@given(one=tables(), other=tables())
def test_tables_have_one_digest_if_and_only_if_they_are_equal(one: pa.Table, other: pa.Table) -> None:
    one, other = one.combine_chunks(), other.combine_chunks()
    # Arrow's `equals` takes 0.0 for -0.0; the digest does not.
    equal = one.schema.equals(other.schema) and repr(one.to_pylist()) == repr(other.to_pylist())
    assert (digest_of(whole(one)) == digest_of(whole(other))) == equal


def test_what_hides_under_a_null_does_not_count() -> None:
    valid = pa.py_buffer(bytes([0b101]))
    arrays = [
        pa.Array.from_buffers(pa.int32(), 3, [valid, pa.array([1, hidden, 3], pa.int32()).buffers()[1]])
        for hidden in (7, 8)
    ]
    one, other = (digest_of(pa.record_batch({"x": array})) for array in arrays)
    assert one == other == digest_of(pa.record_batch({"x": pa.array([1, None, 3], pa.int32())}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        ([None, "a"], ["", "a"]),
        ([None, "a"], ["a", None]),
        ([[1], [2, 3]], [[1, 2], [3]]),
        ([[1], []], [[1], None]),
    ],
)
def test_neighbours_that_run_together_differ(one: list, other: list) -> None:
    assert digest_of(pa.record_batch({"x": one})) != digest_of(pa.record_batch({"x": other}))


def test_an_encoding_that_spells_a_value_in_several_ways_has_one_digest() -> None:
    def dictionary(indices: list[int | None], values: list[str]) -> pa.RecordBatch:
        return pa.record_batch({"x": pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), values)})

    one = dictionary([0, 1, None, 0], ["a", "b"])
    assert digest_of(one) == digest_of(dictionary([2, 1, None, 2], ["c", "b", "a"]))
    assert digest_of(one) != digest_of(dictionary([0, 0, None, 0], ["a", "b"]))
    texts = [pa.record_batch({"x": pa.array(["a", None, "bc"], kind)}) for kind in (pa.string(), pa.string_view())]
    assert digest_of(texts[0]) == digest_of(texts[1])


@pytest.mark.parametrize(
    "kind",
    [
        pa.dense_union([pa.field("a", pa.int8())]),
        pa.list_(pa.sparse_union([pa.field("a", pa.int8())])),
        pa.struct([("a", pa.run_end_encoded(pa.int32(), pa.int8()))]),
        pa.list_(pa.list_view(pa.int8())),
    ],
    ids=str,
)
def test_types_that_arrow_itself_does_not_keep_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(InvalidInput, match=r"Column 'x' has type .*, which a handoff does not carry"):
        ContentDigest(pa.schema([("x", kind)]))
