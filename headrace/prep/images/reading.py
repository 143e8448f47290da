"""Reads one shard of pictures: each is decoded once, compared by its signature from then on, and sealed at its size.

What is sealed does not depend on any rule, so a changed rule decodes nothing again; a changed size decodes everything.
The price is the disk space of pictures that are dropped later. One picture is decoded at a time; memory holds that, and
about 400 bytes for each.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.handoff.media.index import MediaItem
from headrace.handoff.schemas import IMAGE_SIGNATURES, QUARANTINE
from headrace.keys import digest_text
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.images.decoding import Undecodable, check_pillow, decode
from headrace.prep.images.signatures import signature_of
from headrace.prep.images.sources import FoundImage, image_files, images_of
from headrace.prep.sources import ShardRead, source_name
from headrace.user_files.layout import Unreadable

_BATCH_ROWS = 8192
_EXCERPT_CHARACTERS = 200


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
        for path, dealt in self._files:
            name = source_name(path, self._home)
            for found in images_of(self._corpus, path, name, shard=dealt):
                if isinstance(found, Unreadable):
                    self._set_aside(name, found)
                else:
                    yield from self._item(found)
        self.read().refuse_if_exceeded()

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

    def counts(self) -> dict[str, int | float]:
        """What became of the shard's pictures and files."""
        read = self.read()
        return {
            "num_rows_in": read.num_records,
            "num_rows_quarantined": read.quarantine.num_rows,
            "num_files": read.num_files,
            "num_files_lost": read.num_files_lost,
            "num_files_empty": read.num_files_empty,
            "quarantine_share": read.quarantine_share,
        }

    def _item(self, found: FoundImage) -> Iterator[MediaItem]:
        resize = self._corpus.resize
        try:
            if found.caption is not None:
                found.caption.encode()
            decoded = decode(
                found.body,
                resize.scaled_size,
                pixels_max=self._corpus.decode_pixels_max,
                background=self._corpus.background_rgb,
            )
        except UnicodeEncodeError:
            self._set_aside(found.file, _unreadable(found, "its caption holds half of a surrogate pair"))
            return
        except Undecodable as error:
            self._set_aside(found.file, _unreadable(found, str(error)))
            return
        signature = signature_of(decoded.picture, width=decoded.width, height=decoded.height)
        sealed = resize.cut(decoded.picture, decoded.width, decoded.height)
        image_id = digest_text("image", found.file, str(found.line), found.member or "")[:32]
        place = {"source_file": found.file, "source_line": found.line, "member": found.member}
        self._signatures.add(
            {
                **place,
                "image_id": image_id,
                "caption": found.caption,
                "width": decoded.width,
                "height": decoded.height,
                "format": decoded.format,
                "animated": decoded.is_animated,
                "pixels": signature.pixels,
                "coarse_hash": signature.coarse_hash,
                "fine_hash": signature.fine_hash,
                "colours": signature.colours,
                "contrast": signature.contrast,
            }
        )
        yield MediaItem(
            item_id=image_id,
            media_type=resize.media_type,
            content=resize.encoded(sealed),
            width=sealed.width,
            height=sealed.height,
            caption=found.caption,
            attributes={**place, "source_width": decoded.width, "source_height": decoded.height},
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
