"""Facts about pyarrow, DuckDB and datasets which `headrace.handoff` leans on, or works around."""

import subprocess
import sys
from pathlib import Path

import datasets
import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from headrace.handoff.ipc_metadata import body_of

TABLE = pa.table({"number": pa.array(range(1000)), "flag": [True, False] * 500})


class Sink:
    def __init__(self) -> None:
        self.addresses: list[tuple[int, int]] = []
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, body: bytes | memoryview, /) -> int:
        buffer = pa.py_buffer(body)
        self.addresses.append((buffer.address, buffer.size))
        self.pieces.append(bytes(body))
        return buffer.size

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_the_writer_hands_buffers_to_its_sink_uncopied() -> None:
    sink = Sink()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    values = TABLE["number"].chunk(0).buffers()[1]
    assert any(start <= values.address < start + size for start, size in sink.addresses)


def test_metadata_lists_buffers_in_field_order_and_aligns_them_to_eight_bytes() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    reader.read_next_message()
    body = body_of(reader.read_next_message().metadata.to_pybytes())
    assert body
    assert [length for _, _, length in body.buffers] == [0, 8000, 0, 125]
    assert all(offset % 8 == 0 for _, offset, _ in body.buffers)
    assert {offset % 64 for _, offset, _ in body.buffers} >= {0}


def test_included_fields_reads_into_memory_of_its_own() -> None:
    """So `headrace.handoff.parts` reads a whole batch, of which nothing is touched, and selects."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    body = sink.getvalue()

    def is_inside(options: pa.ipc.IpcReadOptions) -> bool:
        address = pa.ipc.open_file(body, options=options).get_batch(0).column(0).buffers()[1].address
        return body.address <= address < body.address + body.size

    assert is_inside(pa.ipc.IpcReadOptions())
    assert not is_inside(pa.ipc.IpcReadOptions(included_fields=[0]))


def test_a_views_buffers_are_written_whole_whatever_is_used_of_them() -> None:
    texts = pa.array([f"text of row {n}, no part of a view" for n in range(1000)], pa.string_view())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("text", texts.type)])) as writer:
        writer.write_batch(pa.record_batch({"text": texts.slice(5, 1)}))
    assert sink.getvalue().size > 30_000


def test_a_cast_of_a_sliced_list_view_takes_wrong_values() -> None:
    lists = pa.ListViewArray.from_arrays(
        pa.array([0, 1, 2], pa.int32()), pa.array([3, 0, 1], pa.int32()), pa.array("abcde")
    )
    assert lists[1:].to_pylist() == [[], ["c"]]
    assert lists[1:].cast(pa.large_list(pa.string())).to_pylist() != [[], ["c"]]


def test_duckdb_asks_a_subclass_of_dataset_for_its_schema_and_for_scans_of_some_columns() -> None:
    scans = []

    class Observed(ds.Dataset):
        def __init__(self) -> None: ...

        @property
        def schema(self) -> pa.Schema:
            return TABLE.schema

        def scanner(self, columns=None, filter=None):  # noqa: A002
            scans.append((columns, str(filter)))
            found = TABLE if filter is None else TABLE.filter(filter)
            return ds.Scanner.from_batches(found.select(columns).to_batches(), schema=found.select(columns).schema)

    found = duckdb.connect().from_arrow(Observed())
    assert scans == []
    assert found.filter("flag and number > 996").project("number").fetchall() == [(998,)]
    assert found.project("flag").limit(1).fetchall() == [(True,)]
    assert scans[-1] == (["flag"], "None")


def test_duckdb_offers_no_filter_where_a_column_is_a_view() -> None:
    filters = []
    views = pa.table({"text": pa.array(["a", "b"], pa.string_view()), "number": [1, 2]})

    class Observed(ds.Dataset):
        def __init__(self) -> None: ...

        @property
        def schema(self) -> pa.Schema:
            return views.schema

        def scanner(self, columns=None, filter=None):  # noqa: A002
            filters.append(filter)
            found = views.select(columns or views.schema.names)
            return ds.Scanner.from_batches(found.to_batches(), schema=found.schema)

    assert duckdb.connect().from_arrow(Observed()).filter("number = 2").project("text").fetchall() == [("b",)]
    assert filters == [None]


def test_datasets_knows_views_but_has_no_parquet_of_them(tmp_path: Path) -> None:
    found = datasets.Dataset(pa.table({"text": pa.array(["a"], pa.string_view())}))
    assert found.features["text"] == datasets.Value("string_view")
    with pytest.raises(OSError, match="string_view"):
        found.to_parquet(str(tmp_path / "file.parquet"))


def test_datasets_pickles_a_table_with_all_its_bytes() -> None:
    """So `headrace.handoff.hf_datasets` has a table that goes by its paths."""
    import pickle

    assert len(pickle.dumps(datasets.Dataset(TABLE))) > 8000


@pytest.mark.process
def test_interpreters_that_import_the_core_import_no_reader() -> None:
    script = "import sys, headrace.handoff.versions, headrace.handoff.tensors, headrace.handoff.relations, "
    script += "headrace.handoff.hf_datasets; print([m for m in ('torch', 'duckdb', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout == b"[]\n"


@pytest.mark.process
def test_the_cast_of_a_map_that_was_taken_ends_the_process() -> None:
    """So maps keep the spelling of their text (`headrace.handoff.spelling`), and digests do not cast them."""
    script = "import pyarrow as pa; kind = pa.map_(pa.string(), pa.int64()); "
    script += "pa.array([[('a', 1)], []], kind).take([1, 0]).cast(pa.map_(pa.string_view(), pa.int64()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode < 0


def test_a_struct_of_run_ends_comes_back_from_a_slice_invalid() -> None:
    """So run-end-encoded values are refused inside of other types."""
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([3], pa.int32()), pa.array([7]))
    structs = pa.StructArray.from_arrays([runs], names=["a"], mask=pa.array([False, True, False]))
    with pytest.raises(pa.ArrowInvalid, match="should not have a null bitmap"):
        structs.flatten()[0].validate(full=True)


def test_a_stream_in_memory_is_read_without_a_copy() -> None:
    """So an address of `headrace.generation.committed_media` tells where in a commit a picture's bytes lie."""
    bodies = [b"one" * 1000, None, b"two" * 1000]
    table = pa.table({"content": pa.array(bodies, pa.large_binary()), "n": [1, 2, 3]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    # At an address that nothing aligned.
    raw = pa.py_buffer(b"x" + sink.getvalue().to_pybytes()).slice(1)
    values = pa.ipc.open_stream(raw).read_all().cast(table.schema)["content"].chunk(0).buffers()[2]
    start = values.address - raw.address
    assert 0 <= start < len(raw)
    assert raw.slice(start, 6000).to_pybytes() == b"one" * 1000 + b"two" * 1000
