"""`headrace handoff show`: a version's manifest, schema, lineage, and as many columns of its first rows as fit."""

import shutil
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import typer

from headrace.clock import epoch_seconds
from headrace.command_line.holders import holders_by_nonce
from headrace.command_line.opening import Reference, open_handoffs, open_reference, split_columns, suggest_columns
from headrace.command_line.output import (
    age_text,
    aligned,
    bytes_text,
    cells,
    counted,
    print_heading,
    print_json,
    print_lines,
    print_table,
)
from headrace.handoff.media.layout import Layout, is_media
from headrace.handoff.sealed import Handoff
from headrace.handoff.spelling import plain_type
from headrace.text.terminal import say
from headrace.text.visible import one_line

# Cells are cut to the first of these lengths at which all columns fit, else to the last.
_CELL_CHARS = (60, 40, 24, 16, 12)
_PIPE_CELL_CHARS = 80
_LIST_ITEMS = 8


def show_handoff(
    context: typer.Context,
    store: str | None,
    words: Sequence[str],
    *,
    num_rows: int,
    columns: str | None,
    as_json: bool,
) -> None:
    handoffs = open_handoffs(context, store)
    # `lazy`: a preview must neither read a version of many GB whole nor show damaged data.
    handoff = open_reference(handoffs, Reference.parse(words, assets=handoffs.assets())).with_verification("lazy")
    names = split_columns(columns)
    suggest_columns(handoff, names or [])
    now = handoffs.clock.now()
    held_by = holders_by_nonce(handoffs.objects, now).get(handoff.manifest.nonce, [])
    if as_json:
        rows = _rows(handoff, names or handoff.schema.names, num_rows)
        holders = [{"host": one.host, "pid": one.pid, "until": one.until} for one in held_by]
        print_json({**_facts(handoff), "held_by": holders, "rows": rows})
        return
    manifest = handoff.manifest
    say(handoff.label, bold=True)
    facts = [
        ["rows", f"{manifest.num_rows:,}"],
        ["bytes", f"{bytes_text(manifest.num_bytes)} in {counted(len(manifest.parts), 'part')}"],
        *_media(handoff),
        ["sealed", f"{manifest.created_at}, {age_text(now - epoch_seconds(manifest.created_at))} ago"],
        ["written", _speed(handoff)],
        ["content digest", manifest.content_digest],
        ["schema fingerprint", manifest.schema_fingerprint],
        ["code version", manifest.code_version],
        ["run", manifest.run_id],
        ["at", handoff.uri],
        *([["held by", ", ".join(one.text for one in held_by)]] if held_by else []),
        *[[f"attribute {name}", value] for name, value in sorted(manifest.attributes.items())],
    ]
    print_lines(aligned(facts))
    print_heading("Made from")
    if manifest.input_versions:
        inputs = [[name, *_split_version(stated)] for name, stated in sorted(manifest.input_versions.items())]
        print_table(["INPUT", "VERSION", "DIGEST"], inputs)
    else:
        say("no handoff")
    print_heading("Columns")
    schema = [[each.name, str(plain_type(each.type)), "" if each.nullable else "not null"] for each in handoff.schema]
    print_table(["NAME", "TYPE", ""], schema)
    if num_rows and handoff.num_rows:
        print_heading(f"First {counted(min(num_rows, handoff.num_rows), 'row')}")
        print_lines(preview(handoff, names or handoff.schema.names, num_rows))


def preview(handoff: Handoff, names: Sequence[str], num_rows: int, width: int | None = None) -> list[str]:
    """Lines of at most `width` characters (default: the terminal's; in a pipe no limit). Reads only what it shows."""
    if width is None:
        if not sys.stdout.isatty():
            texts = _texts(handoff, names, num_rows)
            return _table(names, texts, _PIPE_CELL_CHARS)
        width = shutil.get_terminal_size().columns
    shown = _fitting(names, width)
    texts = _texts(handoff, shown, num_rows)
    lines = next(
        (lines for chars in _CELL_CHARS if max(map(cells, lines := _table(shown, texts, chars))) <= width), None
    )
    while lines is None:
        lines = _table(shown, texts, _CELL_CHARS[-1])
        if len(shown) > 1 and max(map(cells, lines)) > width:
            shown, lines = shown[:-1], None
            texts = [row[: len(shown)] for row in texts]
    if hidden := names[len(shown) :]:
        note = f"and {counted(len(hidden), 'more column')}: {', '.join(hidden)} (--columns A,B)"
        lines.append(_cut(note, width))
    return lines


def _fitting(names: Sequence[str], width: int) -> list[str]:
    """As many names as fit with the narrowest cells; at least one."""
    shown: list[str] = []
    for name in names:
        shown.append(name)
        if sum(min(cells(each), _CELL_CHARS[-1]) + 2 for each in shown) - 2 > width:
            break
    return shown[: max(1, len(shown) - 1)] if len(shown) < len(names) else shown


def _texts(handoff: Handoff, names: Sequence[str], num_rows: int) -> list[list[str]]:
    return [[one_line(_shown(row[name])) for name in names] for row in _rows(handoff, names, num_rows)]


def _rows(handoff: Handoff, names: Sequence[str], num_rows: int) -> list[dict[str, Any]]:
    table: pa.Table = handoff.table(list(names), rows=range(min(num_rows, handoff.num_rows)))
    return table.to_pylist()


def _table(names: Sequence[str], texts: Sequence[Sequence[str]], chars: int) -> list[str]:
    return aligned([[_cut(name, chars) for name in names], *[[_cut(text, chars) for text in row] for row in texts]])


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


def _facts(handoff: Handoff) -> dict[str, Any]:
    """The manifest, without digests of single buffers."""
    manifest = handoff.manifest
    facts = manifest.facts()
    del facts["nonce"]
    return {
        "asset": manifest.asset,
        "partition": manifest.partition,
        "version": manifest.version,
        "uri": handoff.uri,
        **facts,
        "parts": [{"key": part.key, "num_rows": part.num_rows, "num_bytes": part.num_bytes} for part in manifest.parts],
        "schema": [
            {"name": each.name, "type": str(plain_type(each.type)), "nullable": each.nullable}
            for each in handoff.schema
        ],
        "schema_fingerprint": manifest.schema_fingerprint,
        "write_seconds": manifest.write_seconds,
        "write_mb_per_s": _mb_per_s(handoff),
    }


def _media(handoff: Handoff) -> list[list[str]]:
    if not is_media(handoff.manifest):
        return []
    layout = Layout.read(handoff.objects, handoff.manifest)
    return [["media", f"{bytes_text(layout.num_bytes)} in {counted(len(layout.shards), 'shard')}"]]


def _mb_per_s(handoff: Handoff) -> float | None:
    seconds = handoff.manifest.write_seconds
    return round(handoff.num_bytes / 1e6 / seconds, 1) if seconds else None


def _speed(handoff: Handoff) -> str:
    speed = _mb_per_s(handoff)
    seconds = handoff.manifest.write_seconds
    return f"in {seconds:.3g} s" + (f", {speed:,.1f} MB/s" if speed is not None else "")


def _split_version(stated: str) -> list[str]:
    version, _, digest = stated.partition(" ")
    return [version, digest[:12]]
