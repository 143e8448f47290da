"""Clean JSON Lines as columns: blocks of whole lines that Arrow parses without a Python object per record.

What is clean is decided so that nobody can tell from the records who has read them. A clean part of a file is UTF-8;
has one object a line, which begins and ends its line; has in each wanted column what the caller allows there: strings,
whole numbers or lists of strings; has no half of a surrogate pair, no control character within a string and no wanted
key twice (Arrow's parser refuses them). Of what is not clean the halves are tried, down to a few lines, which
`json_lines` reads one by one and judges. One line is read that the exact reader refuses: where a column that nobody
wants is nested beyond Python's recursion.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from headrace.user_files.json_lines import json_records, read_jsonl
from headrace.user_files.layout import FileLayout, Record, Unreadable
from headrace.user_files.lines import BoundedLines, Expansion

# Fewer lines are not worth a parser's start.
_LINES_MIN = 16
_LINES_LOOKED_AT = 32
_NULLS_SHARE_MAX = 0.1
# After a block that was not clean, so many are not tried; each time twice as many.
_PAUSE_BLOCKS_MAX = 63
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Arrow takes them for numbers, and Python does not.
_NO_NUMBERS = re.compile(rb"Inf\s*[,}\]]"), re.compile(rb"-NaN\s*[,}\]]")
_ARROW_TYPES = {int: pa.int64(), list: pa.list_(pa.string())}
_NEWLINE, _RETURN, _BEGIN, _END = b"\n\r{}"

_Types = Mapping[str, pa.DataType]
# Of each wanted column: `str`, and what else may stand there, `int` or `list` (of strings).
Allowed = Mapping[str, Collection[type]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Records side by side: `lines` int64, and the file's columns; one that no record has is a column of nulls."""

    lines: np.ndarray
    columns: pa.RecordBatch


def json_blocks(
    path: Path, layout: FileLayout, required: Sequence[str], allowed: Allowed
) -> Iterator[Record | Unreadable | Columns]:
    """Records of a file in UTF-8, in order.

    Args:
        required: columns that no record of `Columns` has as null: Arrow does not tell a null from a missing key.
        allowed: what has another type comes as a `Record`, for the caller to judge.

    Raises:
        ExpandsTooMuch: while a compressed file is read.
    """
    expansion, types, line, pause, left_out = Expansion(path, layout), dict[str, pa.DataType](), 1, 0, 0
    for block in _blocks(path, layout):
        if block is None:
            # Nobody knows where the line ends, or what follows it.
            yield from (record for record in read_jsonl(path, layout) if record.line >= line)
            return
        num_exact, first_line = 0, line
        tried = left_out == 0 and expansion.allows(len(block))
        left_out = max(0, left_out - 1)
        for part, table in _parts(block, layout, types, allowed) if tried else [(block, None)]:
            num_lines = _num_lines(part) if table is None else table.num_rows
            nulls = [] if table is None else _nulls(table, required)
            if table is None or len(nulls) > _NULLS_SHARE_MAX * num_lines:
                num_exact += num_lines
                yield from _exact(part, line, path, layout, expansion)
            else:
                if expansion.is_limited:
                    expansion.count(len(part.decode()) - part.count(b"\r\n"))
                yield from _apart(part, table, nulls, line, path, layout)
            line += num_lines
        if tried:
            pause = min(2 * pause + 1, _PAUSE_BLOCKS_MAX) if 2 * num_exact > line - first_line else 0
            left_out = pause


def _blocks(path: Path, layout: FileLayout) -> Iterator[bytes | None]:
    """Whole lines; None where the rest has to be read in another way: a long line, or damage."""
    with pa.input_stream(str(path), compression="detect") as stream:
        rest, is_first = b"", True
        while True:
            try:
                # The mark is in one block.
                chunk = stream.read(max(layout.block_bytes, len(_BYTE_ORDER_MARK)))
            except (OSError, EOFError, ValueError, pa.ArrowException):
                yield None
                return
            if not chunk:
                break
            chunk = chunk.removeprefix(_BYTE_ORDER_MARK) if is_first else chunk
            is_first = False
            end = chunk.rfind(b"\n") + 1
            if not end and len(rest) + len(chunk) > layout.record_bytes_max:
                yield None
                return
            if end:
                yield rest + chunk[:end]
                rest = b""
            rest += chunk[end:]
        if rest:
            yield rest


def _parts(
    block: bytes, layout: FileLayout, types: dict[str, pa.DataType], allowed: Allowed
) -> Iterator[tuple[bytes, pa.Table | None]]:
    """The block in pieces, each with its records, or None: it has to be read line by line.

    Args:
        types: of the columns, as found before; others if the block has others.
    """
    table = _parsed(block, layout, types) if types else None
    if table is None:
        found = _types(block, allowed)
        if found != types:
            types.clear()
            types.update(found)
            table = _parsed(block, layout, types)
    yield from _halves(block, layout, types) if table is None else [(block, table)]


def _halves(block: bytes, layout: FileLayout, types: _Types) -> Iterator[tuple[bytes, pa.Table | None]]:
    middle = block.find(b"\n", len(block) // 2, len(block) - 1) + 1 or block.rfind(b"\n", 0, len(block) // 2) + 1
    if not middle or block.count(b"\n") <= _LINES_MIN:
        yield block, None
        return
    for half in (block[:middle], block[middle:]):
        table = _parsed(half, layout, types)
        yield from _halves(half, layout, types) if table is None else [(half, table)]


def _parsed(block: bytes, layout: FileLayout, types: _Types) -> pa.Table | None:
    """The block's records, if it is clean."""
    num_lines = _num_objects(block)
    if num_lines == 0 or len(block) > layout.record_bytes_max or any(one.search(block) for one in _NO_NUMBERS):
        return None
    try:
        if not block.isascii():
            block.decode()
        table = pj.read_json(
            pa.BufferReader(block),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pj.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    lists = (column for column in table.columns if pa.types.is_list(column.type))
    if table.num_rows != num_lines or any(pc.call_function("list_flatten", [one]).null_count for one in lists):
        return None
    return table


def _num_objects(block: bytes) -> int:
    """How many lines there are, if each begins an object and ends one, so that no object goes on over lines; else 0."""
    if not block.startswith(b"{"):
        return 0
    characters = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE)
    last = ends - 1
    if b"\r" in block:
        last = last - (characters[last] == _RETURN)
        if np.count_nonzero(characters == _RETURN) != np.count_nonzero(last < ends - 1):
            return 0
    is_whole = (characters[last] == _END).all() and (characters[ends[:-1] + 1] == _BEGIN).all()
    return len(ends) if is_whole else 0


def _nulls(table: pa.Table, required: Sequence[str]) -> Sequence[int]:
    found = np.zeros(table.num_rows, bool)
    for column in (table.column(name) for name in required):
        if column.null_count:
            found |= column.is_null().to_numpy()
    return found.nonzero()[0].tolist()


def _apart(
    part: bytes, table: pa.Table, nulls: Sequence[int], line: int, path: Path, layout: FileLayout
) -> Iterator[Record | Unreadable | Columns]:
    """The records side by side, and in between those with nulls, which the exact reader tells from missing keys."""
    lines = part.splitlines(keepends=True) if nulls else []
    [batch] = table.combine_chunks().to_batches()
    begin = 0
    for place in (*nulls, batch.num_rows):
        if place > begin:
            numbers = np.arange(line + begin, line + place, dtype=np.int64)
            yield Columns(lines=numbers, columns=batch.slice(begin, place - begin))
        if place < batch.num_rows:
            yield from _exact(lines[place], line + place, path, layout, None)
        begin = place + 1


def _exact(
    block: bytes, line: int, path: Path, layout: FileLayout, expansion: Expansion | None
) -> Iterator[Record | Unreadable]:
    with BoundedLines(path, layout, block=block, expansion=expansion) as lines:
        yield from json_records(lines, layout, line)


def _types(block: bytes, allowed: Allowed) -> dict[str, pa.DataType]:
    """What the first records that have a column have there, if it is allowed; else strings, which the parser misses."""
    types = dict.fromkeys(allowed, pa.string())
    unknown = set(allowed)
    for line in block.split(b"\n", _LINES_LOOKED_AT)[:_LINES_LOOKED_AT]:
        with suppress(ValueError, RecursionError, AttributeError):
            fields = json.loads(line)
            for name in [name for name in unknown if fields.get(name) is not None]:
                unknown.discard(name)
                # The type itself, since Python's bool is an int.
                kind = type(fields[name])
                if kind in _ARROW_TYPES and kind in allowed[name]:
                    types[name] = _ARROW_TYPES[kind]
    return types


def _num_lines(block: bytes) -> int:
    """As Python counts them: a line ends with one of two characters, or with both."""
    ends = block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
    return ends + (not block.endswith((b"\n", b"\r")))
