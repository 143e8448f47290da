"""JSON Lines that are read side by side are what the exact reader reads line by line: documents, faults and ids."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.prep.documents import allowed_types, raw_document, raw_documents
from headrace.prep.example_forms import ExamplePrompt
from headrace.user_files.json_blocks import Columns
from headrace.user_files.layout import Record, Unreadable
from headrace.user_files.records import read_columns, read_records
from tests.prep.builders import make_corpus

COLUMNS = {"document_id": "id", "term": "term", "category": "category", "text": "text", "examples": "examples"}
CORPUS = make_corpus(columns=COLUMNS, prompt=ExamplePrompt(user="Define {term}."))

HOSTILE = [
    *(
        b"",
        b" ",
        b"\t",
        b"\xc2\xa0",
        b"\x1c",
        b"{",
        b"}",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"{}",
        b"NaN",
        b"\x00",
        b"\xff",
    ),
    *(
        b'{"term": "a", "text": "b"',
        b'{"term": "a", "text": "b"} x',
        b'{"term": "a", "text": "b"}{"term": "c", "text": "d"}',
    ),
    *(b' {"term": "a", "text": "b"}', b'{"term": "a", "text": "b"} ', b'\xef\xbb\xbf{"term": "a", "text": "b"}'),
    *(b'{"term": "a", "text": "b", "text": "c"}', b'{"term": "a", "text": "b", "te\\u0078t": "c"}'),
    *(b'{"term": "a", "text": {"x": 1, "x": 2}}', b'{"term": {"x": [{"y": 1, "y": 2}]}, "text": "b"}'),
    *(
        b'{"examples": [{"x": 1, "x": 2}], "term": "a", "text": "b"}',
        b'{"term": "a", "text": "b", "x": [{"y": {"term": 1, "term": 2}}]}',
        b'{"term": "a", "text": "b", "text": {"x": 1, "x": 2}}',
        b'[{"text": "b", "text": "c"}]',
    ),
    *(b'{"term": "a", "text": "b", "x": {"text": 1, "text": 2}}', b'{"term": "a", "text": "b", "x": 1, "x": 2}'),
    *(
        b'{"term": "a", "text": "\\ud800"}',
        b'{"term": "a", "text": "\\udc00b"}',
        b'{"term": "a", "text": "b", "x": "\\ud800"}',
    ),
    *(
        b'{"term": "a", "text": "\xff"}',
        b'{"term": "a", "text": "b", "x": "\xff"}',
        b'{"term": "a", "text": "\xed\xa0\x80"}',
    ),
    *(b'{"term": "a", "text": "b\tc"}', b'{"term": "a", "text": "b\x00c"}', b'{"term": "a", "text": "b\x7fc"}'),
    *(
        b'{"term": "a", "text": "b", "x": %b}' % x
        for x in (b"NaN", b"-Infinity", b"Inf", b"-Inf", b"-NaN", b"1e999", b"01")
    ),
    *(
        b'{"term": "a", "text": "b", "x": %b}' % x
        for x in (b"-", b"1.", b"tru", b"[1,]", b"9" * 5000, b"[" * 90 + b"]" * 90)
    ),
    *(
        b'{"term": %b, "text": "b"}' % x
        for x in (b"5", b"-0", b"5.0", b"true", b"null", b"[]", b"{}", b"9" * 25, b"9" * 5000)
    ),
    *(b'{"id": %b, "term": "a", "text": "b"}' % x for x in (b"0", b'""', b'"0"', b"null", b"false", b"1e3", b'"id"')),
    *(
        b'{"examples": %b, "term": "a", "text": "b"}' % x
        for x in (b'"e"', b'""', b"null", b"[]", b"[null]", b"[1]", b"0")
    ),
    *(b'{"examples": ["e", "f"], "term": "a", "text": "b"}', b'{"examples": [""], "term": "a", "text": "b"}'),
    *(
        b'{"text": "b"}',
        b'{"term": "a"}',
        b'{"term": "a", "text": null}',
        b'{"term": "a", "text": 5}',
        b'{"term": "a", "text": ""}',
    ),
    *(
        b'{"term": "a", "category": "", "text": "Inf}"}',
        b"{'term': 'a'}",
        b'{"term": "a", "text": "}\\n{"}',
        b'{"term": "a", "text": "\\x"}',
    ),
    b'{"term": "a",\r"text": "b"}',
]

texts = st.text(alphabet=st.sampled_from('ab é水😀"\\\n\u2028\x1f/'), max_size=6)
ids = st.one_of(st.none(), texts, st.integers(0, 10**20))
records = st.fixed_dictionaries(
    {"term": texts, "text": texts},
    optional={"category": st.one_of(st.none(), texts), "examples": st.lists(texts, max_size=2), "id": ids, "x": ids},
)
clean = st.builds(lambda record, is_ascii: json.dumps(record, ensure_ascii=is_ascii).encode(), records, st.booleans())
# Most lines are clean, so that most are read side by side.
lines = st.integers(0, 9).flatmap(lambda kind: st.sampled_from(HOSTILE) if kind == 0 else clean)
ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"])
files = st.builds(
    lambda mark, parts, last: mark + b"".join(line + end for line, end in parts) + last,
    st.sampled_from([b"", b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(lines, ends), max_size=60),
    st.sampled_from([b"", b"\n", b'{"term": "a", "text": "b"}', b'{"term": "a"', b"\r"]),
)


def documents(path: Path, **layout: Any) -> list[Any]:
    """Of each record what becomes of it, as the exact reader has it."""
    found = read_records(path, replace(CORPUS.layout, **layout))
    return [raw_document(CORPUS, "file", one) if isinstance(one, Record) else one for one in found]


def documents_side_by_side(path: Path, **layout: Any) -> tuple[list[Any], int]:
    """The same, and how many came as columns."""
    required = [CORPUS.columns[name] for name in CORPUS.required_columns]
    rows: list[Any] = []
    num_columns = 0
    for one in read_columns(path, replace(CORPUS.layout, **layout), required, allowed_types(CORPUS)):
        if isinstance(one, Columns):
            batch = raw_documents(CORPUS, "file", one)
            batch.validate(full=True)
            rows += [tuple(row.values()) for row in batch.to_pylist()]
            num_columns += batch.num_rows
        else:
            rows.append(one if isinstance(one, Unreadable) else raw_document(CORPUS, "file", one))
    return rows, num_columns


@given(files, st.sampled_from([64, 300, 2**20]), st.sampled_from([40, 2**24]))
@example(b"".join(line + b"\n" for line in HOSTILE), 2**20, 2**24)
def test_every_line_becomes_what_the_exact_reader_makes_of_it(content: bytes, block_bytes: int, record_bytes_max: int):
    with TemporaryDirectory() as directory:
        path = Path(directory) / "file.jsonl"
        path.write_bytes(content)
        layout = {"block_bytes": block_bytes, "record_bytes_max": record_bytes_max}

        rows, _ = documents_side_by_side(path, **layout)

        assert rows == documents(path, **layout)


# A key may stand twice at any depth, of wanted columns and of others.
spelt = st.recursive(
    st.sampled_from(['"a"', "5", "null"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(st.sampled_from(["text", "x"]), inner), max_size=2).map(
            lambda pairs: "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}"
        ),
    ),
    max_leaves=4,
)


@given(st.lists(st.tuples(st.sampled_from([*COLUMNS.values(), "x"]), spelt), max_size=4), st.integers(0, 20))
def test_keys_that_stand_twice_at_any_depth_cost_their_lines_alone(odd: list[tuple[str, str]], num_clean: int):
    with TemporaryDirectory() as directory:
        path = Path(directory) / "file.jsonl"
        clean = [f'{{"term": "a", "text": "number {number}"}}' for number in range(num_clean)]
        lines = [f'{{"term": "a", "text": "b", "{column}": {value}}}' for column, value in odd]
        path.write_text("".join(line + "\n" for line in [*clean, *lines, *clean]))

        found, _ = documents_side_by_side(path)

        assert found == documents(path)
        assert len(found) == len(odd) + 2 * num_clean or not path.stat().st_size


numbers = st.one_of(st.integers(0, 9), st.floats(0, 1), st.booleans(), st.none())
values = st.recursive(st.one_of(texts, numbers), lambda inner: st.lists(inner, max_size=2) | st.just({}), max_leaves=3)


@given(st.sampled_from(sorted(COLUMNS.values())), st.lists(values, min_size=1, max_size=3), st.integers(0, 20))
@example("text", [5], 0)
@example("text", [["a", "b"]], 0)
@example("term", [["x"]], 0)
@example("term", [True], 0)
@example("examples", [1], 0)
@example("examples", [0, {}], 0)
@example("examples", [["x"], 1], 3)
def test_a_column_of_another_type_is_judged_as_the_exact_reader_judges_it(column: str, odd: list[Any], num_clean: int):
    rows = [{"term": "a", "text": f"number {number}"} for number in range(num_clean)]
    rows += [{"term": "a", "text": "b", column: value} for value in odd for _ in range(20)]
    with TemporaryDirectory() as directory:
        path = Path(directory) / "file.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

        found, _ = documents_side_by_side(path)

        assert found == documents(path)


@pytest.mark.parametrize(
    ("column", "value", "got"), [("examples", 0, "int"), ("examples", {}, "dict"), ("term", True, "bool")]
)
def test_a_value_that_python_takes_for_nothing_or_for_a_number_is_set_aside(
    column: str, value: Any, got: str, tmp_path: Path
):
    (tmp_path / "file.jsonl").write_text(json.dumps({"term": "a", "text": "b", column: value}))

    [row] = documents(tmp_path / "file.jsonl")

    assert isinstance(row, Unreadable)
    assert row.reason.endswith(f"got {got}")


def test_a_mark_before_the_first_line_is_none_of_it_however_short_the_blocks(tmp_path: Path):
    (tmp_path / "file.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"term": "a", "text": "b"}\n' * 40)

    for block_bytes in (1, 2, 3):
        rows, _ = documents_side_by_side(tmp_path / "file.jsonl", block_bytes=block_bytes)
        assert rows == documents(tmp_path / "file.jsonl")


def test_one_bad_line_of_many_costs_a_few_lines_their_speed(tmp_path: Path):
    for hostile in HOSTILE:
        good = [b'{"term": "a", "text": "number %d"}' % number for number in range(1000)]
        (tmp_path / "file.jsonl").write_bytes(b"\n".join([*good[:500], hostile, *good[500:]]))

        rows, num_columns = documents_side_by_side(tmp_path / "file.jsonl")

        assert rows == documents(tmp_path / "file.jsonl")
        assert num_columns >= 950


def test_a_packed_file_that_is_torn_or_expands_too_much_gives_the_same_records_and_the_same_reason(tmp_path: Path):
    path = tmp_path / "file.jsonl.gz"
    packed = gzip.compress(
        b"".join(b'{"term": "a", "text": "n\xc3\xbcmber %d"}\r\n' % number for number in range(20_000))
    )
    for content, layout in (
        (packed, {}),
        (packed[:-20_000], {}),
        (packed + b"no gzip", {}),
        (packed, {"expanded_bytes_free": 400_000}),
    ):
        path.write_bytes(content)
        layout = {"block_bytes": 2**16, **layout}

        rows, num_columns = documents_side_by_side(path, **layout)

        assert rows == documents(path, **layout)
        assert num_columns > 0 or rows[0].loses_file


@pytest.mark.parametrize("kind", ["whole numbers", "lists", "nulls first"])
def test_columns_of_other_types_are_read_side_by_side(kind: str, tmp_path: Path):
    record = {
        "whole numbers": {"id": 7, "term": "a", "text": "b"},
        "lists": {"examples": ["c", "d"], "term": "a", "text": "b"},
        "nulls first": {"id": None, "category": None, "term": "a", "text": "b"},
    }[kind]
    later = {**record, "id": 8} if kind == "nulls first" else record
    rows = [record] * 20 + [later] * 80
    (tmp_path / "file.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    found, num_columns = documents_side_by_side(tmp_path / "file.jsonl")

    assert found == documents(tmp_path / "file.jsonl")
    assert num_columns == 100
