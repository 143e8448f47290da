"""The lines of a batch's input file: OpenAI's `{"custom_id", "method", "url", "body"}`, one JSON object each.

A file is read from front to back in pieces, whatever its size, and its lines are judged one by one. A broken line fails
the whole batch before anything of it is made, as at OpenAI: half a batch would be worse. What is wrong with a body
(a temperature of 5, a tool) is that line's own failure, which its answer tells.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from headrace.inbox.batches.states import LineProblem

# OpenAI's own limits.
FILE_BYTES_MAX = 200 * 2**20
NUM_LINES_MAX = 50_000
CUSTOM_ID_CHARACTERS_MAX = 512
# Of a line. Fixed, since a file is divided again after a crash; a service may take less of a request.
LINE_BYTES_MAX = 4 * 2**20
# What is listed of a broken file: enough to repair it.
NUM_PROBLEMS_MAX = 50
_BOM = b"\xef\xbb\xbf"
# What stays of a line that was erased, with spaces up to the line's length: the file is divided as it was.
STUB = b'{"erased":true}'


class Line(NamedTuple):
    """`number`: in its file, from 1 on, blank lines counted. `custom_id` empty: it was erased. `body`: JSON."""

    number: int
    custom_id: str
    body: bytes


class RawLine(NamedTuple):
    """`offset`: of its first byte in the file. `text` None: it is longer than allowed."""

    number: int
    offset: int
    text: bytes | None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What each line of a batch must be."""

    endpoint: str
    model: str


@dataclass(frozen=True)
class Plan:
    """How a file is divided into parts of so many lines, the last of which may be shorter; part n is from 0 on.

    It follows from the file alone, so whoever goes on after a crash divides it the same.
    """

    num_lines: int
    lines_a_part: int
    starts: "array[int]"
    """Of each part: the offset and the number of its first line, one after the other."""

    @property
    def num_parts(self) -> int:
        return len(self.starts) // 2

    def start(self, part: int) -> tuple[int, int]:
        """Offset and number of the part's first line."""
        return self.starts[2 * part], self.starts[2 * part + 1]

    def num_lines_of(self, part: int) -> int:
        return min(self.lines_a_part, self.num_lines - part * self.lines_a_part)


def raw_lines(pieces: Iterable[bytes], *, offset: int = 0, number: int = 1) -> Iterator[RawLine]:
    """The lines with any text in them, of a file from `offset` on, where line `number` begins."""
    kept: list[bytes] = []
    num_kept = 0

    def line() -> RawLine | None:
        is_long = num_kept > LINE_BYTES_MAX
        text = b"".join(kept)
        if number == 1:
            text = text.removeprefix(_BOM)
        if not is_long and (not text or text.isspace()):
            return None
        return RawLine(number, offset, None if is_long else text)

    for piece in pieces:
        at = 0
        while (end := piece.find(b"\n", at)) >= 0:
            if num_kept + end - at <= LINE_BYTES_MAX:
                kept.append(piece[at:end])
            num_kept += end - at
            if (found := line()) is not None:
                yield found
            kept, offset, number, num_kept, at = [], offset + num_kept + 1, number + 1, 0, end + 1
        if num_kept + len(piece) - at <= LINE_BYTES_MAX:
            kept.append(piece[at:])
        num_kept += len(piece) - at
    if num_kept and (found := line()) is not None:
        yield found


def planned(pieces: Iterable[bytes], lines_a_part: int) -> Plan:
    """The plan of a file that was validated: its lines are counted, and not read."""
    starts, num_lines = array("q"), 0
    for raw in raw_lines(pieces):
        if num_lines % lines_a_part == 0:
            starts.extend((raw.offset, raw.number))
        num_lines += 1
    return Plan(num_lines, lines_a_part, starts)


def validated(pieces: Iterable[bytes], wanted: Wanted) -> tuple[int, tuple[LineProblem, ...]]:
    """How many lines the file has, and what is wrong with it: nothing, if it is a batch."""
    problems: list[LineProblem] = []
    seen: dict[bytes, int] = {}
    num_lines = 0
    for raw in raw_lines(pieces):
        num_lines += 1
        if num_lines > NUM_LINES_MAX:
            message = f"A batch may have {NUM_LINES_MAX:,} lines, and this file has more; make several batches of it."
            problems.append(LineProblem(code="too_many_lines", message=message, line=raw.number))
            break
        line = read_line(raw, wanted)
        if isinstance(line, Line) and line.custom_id:
            # A digest, so that the longest ids of the largest batch take 5 MB.
            digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
            if (first := seen.setdefault(digest, line.number)) != line.number:
                message = f"The custom_id of line {first} is here again; each line needs one of its own."
                line = LineProblem(code="duplicate_custom_id", message=message, line=raw.number, param="custom_id")
        if isinstance(line, LineProblem):
            problems.append(line)
            if len(problems) == NUM_PROBLEMS_MAX:
                break
    if not num_lines:
        problems.append(LineProblem(code="empty_file", message="The file has no line; a batch needs at least one."))
    return num_lines, tuple(problems)


def lines_of_part(pieces_from: Callable[[int], Iterable[bytes]], plan: Plan, part: int, wanted: Wanted) -> list[Line]:
    """Args: pieces_from: the file's bytes from an offset on."""
    offset, number = plan.start(part)
    found: list[Line] = []
    for raw in raw_lines(pieces_from(offset), offset=offset, number=number):
        line = read_line(raw, wanted)
        assert isinstance(line, Line), "a file does not change after it was validated"
        found.append(line)
        if len(found) == plan.num_lines_of(part):
            break
    return found


def custom_id_of(line: bytes) -> str | None:
    """Of a line of an input, output or error file; None: it has none."""
    try:
        content: Any = from_json(line.removeprefix(_BOM))
    except ValueError:
        return None
    custom_id = content.get("custom_id") if isinstance(content, dict) else None
    return custom_id if isinstance(custom_id, str) else None


def read_line(raw: RawLine, wanted: Wanted) -> Line | LineProblem:
    def problem(code: str, message: str, param: str | None = None) -> LineProblem:
        return LineProblem(code=code, message=message, line=raw.number, param=param)

    if raw.text is None:
        return problem("line_too_long", f"A line may have {LINE_BYTES_MAX:,} bytes, this one has more; shorten it.")
    try:
        content: Any = from_json(raw.text, allow_inf_nan=False)
        # Lone surrogates and numbers beyond any range are JSON, and could not be written again.
        body = to_json(content.get("body"), inf_nan_mode="constants") if isinstance(content, dict) else b""
    except ValueError as error:
        return problem("invalid_json_line", f"The line is no JSON: {error}.")
    if not isinstance(content, dict):
        return problem("invalid_json_line", "The line must be a JSON object with custom_id, method, url and body.")
    if content == {"erased": True}:
        return Line(raw.number, "", b"")
    custom_id = content.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return problem("missing_required_parameter", "custom_id must be a text that is not empty.", "custom_id")
    if len(custom_id) > CUSTOM_ID_CHARACTERS_MAX:
        message = f"custom_id may have {CUSTOM_ID_CHARACTERS_MAX} characters, got {len(custom_id)}."
        return problem("invalid_custom_id", message, "custom_id")
    if content.get("method") != "POST":
        return problem("invalid_method", "method must be POST.", "method")
    if content.get("url") != wanted.endpoint:
        message = f"url must be {wanted.endpoint}, the endpoint that the batch was made for."
        return problem("mismatched_endpoint", message, "url")
    if not isinstance(content.get("body"), dict):
        return problem("missing_required_parameter", "body must be the JSON object of the request.", "body")
    if content["body"].get("model") != wanted.model:
        message = f"body.model must be {wanted.model!r}, the one that is served here."
        return problem("model_not_found", message, "body.model")
    if b"Infinity" in body and not _is_finite(content["body"]):
        return problem("invalid_json_line", "The line has a number that does not fit into 64 bits, such as 1e400.")
    return Line(raw.number, custom_id, body)


def _is_finite(value: Any) -> bool:
    match value:
        case float():
            return value - value == 0
        case dict():
            return all(map(_is_finite, value.values()))
        case list():
            return all(map(_is_finite, value))
    return True
