from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from headrace.errors import InvalidInput
from headrace.handoff.frames import arrow_table, pandas_frame


def test_polars_columns_keep_their_values() -> None:
    frame = pl.DataFrame(
        {
            "text": ["a", None],
            "words": [["a"], []],
            "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
            "vector": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int32, 2)),
            "nested": [{"a": "b"}, {"a": None}],
        }
    )
    table = arrow_table(frame.lazy())
    assert table.schema.types[0] == pa.string_view()
    assert table.to_pylist() == frame.to_dicts()


def test_a_table_that_is_plain_already_is_not_copied() -> None:
    table = pa.table({"text": ["a", "b"], "n": [1, 2]})
    again = arrow_table(table)
    assert [buffer.address for column in again.columns for buffer in column.chunk(0).buffers() if buffer] == [
        buffer.address for column in table.columns for buffer in column.chunk(0).buffers() if buffer
    ]


def test_polars_text_is_not_copied() -> None:
    frame = pl.DataFrame({"text": ["longer than twelve bytes", "so that it is not in its view"]})
    first, again = (arrow_table(frame)["text"].chunk(0).buffers()[2] for _ in range(2))
    assert first.address == again.address


@pytest.mark.parametrize("is_lazy", [False, True])
def test_columns_of_python_objects_are_refused_by_name(is_lazy: bool) -> None:
    objects = pl.Series([object(), {"a": object()}], dtype=pl.Object)
    frame = pl.DataFrame({"n": [1, 2], "image": objects, "voice": objects})
    with pytest.raises(InvalidInput, match=r"^image, voice are columns of Python objects .*pl\.Binary"):
        arrow_table(frame.lazy() if is_lazy else frame)


def test_a_table_comes_back_from_pandas_with_its_types_and_values() -> None:
    table = pa.table(
        {
            "text": pa.array(["a", None]),
            "whole": pa.array([2**53 + 1, None]),
            "small": pa.array([1, 2], pa.int8()),
            "is_new": pa.array([True, None]),
            "number": pa.array([0.5, None]),
            "day": pa.array([date(2026, 11, 22), None]),
            "at": pa.array([datetime(2026, 11, 22, 1), None], pa.timestamp("us")),
            "scores": pa.array([[2**53 + 1, None], None]),
            "parts": pa.array([{"n": 1, "name": None}, None], pa.struct({"n": pa.int32(), "name": pa.string()})),
            "by_name": pa.array([[("a", None)], None], pa.map_(pa.string(), pa.int64())),
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
        }
    )
    again = arrow_table(pandas_frame(table))
    assert again.cast(table.schema).to_pylist() == table.to_pylist()
    assert again.drop_columns(["text"]).schema == table.drop_columns(["text"]).schema


def test_text_that_is_a_view_is_read_by_pandas() -> None:
    frame = pandas_frame(pa.table({"text": pa.array(["a", "b"], pa.string_view())}))
    assert frame["text"].tolist() == ["a", "b"]


FRAME = pd.DataFrame({"x": [1, 2, 3]})
INDEXES: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "the usual one": (FRAME, {"x": [1, 2, 3]}),
    "what a filter leaves of it": (FRAME[FRAME["x"] > 1], {"x": [2, 3]}),
    "a named one": (FRAME.set_index(pd.Index(["a", "b", "c"], name="key")), {"key": ["a", "b", "c"], "x": [1, 2, 3]}),
    "two levels, of which one has a name": (
        FRAME.set_index(pd.MultiIndex.from_tuples([("a", 1), ("b", 2), ("c", 3)], names=["key", None])),
        {"key": ["a", "b", "c"], "x": [1, 2, 3]},
    ),
}


@pytest.mark.parametrize("phrase", INDEXES)
def test_a_pandas_index_is_a_column_where_it_has_a_name(phrase: str) -> None:
    frame, columns = INDEXES[phrase]
    table = arrow_table(frame)
    assert table.to_pydict() == columns
    assert table.schema.metadata is None


TWICE = {
    "two columns": pd.DataFrame([[1, 2]], columns=pd.Index(["x", "x"])),
    "a column and an index level": FRAME.set_index(pd.Index([1, 2, 3], name="x")),
}


@pytest.mark.parametrize("phrase", TWICE)
def test_a_pandas_name_that_stands_twice_is_refused(phrase: str) -> None:
    with pytest.raises(InvalidInput, match=r"cannot become an Arrow table: .*x.* a name of its own"):
        arrow_table(TWICE[phrase])
