import polars as pl
import pyarrow as pa
import pytest

from headrace.errors import InvalidInput
from headrace.handoff.frames import arrow_table


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
