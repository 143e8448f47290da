"""Facts of one version, and as many columns of its first rows as fit."""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from headrace.command_line.bodies.handoffs import ColumnBody, PartBody, ShownBody
from headrace.command_line.handoff.holders import Holder
from headrace.command_line.output import (
    aligned,
    bytes_text,
    cells,
    counted,
)
from headrace.handoff.media.layout import Layout, is_media
from headrace.handoff.preview import TEXT
from headrace.handoff.sealed import Handoff
from headrace.handoff.spelling import plain_type
from headrace.text.visible import one_line

# Cells are cut to the first of these lengths at which all columns fit, else to the last.
_CELL_CHARS = (60, 40, 24, 16, 12)
_PIPE_CELL_CHARS = 80
_LIST_ITEMS = 8
_CLASS = "__class__"
_MARKDOWN_RULE = re.compile(r"\|[-:|]+\|")


def preview(handoff: Handoff, names: Sequence[str], num_rows: int, width: int | None = None) -> list[str]:
    """Lines of at most `width` characters (default: the terminal's; in a pipe no limit). Reads only what it shows."""
    if width is None:
        if not sys.stdout.isatty():
            texts = _texts(handoff, names, num_rows)
            return _table(names, texts, _PIPE_CELL_CHARS)
        width = shutil.get_terminal_size().columns
    shown = _fitting(names, width)
    texts = _texts(handoff, shown, num_rows)
    chars = next((chars for chars in _CELL_CHARS if _width(shown, texts, chars) <= width), _CELL_CHARS[-1])
    while len(shown) > 1 and _width(shown, texts, chars) > width:
        at = len(shown) - (2 if shown[-1] == TEXT else 1)
        shown = [*shown[:at], *shown[at + 1 :]]
        texts = [[*row[:at], *row[at + 1 :]] for row in texts]
    # A document is looked at for its text: it gets what the other columns leave.
    lines = _table(shown, texts, chars, chars + max(0, width - _width(shown, texts, chars)))
    if hidden := [name for name in names if name not in shown]:
        note = f"and {counted(len(hidden), 'more column')}: {', '.join(hidden)} (--columns A,B)"
        lines.append(_cut(note, width))
    return lines


def _width(names: Sequence[str], texts: Sequence[Sequence[str]], chars: int) -> int:
    return max(map(cells, _table(names, texts, chars)))


def _fitting(names: Sequence[str], width: int) -> list[str]:
    """As many names as fit with the narrowest cells, of which the text is one; at least one."""
    shown: list[str] = []
    for name in names:
        shown.append(name)
        if sum(min(cells(each), _CELL_CHARS[-1]) + 2 for each in shown) - 2 > width:
            break
    shown = shown[: max(1, len(shown) - 1)] if len(shown) < len(names) else shown
    return [*shown[:-1], TEXT] if TEXT in names and TEXT not in shown else shown


def _texts(handoff: Handoff, names: Sequence[str], num_rows: int) -> list[list[str]]:
    return [[one_line(_shown(row[name])) for name in names] for row in first_rows(handoff, names, num_rows)]


def first_rows(handoff: Handoff, names: Sequence[str], num_rows: int) -> list[dict[str, Any]]:
    table: pa.Table = handoff.table(list(names), rows=range(min(num_rows, handoff.num_rows)))
    return table.to_pylist()


def _table(
    names: Sequence[str], texts: Sequence[Sequence[str]], chars: int, text_chars: int | None = None
) -> list[str]:
    most = [text_chars or chars if name == TEXT else chars for name in names]
    return aligned([[_cut(cell, most[at]) for at, cell in enumerate(row)] for row in (names, *texts)])


def _cut(text: str, chars: int) -> str:
    if cells(text) <= chars:
        return text
    if text.isascii():
        return text[: chars - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, chars - 1).rstrip() + "…"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"<{bytes_text(len(value))}>"
    if isinstance(value, list):
        more = f", … {len(value):,} items" if len(value) > _LIST_ITEMS else ""
        return f"[{', '.join(map(_shown, value[:_LIST_ITEMS]))}{more}]"
    return str(value)


def shown_body(handoff: Handoff, held_by: Sequence[Holder], rows: Sequence[dict[str, Any]]) -> ShownBody:
    """The manifest, without digests of single buffers."""
    manifest = handoff.manifest
    facts = manifest.facts()
    del facts["nonce"]
    return ShownBody(
        asset=manifest.asset,
        partition=manifest.partition,
        version=manifest.version,
        uri=handoff.uri,
        **facts,
        parts=tuple(
            PartBody(key=part.key, num_rows=part.num_rows, num_bytes=part.num_bytes) for part in manifest.parts
        ),
        schema=tuple(
            ColumnBody(name=each.name, type=str(plain_type(each.type)), nullable=each.nullable)
            for each in handoff.schema
        ),
        schema_fingerprint=manifest.schema_fingerprint,
        write_seconds=manifest.write_seconds,
        write_mb_per_s=_mb_per_s(handoff),
        held_by=tuple(one.body for one in held_by),
        rows=tuple(rows),
    )


def attribute_facts(attributes: Mapping[str, str]) -> list[list[str]]:
    """A line for each value; of a JSON object or list, for each value in it, under the name of its place."""
    return [fact for name, value in sorted(attributes.items()) for fact in _facts(f"attribute {name}", _parsed(value))]


def _parsed(value: str) -> Any:
    if not value.startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _facts(name: str, value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        # A value of Dagster's metadata says its class, and holds what it is under one more key.
        held = [one for key, one in value.items() if key != _CLASS]
        if _CLASS in value and len(held) < 2:
            yield from _facts(name, held[0] if held else None)
            return
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if inner:
        for key, one in inner:
            yield from _facts(f"{name}.{key}", one)
        return
    lines = [line for line in _shown(value).splitlines() if not _MARKDOWN_RULE.fullmatch(line)]
    yield from ([name if at == 0 else "", line] for at, line in enumerate(lines or [""]))


def media_facts(handoff: Handoff) -> list[list[str]]:
    if not is_media(handoff.manifest):
        return []
    layout = Layout.read(handoff.objects, handoff.manifest)
    return [["media", f"{bytes_text(layout.num_bytes)} in {counted(len(layout.shards), 'shard')}"]]


def _mb_per_s(handoff: Handoff) -> float | None:
    seconds = handoff.manifest.write_seconds
    return round(handoff.num_bytes / 1e6 / seconds, 1) if seconds else None


def speed_text(handoff: Handoff) -> str:
    speed = _mb_per_s(handoff)
    seconds = handoff.manifest.write_seconds
    return f"in {seconds:.3g} s" + (f", {speed:,.1f} MB/s" if speed is not None else "")


def split_version(stated: str) -> list[str]:
    version, _, digest = stated.partition(" ")
    return [version, digest[:12]]
