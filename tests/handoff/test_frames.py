import polars as pl
import pyarrow as pa

from headrace.handoff.frames import arrow_table


def test_polars_strings_lists_and_categories_become_plain() -> None:
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
    assert [str(kind) for kind in table.schema.types] == [
        "string",
        "list<item: string>",
        "string",
        "fixed_size_list<item: int32>[2]",
        "struct<a: string>",
    ]
    assert table.to_pylist() == frame.to_dicts()


def test_a_table_that_is_plain_already_is_not_copied() -> None:
    table = pa.table({"text": ["a", "b"], "n": [1, 2]})
    again = arrow_table(table)
    assert [buffer.address for column in again.columns for buffer in column.chunk(0).buffers() if buffer] == [
        buffer.address for column in table.columns for buffer in column.chunk(0).buffers() if buffer
    ]


def test_dictionaries_of_arrow_become_their_values() -> None:
    table = pa.table({"kind": pa.array(["x", "y", "x"]).dictionary_encode()})
    assert arrow_table(table).to_pydict() == {"kind": ["x", "y", "x"]}
    assert arrow_table(table).schema.field("kind").type == pa.string()
