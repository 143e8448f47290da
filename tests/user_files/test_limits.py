"""Small files that stand for large ones, and records without an end: said, passed over, and never held in memory."""

import gzip
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.handoff.schemas import check_schema
from headrace.prep.sources import read_shard
from headrace.user_files.layout import FileLayout, Record, Unreadable
from headrace.user_files.records import read_records
from tests.prep.builders import make_corpus

MIB = 2**20
SMALL = FileLayout(columns=("text",), record_bytes_max=MIB, expanded_bytes_free=8 * MIB)


def read(path: Path, layout: FileLayout = SMALL) -> tuple[list[Record], list[Unreadable]]:
    records, complaints = [], []
    for one in read_records(path, layout):
        (records if isinstance(one, Record) else complaints).append(one)
    return records, complaints


def read_traced(path: Path, layout: FileLayout = SMALL) -> tuple[list[Record], list[Unreadable], int]:
    """Records, complaints, and the most bytes that Python objects held on the way."""
    tracemalloc.start()
    records, complaints = read(path, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return records, complaints, peak


@pytest.mark.parametrize(
    ("suffix", "before", "good"),
    [
        ("jsonl", '{"text": "', '{"text": "good"}\n'),
        ("csv", "", "good\n"),
        ("txt", "", "good\n"),
    ],
)
def test_a_line_without_an_end_is_one_complaint_and_its_neighbours_are_read(
    suffix: str, before: str, good: str, tmp_path: Path
):
    header = "text\n" if suffix == "csv" else ""
    body = f"{header}{good}{before}{'x' * 6 * MIB}\n{good}".encode()
    (tmp_path / f"a.{suffix}.gz").write_bytes(gzip.compress(body))
    records, (complaint,), peak = read_traced(tmp_path / f"a.{suffix}.gz")
    first = 2 if header else 1
    assert [(record.line, str(record.fields["text"]).strip()) for record in records] == [
        (first, "good"),
        (first + 2, "good"),
    ]
    assert complaint.line == first + 1
    assert "longer than 1,048,576 characters" in complaint.reason
    assert peak < 12 * MIB


@pytest.mark.parametrize("unit", ["paragraph", "file"])
def test_a_text_of_many_lines_is_bounded_too(unit, tmp_path: Path):
    (tmp_path / "a.txt").write_text(("x" * 1000 + "\n") * 5000)
    layout = FileLayout(columns=("text",), text_unit=unit, record_bytes_max=MIB)
    records, (complaint,), peak = read_traced(tmp_path / "a.txt", layout)
    assert (records, complaint.line) == ([], 1)
    assert peak < 6 * MIB


def test_a_quote_that_is_never_closed_holds_no_more_than_a_record(tmp_path: Path):
    (tmp_path / "a.csv").write_text('text\ngood\n"open\n' + ("x" * 1000 + "\n") * 3000)
    records, (complaint,), peak = read_traced(tmp_path / "a.csv")
    assert records[0] == Record(line=2, fields={"text": "good"})
    assert [record.line for record in records[1:]] == list(range(4, 3004))
    assert (complaint.line, complaint.loses_file, complaint.excerpt) == (3, False, '"open\n')
    assert peak < 14 * MIB


def test_quotes_that_each_swallow_what_they_can_lose_the_rest_of_the_file_and_say_so(tmp_path: Path):
    # Each line opens a quote, and closes and opens another where a quote is open: read again each, they would cost
    # the square of the file's size.
    layout = replace(SMALL, record_bytes_max=10_000)
    (tmp_path / "a.csv").write_text("text,other\n" + 'x","\n' * 50_000)
    records, complaints = read(tmp_path / "a.csv", layout)
    assert records == []
    assert len(complaints) < 100
    assert complaints[-1].loses_file
    assert complaints[-1].reason.endswith("; too many like it were before it, so the rest of the file is not read")
    assert not any(complaint.loses_file for complaint in complaints[:-1])


def test_a_compressed_file_that_unpacks_without_end_is_given_up_and_says_so(tmp_path: Path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "again"}\n' * 100_000))
    records, (complaint,) = read(tmp_path / "a.jsonl.gz", replace(SMALL, expanded_bytes_free=MIB))
    assert len(records) == MIB // 18
    assert complaint.loses_file
    assert "unpack to more than 1,048,576, which no text does; unpack it yourself if it is meant" in complaint.reason


def test_a_text_that_every_row_names_is_not_unpacked_for_every_row(tmp_path: Path):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 200_000])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", compression="zstd")
    before = pa.default_memory_pool().max_memory()
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    records, (complaint,), peak = read_traced(tmp_path / "a.parquet")
    assert len(records) <= 8 * MIB // 200_000
    assert "unpack to more than" in complaint.reason
    assert peak < 80 * MIB
    assert pa.default_memory_pool().max_memory() <= max(before, 100 * MIB)


def test_one_row_that_is_too_long_is_one_complaint(tmp_path: Path):
    pq.write_table(pa.table({"text": ["good", "x" * 2 * MIB, "good"]}), tmp_path / "a.parquet")
    records, (complaint,) = read(tmp_path / "a.parquet")
    assert [record.line for record in records] == [1, 3]
    assert (complaint.line, complaint.loses_file) == (2, False)


@pytest.mark.parametrize(
    "column",
    [pa.array([["x"] * 3_000_000]), pa.array([[1] * 3_000_000]), pa.array(["x" * 9 * MIB])],
    ids=["texts", "numbers", "one page"],
)
def test_what_a_footer_announces_is_held_against_the_files_size(column: pa.Array, tmp_path: Path):
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", compression="zstd")
    records, (complaint,) = read(tmp_path / "a.parquet")
    assert records == []
    assert "unpack to more than" in complaint.reason


def test_rows_of_nothing_are_not_free(tmp_path: Path):
    pq.write_table(pa.table({"text": pa.nulls(200_000, pa.string())}), tmp_path / "a.parquet")
    records, (complaint,) = read(tmp_path / "a.parquet", replace(SMALL, expanded_bytes_free=MIB))
    assert len(records) < 20_000
    assert "unpack to more than" in complaint.reason


def test_ordinary_text_packs_well_below_the_limit(tmp_path: Path):
    lines = "".join(f'{{"text": "line {number} of an ordinary log of some length"}}\n' for number in range(20_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 9))
    layout = FileLayout(columns=("text",), expanded_bytes_free=0)
    records, complaints = read(tmp_path / "a.jsonl.gz", layout)
    assert (len(records), complaints) == (20_000, [])


def test_a_corpus_sets_aside_what_is_too_long_and_goes_on(tmp_path: Path):
    home = tmp_path / "home [1]"
    (home / "files").mkdir(parents=True)
    long = '{"term": "t", "category": "n", "gloss": "' + "x" * 17 * MIB + '"}'
    good = '{"term": "t", "category": "n", "gloss": "a good one"}'
    (home / "files/a.jsonl").write_text(f"{good}\n{long}\n{good}\n")
    shard = read_shard(make_corpus(quarantine_share_max=1.0), "shard-00", home)
    check_schema("quarantine", shard.quarantine)
    (row,) = shard.quarantine.to_pylist()
    assert (row["source_file"], row["source_line"], len(row["excerpt"])) == ("files/a.jsonl", 2, 200)
    assert row["reason"].startswith("longer than 16,777,216 characters")
    assert shard.documents.column("source_line").to_pylist() == [1, 3]


def test_a_file_whose_name_is_no_text_is_set_aside_under_a_name_that_is(tmp_path: Path):
    (tmp_path / "files").mkdir()
    name = b"m\xfchle.jsonl".decode("utf-8", "surrogateescape")
    (tmp_path / "files" / name).write_text('{"term": "t", "category": "n", "gloss": "a good one"}\n')
    shard = read_shard(make_corpus(), "shard-00", tmp_path)
    assert shard.quarantine.column("source_file").to_pylist() == ["files/m\\xfchle.jsonl"]
