"""A batch's file, line by line: whatever the pieces in which it comes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.inbox.batches import lines
from headrace.inbox.batches.lines import Line, Wanted, lines_of_part, planned, raw_lines, validated
from headrace.inbox.batches.states import LineProblem

WANTED = Wanted(endpoint="/v1/chat/completions", model="assistant")


def line(custom_id: object = "a", **changes: Any) -> bytes:
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Grüße"}]}
    whole = {"custom_id": custom_id, "method": "POST", "url": WANTED.endpoint, "body": body, **changes}
    return json.dumps(whole, ensure_ascii=False).encode()


def pieces(file: bytes, size: int, offset: int = 0) -> Iterator[bytes]:
    yield from (file[start : start + size] for start in range(offset, len(file), size))


TEXTS = st.lists(st.sampled_from([b"", b"  ", b"\r", b"{}", b"one", b"a longer line", "ü".encode()]), max_size=12)


@given(texts=TEXTS, size=st.integers(1, 9), ends=st.booleans())
def test_lines_are_the_same_in_whatever_pieces_they_come(texts: list[bytes], size: int, ends: bool) -> None:
    file = b"\n".join(texts) + (b"\n" if ends else b"")
    found = list(raw_lines(pieces(file, size)))
    wanted = [(number, text) for number, text in enumerate(file.split(b"\n"), 1) if text.strip()]
    assert [(one.number, one.text) for one in found] == wanted
    assert all(file[one.offset :].startswith(one.text or b"") for one in found)


@given(blanks=st.lists(st.integers(0, 2), min_size=1, max_size=20), size=st.integers(1, 50), a_part=st.integers(1, 7))
def test_the_parts_of_a_file_are_its_lines(blanks: list[int], size: int, a_part: int) -> None:
    file = b"".join(line(str(number)) + b"\n" * (1 + more) for number, more in enumerate(blanks))
    plan = planned(pieces(file, size), a_part)
    assert plan.num_lines == len(blanks)
    found: list[Line] = []
    for part in range(plan.num_parts):
        read = lines_of_part(lambda offset: pieces(file, size, offset), plan, part, WANTED)
        assert len(read) == plan.num_lines_of(part) <= a_part
        found += read
    assert [one.custom_id for one in found] == [str(number) for number in range(len(blanks))]
    assert [file.split(b"\n")[one.number - 1] for one in found] == [line(one.custom_id) for one in found]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (b"{", "invalid_json_line", "The line is no JSON"),
        (b"[]", "invalid_json_line", "must be a JSON object"),
        (line(body={"model": "assistant", "x": 0}).replace(b": 0", b": 1e999"), "invalid_json_line", "64 bits"),
        (line(body={"model": "assistant", "x": 0}).replace(b": 0", b": NaN"), "invalid_json_line", "no JSON"),
        (line(custom_id=7), "missing_required_parameter", "custom_id must be a text"),
        (line(custom_id=""), "missing_required_parameter", "custom_id must be a text"),
        (line(custom_id="x" * 513), "invalid_custom_id", "512 characters, got 513"),
        (line(method="GET"), "invalid_method", "method must be POST"),
        (line(url="/v1/completions"), "mismatched_endpoint", "url must be /v1/chat/completions"),
        (line(body="hello"), "missing_required_parameter", "body must be the JSON object"),
        (line(body={"model": "other"}), "model_not_found", "body.model must be 'assistant'"),
        (line().replace("Grüße".encode(), b"\xff\xfe"), "invalid_json_line", "The line is no JSON"),
        (line().replace("Grüße".encode(), rb"\ud800"), "invalid_json_line", "The line is no JSON"),
    ],
)
def test_a_broken_line_is_told_with_its_number_and_what_to_do(text: bytes, code: str, message: str) -> None:
    num_lines, (problem,) = validated([line("first") + b"\n\n" + text + b"\n"], WANTED)
    assert (num_lines, problem.line, problem.code) == (2, 3, code)
    assert message in problem.message


def test_a_custom_id_that_comes_twice_is_told_with_both_lines() -> None:
    file = b"\n".join([line("a"), line("b"), line("a")])
    _, problems = validated([file], WANTED)
    message = "The custom_id of line 1 is here again; each line needs one of its own."
    assert problems == (LineProblem(code="duplicate_custom_id", message=message, line=3, param="custom_id"),)


def test_a_file_without_lines_is_no_batch() -> None:
    num_lines, (problem,) = validated([b"\n \n"], WANTED)
    assert (num_lines, problem.code, problem.line) == (0, "empty_file", None)


def test_a_file_that_is_broken_throughout_lists_as_much_as_somebody_reads() -> None:
    _, problems = validated([b"{\n" * 1_000], WANTED)
    assert len(problems) == lines.NUM_PROBLEMS_MAX


def test_a_file_with_too_many_lines_is_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "NUM_LINES_MAX", 3)
    file = b"\n".join(line(str(number)) for number in range(5))
    _, (problem,) = validated([file], WANTED)
    assert (problem.code, problem.line) == ("too_many_lines", 4)


def test_a_line_that_is_too_long_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 200)
    file = b"\n".join([line("a"), line("b", more="x" * 300), line("c")])
    found = list(raw_lines(pieces(file, 16)))
    assert [one.text is None for one in found] == [False, True, False]
    _, (problem,) = validated(pieces(file, 16), WANTED)
    assert (problem.code, problem.line) == ("line_too_long", 2)


def test_a_mark_of_unicode_at_the_beginning_is_no_part_of_the_first_line() -> None:
    assert validated([b"\xef\xbb\xbf" + line("a")], WANTED) == (1, ())


def test_a_body_reaches_its_reader_as_it_was_written() -> None:
    body = {"model": "assistant", "messages": [], "seed": 2**63 - 1, "temperature": 0.1, "user": "Grüße 🎡"}
    [raw] = raw_lines([line("a", body=body)])
    found = lines.read_line(raw, WANTED)
    assert isinstance(found, Line)
    assert json.loads(found.body) == body
