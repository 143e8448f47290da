"""Finds the two versions meant, and lists their differences."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from headrace.command_line.bodies.handoffs import ChangedRowBody, ChangedValueBody, ComparedBody, NumRowsBody
from headrace.command_line.opening import Reference
from headrace.command_line.output import counted, print_heading, print_lines
from headrace.errors import InvalidInput
from headrace.handoff.comparison import Comparison
from headrace.text.visible import one_line, shortened

_CELL_CHARS = 60


def references(what: Sequence[str], assets: Sequence[str]) -> tuple[Reference, Reference]:
    """Raises: InvalidInput: the words are neither ASSET PARTITION V1 V2 nor two references."""
    if len(what) == 4:
        asset, partition, *versions = what
        first, second = (Reference.parse([asset, partition, version], assets=assets) for version in versions)
        return first, second
    if len(what) == 3:
        # Asset and partition in one word: asset[partition] v3 v4.
        first, second = (Reference.parse([what[0], version], assets=assets) for version in what[1:])
        if first.partition != second.partition:
            raise InvalidInput(
                "Compare two versions as ASSET PARTITION V1 V2, or as asset[partition]@v1 asset[partition]@v2."
            )
        return first, second
    if len(what) == 2:
        return Reference.parse(what[:1], assets=assets), Reference.parse(what[1:], assets=assets)
    raise InvalidInput(
        f"Compare two versions as ASSET PARTITION V1 V2, or as asset[partition]@v1 asset[partition]@v2; got "
        f"{len(what)} words."
    )


def summary(found: Comparison, before: str, after: str, key: Sequence[str]) -> list[str]:
    if found.is_same_content:
        return [f"{before} and {after} have the same content: {counted(found.num_rows[0], 'row')}."]
    how = f"by {', '.join(key)}" if key else "by position"
    lines = [
        f"{before} → {after}, compared {how}",
        f"rows     {found.num_rows[0]:,} → {found.num_rows[1]:,}",
        f"added    {found.num_added:,}",
        f"removed  {found.num_removed:,}",
        f"changed  {found.num_changed:,}{_columns(found)}",
        f"same     {found.num_same:,}",
    ]
    lines += [f"column   {difference}" for difference in found.schema]
    if not (found.schema or found.num_added or found.num_removed or found.num_changed):
        lines.append("No value differs: the order of rows does, or what may be null, or how a NaN or -0.0 is spelled.")
    return lines


def _columns(found: Comparison) -> str:
    counts = sorted(found.changed_columns.items(), key=lambda pair: -pair[1])
    return f" ({', '.join(f'{name}: {count:,}' for name, count in counts)})" if counts else ""


def print_samples(found: Comparison) -> None:
    if found.changed:
        print_heading("Changed")
        for row in found.changed:
            lines = [", ".join(f"{name} {_text(value)}" for name, value in row.key.items())]
            for name, (old, new) in row.values.items():
                lines += [
                    f"  {name}",
                    *(f"    {sign} {text}" for sign, text in zip("-+", _pair_of_texts(old, new), strict=True)),
                ]
            print_lines(lines)
    for title, sign, rows in (("Removed", "-", found.removed), ("Added", "+", found.added)):
        if rows:
            print_heading(title)
            print_lines(
                [f"{sign} {', '.join(f'{name}={_text(value)}' for name, value in row.items())}" for row in rows]
            )


def _pair_of_texts(old: Any, new: Any) -> tuple[str, str]:
    """Both texts, from shortly before their first difference on."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return _text(old), _text(new)
    old, new = one_line(old), one_line(new)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    start = max(same - _CELL_CHARS // 3, 0) if max(len(old), len(new)) > _CELL_CHARS else 0
    before, after = (_text(("…" if start else "") + text[start:]) for text in (old, new))
    return before, after


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, list) and len(value) > 8:
        return f"[{one_line(', '.join(map(str, value[:8])))}, … {len(value):,} items]"
    return shortened(one_line(str(value)), _CELL_CHARS) if value is not None else "–"


def compared_body(found: Comparison, before: str, after: str, key: Sequence[str]) -> ComparedBody:
    return ComparedBody(
        before=before,
        after=after,
        key=tuple(key),
        same=found.is_same_content,
        num_rows=NumRowsBody(before=found.num_rows[0], after=found.num_rows[1]),
        schema=found.schema,
        num_same=found.num_same,
        num_added=found.num_added,
        num_removed=found.num_removed,
        num_changed=found.num_changed,
        changed_columns=found.changed_columns,
        added=found.added,
        removed=found.removed,
        changed=tuple(
            ChangedRowBody(
                key=row.key,
                values={name: ChangedValueBody(before=old, after=new) for name, (old, new) in row.values.items()},
            )
            for row in found.changed
        ),
    )
