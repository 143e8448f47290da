"""The reader beside parsers that nobody here wrote, and on files that were damaged in any way."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource
from headrace.generation.prompt_files import PromptText, read_prompt_files
from headrace.handoff.schemas import check_schema
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.sources import read_shard
from headrace.user_files.layout import FileLayout, Record, Unreadable
from headrace.user_files.records import read_records
from tests.prep.builders import gloss, make_corpus

_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=40)
_ROWS = st.lists(st.tuples(_TEXTS, _TEXTS.filter(bool)), min_size=1, max_size=20)
_LAYOUT = FileLayout(columns=("a", "b"), empty_is_null=False)


def fields_of(path: Path) -> list[tuple[object, object]]:
    records = list(read_records(path, _LAYOUT))
    assert all(isinstance(record, Record) for record in records), records
    return [(record.fields["a"], record.fields["b"]) for record in records if isinstance(record, Record)]


@given(rows=_ROWS, delimiter=st.sampled_from(",;\t|"))
def test_csv_json_lines_and_parquet_read_as_other_parsers_read_them(rows, delimiter, tmp_path_factory):
    directory = tmp_path_factory.mktemp("rows")
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter).writerows([("a", "b"), *rows])
    (directory / "r.csv").write_text(written.getvalue(), encoding="utf-8", newline="")
    lines = [json.dumps({"a": a, "b": b}, ensure_ascii=len(a) % 2 == 0) for a, b in rows]
    (directory / "r.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    pq.write_table(table, directory / "r.parquet", row_group_size=3)

    polars = pl.read_csv(directory / "r.csv", infer_schema=False, separator=delimiter).fill_null("")
    assert fields_of(directory / "r.csv") == rows == polars.rows()
    assert fields_of(directory / "r.jsonl") == rows == pl.read_ndjson(directory / "r.jsonl").rows()
    assert fields_of(directory / "r.parquet") == rows == pl.read_parquet(directory / "r.parquet").rows()


_IN_A_LINE = _TEXTS.map(lambda text: " ".join(text.replace('"', "'").splitlines()))


@given(rows=st.lists(st.tuples(_IN_A_LINE, _IN_A_LINE.filter(bool)), min_size=1, max_size=20), data=st.data())
def test_a_quote_that_is_never_closed_costs_its_line_and_no_other(rows, data, tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "r.csv"
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows([("a", "b"), *rows])
    lines = written.getvalue().split("\n")
    place = data.draw(st.integers(1, len(rows) + 1))
    lines.insert(place, 'x,"y')
    file.write_text("\n".join(lines), encoding="utf-8", newline="")
    found = list(read_records(file, _LAYOUT))
    [lost] = [one for one in found if isinstance(one, Unreadable)]
    assert (lost.line, lost.excerpt.rstrip("\n"), lost.loses_file) == (place + 1, 'x,"y', False)
    assert [(one.fields["a"], one.fields["b"]) for one in found if isinstance(one, Record)] == rows


def _files(directory: Path) -> dict[str, bytes]:
    rows = [gloss(number, examples=["one", "zwei – drei"]) for number in range(30)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, directory / "whole.parquet", row_group_size=8)
    flat = pl.DataFrame(table.drop_columns(["examples"]).append_column("examples", pa.array(['x, "y"\nz'] * 30)))
    return {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "csv": flat.write_csv().encode(),
        "parquet": (directory / "whole.parquet").read_bytes(),
        "txt": "\n".join(row["gloss"] for row in rows).encode(),
    }


_INSERTED = [b"\x00", b'"', b"\xff\xfe", b"\\ud800", b"\r", b"[" * 5000, b"null", b"\n,"]


def _damaged(body: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at, kind = chance.randrange(max(1, len(damaged))), chance.randrange(4)
        if kind == 0:
            del damaged[at:]
        elif kind == 1 and damaged:
            damaged[min(at, len(damaged) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            damaged[at:at] = chance.choice(_INSERTED)
        else:
            del damaged[at : at + chance.randint(1, 50)]
    return bytes(damaged)


def _prompts_or_refusal(file: Path, **source: Any) -> tuple[list[PromptText], str]:
    try:
        return read_prompt_files(PromptSource(files=str(file), per_shard=1, **source), "", file.parent), ""
    except InvalidInput as error:
        return [], str(error)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "txt"])
def test_a_damaged_file_is_read_on_for_a_corpus_and_refused_in_a_sentence_for_prompts(suffix: str, tmp_path: Path):
    body = _files(tmp_path)[suffix]
    corpus = make_corpus(quarantine_share_max=1.0)
    sources = [{"column": "gloss"}, {"template": "{term}: {gloss}", "term_column": "category"}]
    if suffix == "txt":
        corpus = make_corpus(quarantine_share_max=1.0, columns={"text": "t"}, prompt=ExamplePrompt(user="Go."))
        sources = [{"column": "text"}]
    file = tmp_path / f"files/a.{suffix}"
    file.parent.mkdir()
    chance = random.Random(suffix)
    for _ in range(60):
        file.write_bytes(_damaged(body, chance))
        shard = read_shard(corpus, "shard-00", tmp_path)
        check_schema("raw_documents", shard.documents)
        check_schema("quarantine", shard.quarantine)
        assert shard.num_records > 0
        for source in sources:
            prompts, refusal = _prompts_or_refusal(file, **source)
            assert all(prompt.text.strip() for prompt in prompts)
            assert not refusal or str(file) in refusal
            "".join(prompt.text + (prompt.term or "") for prompt in prompts).encode()
