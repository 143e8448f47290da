"""export: the same rows in another format, whole or not at all."""

import csv
import json
import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from headrace.errors import HandoffCorrupt, StoreUnavailable
from headrace.handoff.export import FORMATS, Format, export_file
from tests.command_line.builders import flip_a_byte, make_documents, publish, run

READ = {
    "parquet": lambda path: pl.read_parquet(path, use_pyarrow=True).to_dicts(),
    "jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    "arrow": lambda path: pa.ipc.open_file(path).read_all().to_pylist(),
}


@pytest.mark.parametrize("file_format", READ)
@pytest.mark.parametrize("window_bytes", [100, 10**8])
def test_a_copy_has_the_same_rows(file_format: Format, window_bytes: int, tmp_path: Path) -> None:
    rows = make_documents(50)
    target = tmp_path / f"copies/x.{file_format}"
    export_file(publish(tmp_path / "s", "a", "p", rows), target, file_format, window_bytes=window_bytes)
    assert READ[file_format](target) == rows.to_pylist()
    assert list(target.parent.iterdir()) == [target]


def test_csv_quotes_texts_and_leaves_nulls_empty(tmp_path: Path) -> None:
    rows = pa.table({"text": ['a, "b"\nc', None, ""], "raw": [b"\x00\xff", None, b""], "number": [1, 2, None]})
    handoff = publish(tmp_path / "s", "a", "p", rows)
    export_file(handoff, tmp_path / "x.csv", "csv", window_bytes=1)
    read = list(csv.reader((tmp_path / "x.csv").open(newline="")))
    assert read == [["text", "raw", "number"], ['a, "b"\nc', "AP8=", "1"], ["", "", "2"], ["", "", ""]]


@pytest.mark.parametrize("file_format", FORMATS)
def test_no_rows_are_a_whole_copy_too(file_format: Format, tmp_path: Path) -> None:
    handoff = publish(tmp_path / "s", "a", "p", pa.table({"text": pa.array([], pa.string())}))
    target = export_file(handoff, tmp_path / "x", file_format)
    if file_format in READ:
        assert READ[file_format](target) == []
    else:
        assert target.read_text() == "text\n"


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_damaged_version_leaves_nothing(file_format: Format, tmp_path: Path) -> None:
    handoff = publish(tmp_path / "s", "a", "p", make_documents(50).drop_columns(["examples"]))
    flip_a_byte(handoff)
    target = tmp_path / "copies/x"
    with pytest.raises(HandoffCorrupt):
        export_file(handoff, target, file_format)
    assert list(target.parent.iterdir()) == []


def test_a_target_is_overwritten_only_by_force(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.jsonl"
    target.write_text("mine")
    refused = run("handoff", "export", "labels", "all", target, store=store)
    assert (refused.exit_code, target.read_text()) == (2, "mine")
    assert "pass --force" in refused.stderr
    assert run("handoff", "export", "labels", "all", target, "--force", store=store).exit_code == 0
    assert len(target.read_text().splitlines()) == 5


def test_a_directory_is_never_overwritten(store: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    refused = run("handoff", "export", "labels", "all", tmp_path / "x.csv", "--columns", "text", "--force", store=store)
    assert (refused.exit_code, "is a directory" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", ["handoff export labels all", "export labels"])
def test_a_pipe_is_never_replaced(store: Path, tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    refused = run(*command.split(), tmp_path / "x.jsonl", "--force", store=store)
    assert (refused.exit_code, refused.stderr) == (
        2,
        f"Error: {tmp_path}/x.jsonl is a pipe, and only a file is ever replaced: name a file (an export to - goes to a "
        "pipe).\n",
    )
    assert (tmp_path / "x.jsonl").is_fifo()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"Cannot write .*file/x\.csv: "):
        export_file(publish(tmp_path / "s", "a", "p", pa.table({"n": [1]})), tmp_path / "file/x.csv", "csv")


def test_columns_and_the_version_are_chosen(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    run("handoff", "export", "raw_documents", "shard-00", "v1", target, "--columns", "text,score", store=store)
    lines = target.read_text().splitlines()
    assert (len(lines), lines[0], lines[1]) == (101, "text,score", "text 0,0.0")


def test_a_copy_to_standard_output_is_nothing_but_the_rows(store: Path) -> None:
    result = run("handoff", "export", "labels", "all", "-", "--format", "jsonl", store=store)
    assert [json.loads(line)["document_id"] for line in result.stdout.splitlines()] == [
        f"doc-0000{n}" for n in range(5)
    ]


def test_nested_bytes_have_no_json(tmp_path: Path) -> None:
    publish(tmp_path / "s", "a", "p", pa.table({"raw": pa.array([[b"x"]], pa.list_(pa.binary()))}))
    refused = run("handoff", "export", "a", "p", tmp_path / "x.jsonl", store=tmp_path / "s")
    assert (refused.exit_code, "Export parquet or arrow" in refused.stderr) == (2, True)


FORMULAS = ["=1+1", "-٣", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "＝1+1", "- a list"]
PLAIN = ["-5", "+3.5e-7", "-12%", "a=b", "'=1", "", "5 - 3", "हिन्दी"]


def test_a_spreadsheet_finds_no_formula_in_csv(tmp_path: Path) -> None:
    rows = pa.table({"=name": [*FORMULAS, *PLAIN], "kind": pa.array([*FORMULAS, *PLAIN]).dictionary_encode()})
    handoff = publish(tmp_path / "s", "a", "p", rows)
    read = list(csv.reader(export_file(handoff, tmp_path / "x.csv", "csv").open(newline="")))
    assert read[0] == ["'=name", "kind"]
    assert [row[0] for row in read[1:]] == [row[1] for row in read[1:]] == [*(f"'{text}" for text in FORMULAS), *PLAIN]
    run("handoff", "export", "a", "p", tmp_path / "y.csv", "--verbatim", store=tmp_path / "s")
    assert [row[0] for row in csv.reader((tmp_path / "y.csv").open(newline=""))][1:] == [*FORMULAS, *PLAIN]


def test_a_guarded_name_stays_its_columns_own(tmp_path: Path) -> None:
    handoff = publish(tmp_path / "s", "a", "p", pa.table({"=n": ["1"], "'=n": ["2"], "''=n": ["3"]}))
    read = list(csv.reader(export_file(handoff, tmp_path / "x.csv", "csv").open(newline="")))
    assert read == [["'''=n", "'=n", "''=n"], ["1", "2", "3"]]
