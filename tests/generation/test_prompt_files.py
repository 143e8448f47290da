"""What is no prompt: refused with file and line, never generated as the word that Python has for it."""

import gzip
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource
from headrace.generation.prompt_files import PromptText, read_prompt_files
from tests.generation.builders import DAY


def read(home: Path, **source: Any) -> list[PromptText]:
    return read_prompt_files(PromptSource(**{"files": "{day}.*", **source}), DAY, home)


def write_jsonl(file: Path, value: object) -> None:
    file.write_text("".join(json.dumps({"text": one, "id": 1}) + "\n" for one in ("a prompt", value)))


def write_parquet(file: Path, value: object) -> None:
    if isinstance(value, str) and "\ud83d" in value:
        pytest.skip("Parquet texts are UTF-8")
    column = pa.array([None, value])[1:]
    pq.write_table(pa.table({"text": column, "id": [1]}), file)


NO_PROMPTS: dict[str, tuple[object, str]] = {
    "null": (None, "must hold text, got null"),
    "NaN": (float("nan"), "must hold text, got nan"),
    "a number": (7, "must hold text, got 7"),
    "a truth value": (True, "must hold text, got True"),
    "a list": (["a", "b"], "must hold text, got a list"),
    "an object": ({"a": "b"}, "must hold text, got an object"),
    "half of a surrogate pair": ("a \ud83d b", "holds half of a surrogate pair"),
    "blanks": (" \u3000", "holds no prompt"),
}


@pytest.mark.parametrize("phrase", NO_PROMPTS)
@pytest.mark.parametrize(
    ("suffix", "write", "place"), [("jsonl", write_jsonl, "line 2"), ("parquet", write_parquet, "row 1")]
)
def test_a_value_that_is_no_text_is_refused(
    phrase: str, suffix: str, write: Callable[[Path, object], None], place: str, tmp_path: Path
):
    value, reason = NO_PROMPTS[phrase]
    write(tmp_path / f"{DAY}.{suffix}", value)
    with pytest.raises(InvalidInput, match=rf"{DAY}\.{suffix} {place}.*{reason}"):
        read(tmp_path)


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf"), ["a"], {"a": 1}])
def test_a_template_is_filled_with_texts_and_numbers_alone(value: object, tmp_path: Path):
    (tmp_path / f"{DAY}.jsonl").write_text(json.dumps({"term": value, "text": "x"}) + "\n")
    with pytest.raises(InvalidInput, match=r"line 1: column 'term' must hold text, a number or a date, got"):
        read(tmp_path, template="Define {term}: {text}")


def test_numbers_dates_and_empty_cells_fill_a_template_as_ever(tmp_path: Path):
    pq.write_table(pa.table({"n": [3], "x": [0.5], "on": [date(2026, 11, 22)]}), tmp_path / f"{DAY}.parquet")
    assert read(tmp_path, template="{n:03d} {x} {on}") == [PromptText(text="003 0.5 2026-11-22")]
    (tmp_path / f"{DAY}.parquet").unlink()
    (tmp_path / f"{DAY}.csv").write_text("term,hint\nmill,\n")
    assert read(tmp_path, template="{term}{hint}") == [PromptText(text="mill")]


def test_a_format_that_a_value_does_not_have_is_refused(tmp_path: Path):
    (tmp_path / f"{DAY}.jsonl").write_text('{"n": 3}\n{"n": "three"}\n')
    with pytest.raises(InvalidInput, match=r"line 2 does not fit the template '\{n:03d\}'"):
        read(tmp_path, template="{n:03d}")


CSV_FILES: dict[str, tuple[bytes, str]] = {
    "a short row": (b"id,text\n1,a\n2\n", r"line 3: 1 fields where the header has 2"),
    "a long row": (b"id,text\n1,a,b\n", r"line 2: 3 fields where the header has 2"),
    "a field without an end": (b'id,text\n1,"a\n', r"line 2: not CSV"),
    "a field beyond the limit": (
        b"id,text\n1," + b"x" * (17 << 20) + b"\n",
        r"line 2: not CSV: longer than 16,777,216",
    ),
    "another column": (b"id,prompt\n1,a\n", r"missing column 'text'"),
    "a column twice": (b"text,text\na,b\n", r"column 'text' stands 2 times in the header"),
    "another encoding": ("id,text\n1,Mühle\n".encode("latin-1"), r"line 2: wrong encoding, wanted utf-8"),
}


@pytest.mark.parametrize("phrase", CSV_FILES)
def test_a_row_that_cannot_be_read_is_refused_with_its_line(phrase: str, tmp_path: Path):
    body, reason = CSV_FILES[phrase]
    (tmp_path / f"{DAY}.csv").write_bytes(body)
    with pytest.raises(InvalidInput, match=rf"{DAY}\.csv.*{reason}.*Repair it"):
        read(tmp_path)


def test_a_field_of_more_than_csvs_usual_limit_is_a_prompt(tmp_path: Path):
    (tmp_path / f"{DAY}.csv").write_text(f"text\n{'word ' * 60_000}\n")
    assert len(read(tmp_path)[0].text) == 300_000


def test_a_torn_parquet_file_is_refused_in_a_sentence(tmp_path: Path):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"text": ["a"] * 100}), whole)
    (tmp_path / f"{DAY}.parquet").write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match=rf"{DAY}\.parquet: unreadable: .*Repair it"):
        read(tmp_path)


def test_a_home_with_brackets_in_its_name_is_a_place_and_no_pattern(tmp_path: Path):
    home = tmp_path / "runs [v2]*"
    home.mkdir()
    (home / f"{DAY}.txt").write_text("one\n")
    (home / "fixed [a].jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}\n'))
    assert read(home, files="{day}.txt") == [PromptText(text="one")]
    assert read(home, files="fixed [a].jsonl.gz", per_shard=1) == [PromptText(text="two")]


def test_an_empty_file_is_an_empty_list(tmp_path: Path):
    (tmp_path / f"{DAY}.jsonl").write_text("")
    (tmp_path / f"{DAY}.txt").write_text("one\r\n\r\n two\n")
    assert [prompt.text for prompt in read(tmp_path)] == ["one", " two"]


def test_a_term_may_be_missing_a_value_but_is_never_the_word_none(tmp_path: Path):
    (tmp_path / f"{DAY}.jsonl").write_text('{"text": "a", "term": null}\n{"text": "b", "term": 7}\n')
    assert [prompt.term for prompt in read(tmp_path, term_column="term")] == [None, "7"]


def test_a_term_is_no_truth_value(tmp_path: Path):
    (tmp_path / f"{DAY}.jsonl").write_text('{"text": "a", "term": true}\n')
    with pytest.raises(InvalidInput, match=r"line 1: column 'term' must hold text, got"):
        read(tmp_path, term_column="term")
