"""Exports the media of generated rows as a folder: a file for each, named by its row, and a table that names them.

Media of a row are the items of any sealed media index (such as `generated_images`) of the row's own partition that
state its `row_id`: of what was made with the row its own version, of anything else the newest. Each kind has a folder,
in the layout that Hugging Face reads as an image, audio or video folder. An item is checked against its digest while it
is written; the export appears when it is whole.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.generation.sealed_tables import version_read
from headrace.handoff.export import Progress, Selected
from headrace.handoff.media.exporting import METADATA, placed_when_whole, stated
from headrace.handoff.media.file_names import file_name
from headrace.handoff.media.layout import is_media
from headrace.handoff.media.reading import MediaSet, StoredItem
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.schemas import MEDIA
from headrace.handoff.sealed import Handoff
from headrace.handoff.versions import HandoffStore

_ROW = "row_id"
_KINDS = {"image": "images", "audio": "audio", "video": "video"}


@dataclass(frozen=True, kw_only=True)
class ExportedMedia:
    """`num_without`: selected rows that no item was made from."""

    num_items: int
    num_without: int


def export_media_folder(
    selected: Selected,
    handoffs: HandoffStore,
    directory: Path,
    *,
    columns: Sequence[str] | None = None,
    progress: Progress = lambda num_items: None,
) -> ExportedMedia:
    """Writes `KIND/ROW_ID.SUFFIX` for each item, and `KIND/metadata.jsonl` with a line for each; KIND is `images`,
    `audio`, `video` or `files`.

    A line has `file_name`, the item's facts and the row's columns. Further items of a row are `ROW_ID-ITEM_ID.SUFFIX`.
    An asset that is a media index itself gives all its items, named by their rows, or by their ids without one.

    Args:
        columns: those of the row; None: all.
        progress: called after each item.

    Raises:
        InvalidInput: `directory` exists, or no item was made from the selected rows.
        HandoffCorrupt: an item is damaged; nothing of the export is left.
    """
    num_items = num_without = 0
    names: set[str] = set()
    with placed_when_whole(directory) as partial, ExitStack() as opened:
        partial.mkdir()
        tables: dict[str, IO[str]] = {}
        for item, chunks, row in _with_rows(selected, handoffs, columns):
            if item is None:
                num_without += 1
                continue
            kind = _KINDS.get(item.media_type.partition("/")[0], "files")
            if kind not in tables:
                (partial / kind).mkdir()
                tables[kind] = opened.enter_context((partial / kind / METADATA).open("x", encoding="utf-8"))
            name = _name(item, names)
            with (partial / kind / name).open("xb") as file:
                file.writelines(chunks)
            # A prompt's own column may have the name by which readers find the file.
            line = {"file_name": name} | {**row, **stated(item), "file_name": name}
            tables[kind].write(json.dumps(line, ensure_ascii=False, default=_as_text) + "\n")
            num_items += 1
            progress(1)
        if not num_items:
            media = [asset for asset in handoffs.assets() if any(_media(handoffs, asset, handoffs.partitions(asset)))]
            raise InvalidInput(
                f"No item of media was made from the rows of {selected.label}; the store has media in "
                f"{', '.join(media) or 'no asset'}. Materialize them, or export parquet, csv, jsonl or dataset."
            )
    return ExportedMedia(num_items=num_items, num_without=num_without)


def _with_rows(
    selected: Selected, handoffs: HandoffStore, columns: Sequence[str] | None
) -> Iterator[tuple[StoredItem | None, Iterator[bytes], Mapping[str, Any]]]:
    """Each item with its bytes and its row's columns; without an item, a row that has none."""
    for one in selected.handoffs:
        if is_media(one.manifest):
            yield from ((item, chunks, {}) for item, chunks in MediaSet.open(one).contents())
            continue
        if _ROW not in one.schema.names:
            # Nothing is made from what is no row.
            continue
        own = Selected(label=one.label, handoffs=(one,), where=selected.where)
        # What `media` says of an item is in its own line.
        wanted = list(columns) if columns is not None else [name for name in own.schema.names if name != MEDIA.name]
        # One partition's rows fit into memory, as when they were made.
        rows = {
            row[_ROW]: {name: row[name] for name in wanted}
            for batch in own.batches(list(dict.fromkeys([_ROW, *wanted])))
            for row in batch.to_pylist()
        }
        seen: set[str] = set()
        claim = _claim_of(one, handoffs)
        for asset in handoffs.assets():
            for media in _media(handoffs, asset, [one.partition], claim=claim):
                for item, chunks in MediaSet.open(media).contents():
                    if item.row_id is not None and item.row_id in rows:
                        seen.add(item.row_id)
                        yield item, chunks, rows[item.row_id]
        yield from ((None, iter(()), row) for row_id, row in rows.items() if row_id not in seen)


def _claim_of(rows: Handoff, handoffs: HandoffStore) -> str | None:
    """That which made the rows; None: nobody can tell any more."""
    if claim := rows.attributes.get("claim"):
        return claim
    try:
        return handoffs.open(CONTENT, rows.partition, version_read(rows, CONTENT)).attributes.get("claim")
    except (HandoffMissing, HandoffCorrupt):
        return None


def _media(
    handoffs: HandoffStore, asset: str, partitions: Sequence[str], *, claim: str | None = None
) -> Iterator[Handoff]:
    for partition in partitions:
        newest = handoffs.newest(asset, partition)
        if newest is None:
            continue
        if not is_media(newest.manifest):
            # All versions of an asset are of one kind.
            return
        # After prompts that came back the newest is of other rows.
        yield (handoffs.find(asset, partition, claim=claim) if claim else None) or newest


def _name(item: StoredItem, names: set[str]) -> str:
    """The row's, where it is the first of its row. Names that differ in case alone are one on some disks."""
    name = file_name(item.row_id or item.item_id, item.media_type)
    if name.casefold() in names:
        name = file_name(f"{item.row_id}-{item.item_id}", item.media_type)
    names.add(name.casefold())
    return name


def _as_text(value: object) -> str:
    """What JSON has no form for, and a prompt file's columns may hold."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"A column of the rows holds {type(value).__name__}, which JSON has no form for.")
