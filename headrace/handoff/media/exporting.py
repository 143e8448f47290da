"""Exports media for other programs: as a folder of files, WebDataset tar shards, or a Parquet file.

An export is written under a temporary name beside its target, and renamed when complete: a killed export leaves a
hidden `.partial-…` and no target. Nothing is overwritten or fsynced: exports can be made again.
"""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.media.file_names import file_name, file_stem, file_suffix
from headrace.handoff.media.reading import MediaSet, StoredItem
from headrace.handoff.schemas import MEDIA_INDEX
from headrace.store.objects import new_nonce
from headrace.store.refusals import os_refusal

# `datasets.load_dataset("imagefolder")` and "audiofolder" read this beside the files.
METADATA = "metadata.jsonl"
TAR_BYTES = 1024 * 1024 * 1024
ROW_GROUP_BYTES = 64 * 1024 * 1024
_COPY_BYTES = 1024 * 1024

# Called after each item with the number of finished items, and of all items.
Progress = Callable[[int, int], object]


def export_folder(media: MediaSet, directory: Path, *, progress: Progress | None = None) -> Path:
    """One file an item, and `metadata.jsonl` with a line for each: `file_name`, `item_id` and the index's fields.

    Raises:
        InvalidInput: `directory` exists. HandoffCorrupt: an item is damaged; the export is removed.
    """
    with placed_when_whole(directory) as partial:
        partial.mkdir()
        with (partial / METADATA).open("x", encoding="utf-8") as metadata:
            for item, chunks in _counted(media, progress):
                name = file_name(item.item_id, item.media_type)
                with (partial / name).open("xb") as file:
                    file.writelines(chunks)
                metadata.write(json.dumps({"file_name": name, **stated(item)}) + "\n")
    return directory


def export_webdataset(
    media: MediaSet, pattern: Path, *, tar_bytes: int = TAR_BYTES, progress: Progress | None = None
) -> list[Path]:
    """Tar shards of about `tar_bytes`: for each item `KEY.SUFFIX` and `KEY.json`; KEY is the id made safe.

    Args:
        pattern: the shards' path, with `%06d` for the number: `pictures-%06d.tar`.

    Raises:
        InvalidInput: the pattern has no number, or one of its files exists. HandoffCorrupt: an item is damaged.
    """
    numbers = re.findall(r"%0\d+d", pattern.name)
    if len(numbers) != 1 or pattern.name.count("%") != 1:
        raise InvalidInput(f"WebDataset pattern must have one number such as %06d in its name, got {pattern.name!r}.")
    before, after = pattern.name.split(numbers[0])
    named = re.compile(rf"{re.escape(before)}\d+{re.escape(after)}")
    if pattern.parent.is_dir():
        for there in sorted(pattern.parent.iterdir()):
            if named.fullmatch(there.name):
                _refuse(there)
    with placed_when_whole(pattern.with_name(f"{before}tars{after}"), into_place=False) as partial:
        partial.mkdir()
        contents = _counted(media, progress)
        entry = next(contents, None)
        paths = []
        while entry or not paths:
            paths.append(pattern.with_name(pattern.name % len(paths)))
            with (
                (partial / paths[-1].name).open("xb") as file,
                tarfile.open(fileobj=file, mode="w|", bufsize=_COPY_BYTES) as tar,
            ):
                while entry:
                    _add(tar, *entry)
                    # Otherwise every header of the shard stays in memory.
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                    entry = next(contents, None)
                    if tar.offset >= tar_bytes:
                        break
        for path in paths:
            (partial / path.name).rename(path)
    return paths


def export_parquet(
    media: MediaSet,
    path: Path,
    *,
    item_bytes_max: int = ROW_GROUP_BYTES,
    progress: Progress | None = None,
) -> Path:
    """The index's columns and `content`, in row groups of at most 64 MiB or one item.

    Raises:
        InvalidInput: `path` exists, or an item is larger than `item_bytes_max`: Parquet takes a value whole, in memory.
        HandoffCorrupt: an item is damaged; the export is removed.
    """
    import pyarrow.parquet as pq

    kept = [field for field in MEDIA_INDEX if field.name != "id_xxh3_64"]
    schema = pa.schema([*kept, pa.field("content", pa.binary(), nullable=False)])
    with placed_when_whole(path) as partial, pq.ParquetWriter(partial, schema, compression="none") as writer:
        rows: list[dict[str, Any]] = []
        group_bytes = 0
        for item, chunks in _counted(media, progress):
            if item.num_bytes > item_bytes_max:
                raise InvalidInput(
                    f"Item {item.item_id!r} has {item.num_bytes} bytes, Parquet export takes at most {item_bytes_max} "
                    "an item. Export a folder or WebDataset, which stream, or raise item_bytes_max (below 2 GiB)."
                )
            if rows and group_bytes + item.num_bytes > ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows, group_bytes = [], 0
            digest, attributes = bytes.fromhex(item.xxh3_128), json.dumps(item.attributes, ensure_ascii=False)
            rows.append({**asdict(item), "xxh3_128": digest, "attributes": attributes, "content": b"".join(chunks)})
            group_bytes += item.num_bytes
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return path


@contextmanager
def placed_when_whole(target: Path, *, into_place: bool = True) -> Iterator[Path]:
    """A temporary path beside `target`; renamed to it if the block succeeds, deleted if not.

    Raises: InvalidInput: `target` exists. StoreUnavailable: it cannot be written.
    """
    if os.path.lexists(target):
        _refuse(target)
    partial = target.with_name(f".{target.name[:200]}.partial-{new_nonce()[:12]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if into_place:
            if os.path.lexists(target):
                _refuse(target)
            partial.rename(target)
    except OSError as error:
        sentence = f"Cannot export to {target}: {error.strerror or error}. Nothing is left."
        raise os_refusal(error, sentence) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _refuse(path: Path) -> None:
    raise InvalidInput(f"{path} exists, and an export overwrites nothing. Export to another place, or move it away.")


def _counted(media: MediaSet, progress: Progress | None) -> Iterator[tuple[StoredItem, Iterator[bytes]]]:
    for num_done, entry in enumerate(media.contents(), start=1):
        yield entry
        if progress:
            progress(num_done, len(media))


def stated(item: StoredItem) -> dict[str, Any]:
    """The facts that the index has of an item."""
    return {name: value for name, value in asdict(item).items() if value is not None}


def _add(tar: tarfile.TarFile, item: StoredItem, chunks: Iterator[bytes]) -> None:
    key, suffix = file_stem(item.item_id), file_suffix(item.media_type)
    header = tarfile.TarInfo(f"{key}.{suffix}")
    header.size = item.num_bytes
    tar.addfile(header, _ChunkReader(chunks))
    body = json.dumps(stated(item), ensure_ascii=False).encode()
    # A JSON item keeps its suffix, so its description needs another.
    header = tarfile.TarInfo(f"{key}.{'json' if suffix != 'json' else 'index.json'}")
    header.size = len(body)
    tar.addfile(header, io.BytesIO(body))


class _ChunkReader(io.BufferedIOBase):
    """Chunks as a file that can be read from front to back."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def read(self, size: int | None = -1, /) -> bytes:
        pieces, wanted = [], -1 if size is None else size
        while wanted:
            if not self._left:
                self._left = memoryview(next(self._chunks, b""))
            if not self._left:
                break
            piece = self._left if wanted < 0 else self._left[:wanted]
            self._left = self._left[len(piece) :]
            pieces.append(piece)
            wanted -= len(piece) if wanted > 0 else 0
        return b"".join(pieces)
