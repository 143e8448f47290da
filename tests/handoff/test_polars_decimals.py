"""Small decimals, which polars misreads unless they are widened first."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from headrace.handoff.comparison import compare
from headrace.handoff.export import export_file
from headrace.handoff.polars_frame import widened
from headrace.handoff.versions import Handoff, HandoffStore

PRICE, WEIGHT = pa.decimal32(7, 2), pa.decimal64(15, 3)
ONE, TWO = Decimal("1.00"), Decimal("-2.25")
LIGHT, HEAVY = Decimal("0.001"), Decimal("123456789012.345")
# A type, and the values of two rows as polars has them.
CASES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "at the top": (PRICE, [ONE, TWO]),
    "a struct": (pa.struct({"a": PRICE, "b": WEIGHT}), [{"a": ONE, "b": HEAVY}, {"a": None, "b": LIGHT}]),
    "a struct in a struct": (pa.struct({"a": pa.struct({"a": WEIGHT})}), [{"a": {"a": HEAVY}}, {"a": {"a": LIGHT}}]),
    "a list": (pa.list_(PRICE), [[ONE, None, TWO], []]),
    "a large list": (pa.large_list(WEIGHT), [[LIGHT], [HEAVY, LIGHT]]),
    "a fixed-size list": (pa.list_(PRICE, 2), [[ONE, TWO], [TWO, None]]),
    "a list of lists": (pa.list_(pa.list_(WEIGHT)), [[[HEAVY], []], [[LIGHT, HEAVY]]]),
    "a list of structs": (
        pa.list_(pa.struct({"text": pa.string(), "b": WEIGHT})),
        [[{"text": "a text longer than a view", "b": HEAVY}], [{"text": None, "b": LIGHT}]],
    ),
    "a map's items": (pa.map_(pa.string(), WEIGHT), [{"a": HEAVY, "b": LIGHT}, {"c": None}]),
    "a map's keys": (pa.map_(PRICE, pa.int64()), [{ONE: 1, TWO: 2}, {}]),
}


def publish(handoffs: HandoffStore, column: pa.Array, partition: str = "all") -> Handoff:
    table = pa.table({"number": pa.array(range(len(column))), "x": column})
    return handoffs.publish(
        "docs", partition, table.to_batches(max_chunksize=1), schema=table.schema, code_version="1", run_id="r"
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_polars_has_the_values_that_were_published(handoffs: HandoffStore, case: tuple[pa.DataType, list[Any]]) -> None:
    kind, values = case
    column = pa.array([list(each.items()) if pa.types.is_map(kind) else each for each in values], kind)
    handoff = publish(handoffs, column)
    assert handoff.polars()["x"].to_list() == values
    assert handoff.polars(rows=range(1, 2))["x"].to_list() == values[1:]
    assert handoff.lazy().filter(pl.col("number") == 1).collect()["x"].to_list() == values[1:]
    assert handoff.polars(rows=range(0)).schema == handoff.polars().schema == handoff.lazy().collect_schema()


def test_a_dictionary_of_structs_is_read(handoffs: HandoffStore) -> None:
    structs = pa.array([{"a": ONE}, {"a": TWO}], pa.struct({"a": PRICE}))
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int8()), structs)
    assert publish(handoffs, column).polars()["x"].to_list() == [{"a": TWO}, {"a": ONE}, {"a": TWO}]


def test_a_map_that_was_taken_is_read(handoffs: HandoffStore) -> None:
    """In memory, Arrow ends the process at the cast of such a map."""
    kind = pa.map_(pa.struct({"a": PRICE}), pa.string())
    taken = pa.array([[({"a": ONE}, "one")], []], kind).take(pa.array([1, 0]))
    found = publish(handoffs, taken).polars()["x"]
    assert found.cast(
        pl.List(pl.Struct({"key": pl.Struct({"a": pl.Decimal(7, 2)}), "value": pl.String}))
    ).to_list() == [
        [],
        [{"key": {"a": ONE}, "value": "one"}],
    ]


def test_the_storage_of_an_extension_type_is_read() -> None:
    class Priced(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.struct({"a": PRICE}), "headrace.tests.priced")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Priced":
            return cls()

    column = pa.ExtensionArray.from_storage(Priced(), pa.array([{"a": ONE}], pa.struct({"a": PRICE})))
    assert widened(pa.table({"x": column}))["x"].to_pylist() == [{"a": ONE}]
    assert widened(pa.table({"x": column})).schema.field("x").type == pa.struct({"a": pa.decimal128(7, 2)})


def test_an_export_has_the_values(handoffs: HandoffStore, tmp_path: Path) -> None:
    handoff = publish(handoffs, pa.array([[{"a": ONE}], [{"a": TWO}]], pa.list_(pa.struct({"a": PRICE}))))
    lines = export_file(handoff, tmp_path / "rows.jsonl", "jsonl").read_text().splitlines()
    assert [json.loads(line)["x"] for line in lines] == [[{"a": "1.00"}], [{"a": "-2.25"}]]


def test_a_comparison_finds_what_changed(handoffs: HandoffStore) -> None:
    kind = pa.list_(pa.struct({"a": PRICE}))
    before = publish(handoffs, pa.array([[{"a": ONE}], [{"a": ONE}]], kind), "before")
    after = publish(handoffs, pa.array([[{"a": ONE}], [{"a": TWO}]], kind), "after")
    found = compare(before, after)
    assert (found.num_same, found.num_changed) == (1, 1)


def test_a_table_without_them_is_the_same_object() -> None:
    table = pa.table({"x": [1], "y": [[1]]}, metadata={"a": "b"})
    assert widened(table) is table


def test_other_columns_and_texts_beside_them_are_not_copied() -> None:
    structs = pa.array([{"a": ONE, "number": 1}], pa.struct({"a": PRICE, "number": pa.int64()}))
    table = pa.table({"x": structs, "y": [1]}, metadata={"a": "b"})
    found = widened(table)
    assert found.schema.metadata == table.schema.metadata
    assert found["y"].chunk(0).buffers()[1].address == table["y"].chunk(0).buffers()[1].address
    assert found["x"].chunk(0).field(1).buffers()[1].address == structs.field(1).buffers()[1].address
