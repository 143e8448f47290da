"""Reads one shard of pictures: each is decoded once, compared by its signature from then on, and sealed at its size.

What is sealed does not depend on any rule, so a changed rule decodes nothing again; a changed size decodes everything.
The price is the disk space of pictures that are dropped later. Memory holds the files that are under way, two batches a
core, and about 400 bytes for each picture.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.handoff.media.index import MediaItem
from headrace.handoff.schemas import IMAGE_SIGNATURES, QUARANTINE
from headrace.keys import digest_text
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.images.decoding import check_pillow
from headrace.prep.images.preparation import Preparation, Prepared
from headrace.prep.images.processes import decoding_processes
from headrace.prep.images.sources import FoundImage, image_files, images_of
from headrace.prep.sources import ShardRead, source_name
from headrace.user_files.layout import Unreadable

_BATCH_ROWS = 8192
_EXCERPT_CHARACTERS = 200
_KILLER = "ends the process that decodes it, also alone: damaged in a way that the decoder does not survive"


class ImageReading:
    """One shard while it is read: `items` first, once and to its end; the tables are complete after it."""

    def __init__(self, corpus: ImageCorpus, shard: str, home: Path) -> None:
        """Raises: InvalidInput: no file matches, or Pillow is not installed."""
        check_pillow()
        self._corpus, self._shard, self._home = corpus, shard, home
        self._files = image_files(corpus, shard, home)
        self._signatures = _Rows(IMAGE_SIGNATURES)
        self._quarantine = _Rows(QUARANTINE)
        self._lost_files: set[str] = set()
        self._num_empty = 0

    def items(self) -> Iterator[MediaItem]:
        """Every picture that can be decoded, resized and encoded, in the order of the files.

        Raises:
            QuarantineExceeded: after the last one: too many could not be read.
        """
        prepare = Preparation(
            resize=self._corpus.resize,
            pixels_max=self._corpus.decode_pixels_max,
            background=self._corpus.background_rgb,
        )
        made = decoding_processes().map(prepare, self._found(), _body_of, memory_bytes_max=prepare.memory_bytes_max)
        for (name, found), prepared in made:
            if isinstance(found, Unreadable):
                self._set_aside(name, found)
            elif isinstance(prepared, Prepared):
                yield self._item(found, prepared)
            else:
                self._set_aside(name, _unreadable(found, prepared if isinstance(prepared, str) else _KILLER))
        self.read().refuse_if_exceeded()

    def _found(self) -> Iterator[tuple[str, FoundImage | Unreadable]]:
        """Each with the name of its file."""
        for path, dealt in self._files:
            name = source_name(path, self._home)
            for found in images_of(self._corpus, path, name, shard=dealt):
                if isinstance(found, FoundImage) and not _is_text(found.caption):
                    found = _unreadable(found, "its caption holds half of a surrogate pair")
                yield name, found

    def read(self) -> ShardRead:
        return ShardRead(
            corpus=self._corpus.name,
            shard=self._shard,
            documents=self._signatures.table(),
            quarantine=self._quarantine.table(),
            num_files=len(self._files),
            num_files_lost=len(self._lost_files),
            num_files_empty=self._num_empty,
            quarantine_share_max=self._corpus.quarantine_share_max,
        )

    def _item(self, found: FoundImage, made: Prepared) -> MediaItem:
        image_id = digest_text("image", found.file, str(found.line), found.member or "")[:32]
        place = {"source_file": found.file, "source_line": found.line, "member": found.member}
        signature = made.signature
        self._signatures.add(
            {
                **place,
                "image_id": image_id,
                "caption": found.caption,
                "width": made.source_width,
                "height": made.source_height,
                "format": made.format,
                "animated": made.is_animated,
                "pixels": signature.pixels,
                "coarse_hash": signature.coarse_hash,
                "fine_hash": signature.fine_hash,
                "colours": signature.colours,
                "contrast": signature.contrast,
            }
        )
        return MediaItem(
            item_id=image_id,
            media_type=self._corpus.resize.media_type,
            content=made.content,
            width=made.width,
            height=made.height,
            caption=found.caption,
            attributes={**place, "source_width": made.source_width, "source_height": made.source_height},
        )

    def _set_aside(self, name: str, found: Unreadable) -> None:
        if found.is_empty:
            self._num_empty += 1
            return
        excerpt = found.excerpt[:_EXCERPT_CHARACTERS].encode("utf-8", "replace").decode()
        self._quarantine.add(
            {"source_file": name, "source_line": found.line, "reason": found.reason, "excerpt": excerpt}
        )
        if found.loses_file:
            self._lost_files.add(name)


def _body_of(found: tuple[str, FoundImage | Unreadable]) -> bytes | None:
    return found[1].body if isinstance(found[1], FoundImage) else None


def _is_text(caption: str | None) -> bool:
    try:
        (caption or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _unreadable(found: FoundImage, reason: str) -> Unreadable:
    return Unreadable(line=found.line, reason=reason, excerpt=found.member or Path(found.file).name)


class _Rows:
    """Collects rows, and keeps few of them as Python objects."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _BATCH_ROWS:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self._batches, schema=self._schema).unify_dictionaries()

    def _flush(self) -> None:
        if self._rows:
            self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows = []
