"""What people's files hold by accident: said in a sentence, or read as it is meant."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource
from headrace.generation.prompt_files import read_prompt_files
from headrace.user_files.finding import found_files
from headrace.user_files.layout import FileLayout, Record, Unreadable, check_delimiter
from headrace.user_files.records import read_records
from headrace.user_files.text_encodings import check_encoding, checked_encodings

TEXT = FileLayout(columns=("text",))


def test_a_wanted_key_that_stands_twice_costs_its_line(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x", "text": "y"}\n{"text": "z", "other": 1, "other": 2}\n')
    first, second = read_records(file, TEXT)
    assert isinstance(first, Unreadable)
    assert (first.line, first.reason) == (1, "the key 'text' stands twice")
    assert isinstance(second, Record)
    assert second.fields == {"text": "z", "other": 2}


_STRANGE = {
    "a year that Python does not have": pa.array([10**15], pa.timestamp("s")),
    "a day that Python does not have": pa.array([10**9], pa.date32()),
    "a time zone that is none": pa.array([1], pa.timestamp("us", "Mars/Base")),
    "two fields of one name": pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
}


@pytest.mark.parametrize("phrase", _STRANGE)
def test_parquet_values_that_python_has_no_word_for_cost_the_file(tmp_path: Path, phrase: str):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": _STRANGE[phrase]}), file)
    (found,) = read_records(file, TEXT)
    assert isinstance(found, Unreadable)
    assert found.loses_file
    assert found.reason.startswith("unreadable: ")


def test_a_number_that_does_not_fit_its_place_names_the_line(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"n": ' + "9" * 4000 + "}\n")
    source = PromptSource(files="a.jsonl", template="{n:f}", per_shard=1)
    with pytest.raises(InvalidInput, match=r"a\.jsonl line 1 does not fit the template '\{n:f\}': int too large"):
        read_prompt_files(source, "2026-11-22", tmp_path)


def test_a_file_is_found_once_however_many_ways_lead_to_it(tmp_path: Path):
    (tmp_path / "days" / "one").mkdir(parents=True)
    file = tmp_path / "days" / "one" / "a.jsonl"
    file.write_text("{}\n")
    (tmp_path / "days" / "latest").symlink_to(tmp_path / "days" / "one")
    (tmp_path / "days" / "loop").symlink_to(tmp_path / "days")
    assert [str(found.resolve()) for found in found_files("days/**/**/*.jsonl", tmp_path)] == [str(file)]
    assert found_files("days/one/**/*.jsonl", tmp_path) == [file]
    (tmp_path / "days" / "one" / "b.jsonl").symlink_to(file)
    assert len(found_files("days/**/*.jsonl", tmp_path)) == 2


def test_a_link_to_what_is_gone_is_named(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "directory.jsonl").mkdir()
    assert found_files("*.jsonl", tmp_path) == [tmp_path / "a.jsonl"]
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    for pattern in ("*.jsonl", "b.jsonl"):
        with pytest.raises(InvalidInput, match=r"b\.jsonl is neither a file nor a directory, and .* matches it"):
            found_files(pattern, tmp_path)


@pytest.mark.parametrize("encoding", ["hex", "rot13", "idna", "undefined", "no-such", "utf-8\0", "\ud800"])
def test_an_encoding_that_is_none_of_text_is_refused(encoding: str):
    with pytest.raises(InvalidInput, match="^encoding must be a text encoding that Python knows, got "):
        check_encoding(encoding)


def test_encodings_of_text_are_taken():
    for encoding in ("utf-8", "UTF-16", "utf-32-le", "cp1252", "shift_jis", "gb18030", "utf-8-sig"):
        check_encoding(encoding)


_NO_LISTS: dict[str, tuple[tuple[str, ...], str]] = {
    "none": ((), "encoding must name at least one encoding, got an empty list"),
    "one that is none of text": (
        ("utf-8", "base64"),
        "encoding must be a text encoding that Python knows, got 'base64'",
    ),
    "one that reads anything before another": (
        ("latin-1", "utf-8"),
        "encoding must have 'latin-1' last, since it reads any file and 'utf-8' would never be tried, got ",
    ),
}


@pytest.mark.parametrize("phrase", _NO_LISTS)
def test_a_list_of_encodings_that_cannot_be_tried_in_order_is_refused(phrase: str):
    encodings, message = _NO_LISTS[phrase]
    with pytest.raises(InvalidInput, match=message):
        checked_encodings(encodings)


def test_one_encoding_is_a_list_of_one():
    assert checked_encodings("utf-16") == ("utf-16",)
    assert checked_encodings(("utf-8", "cp1252", "latin-1")) == ("utf-8", "cp1252", "latin-1")


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"], ids=repr)
def test_a_delimiter_that_separates_nothing_is_refused(delimiter: str):
    with pytest.raises(InvalidInput, match="^delimiter must be one character that is no quote and no line end, got "):
        check_delimiter(delimiter, "csv")


def test_a_delimiter_beside_a_format_without_one_is_refused():
    check_delimiter(";", "auto")
    with pytest.raises(InvalidInput, match="delimiter is for CSV, got ';' with format='jsonl': leave it out"):
        check_delimiter(";", "jsonl")


def test_times_of_parquet_are_read_as_they_are(tmp_path: Path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([datetime(2026, 11, 22)], pa.timestamp("us"))}), file)
    (found,) = read_records(file, TEXT)
    assert isinstance(found, Record)
    assert found.fields == {"text": datetime(2026, 11, 22)}
