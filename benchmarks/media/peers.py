"""The ways to keep many media items that are compared: each writes them, deletes them and gives any by its name.

All hold the same: an id, a type and the bytes. A peer's reader may open and index what it likes; that is part of the
reading. Ours alone compares each item with a digest, and ours alone has versions; both are in its figures.
"""

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.handoff.layout import manifest_key
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.layout import media_prefixes
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore

MEDIA_TYPE = "image/jpeg"
# Parquet and Lance are written in batches of this many rows: a batch of 20 KB items is then about 5 MB.
_BATCH_ROWS = 256

Bodies = Mapping[str, bytes]


@dataclass(frozen=True)
class Reader:
    """Of one item by its id, and of many at once."""

    one: Callable[[str], Any]
    many: Callable[[Sequence[str]], Any]

    @classmethod
    def by_name(cls, one: Callable[[str], bytes]) -> "Reader":
        return cls(one, lambda item_ids: [one(item_id) for item_id in item_ids])

    @classmethod
    def by_row(cls, dataset: Any, ids: Sequence[str]) -> "Reader":
        """By row number, which it is told: a look-up by id would scan the column. Makes no bytes of Python's."""
        rows = {item_id: row for row, item_id in enumerate(ids)}

        def many(item_ids: Sequence[str]) -> pa.Table:
            return dataset.take([rows[item_id] for item_id in item_ids], columns=["content"])

        return cls(lambda item_id: many([item_id]), many)


class Peer:
    label: str
    # Whether `write` leaves everything fsynced by itself; the benchmark does it for the others.
    is_durable = False
    # Below the peer's directory: what holds the items. Ours has leases beside it, which come and go.
    place = "."
    # False: reading one by one would take minutes, since each read takes whole row groups.
    reads_one_by_one = True

    def write(self, bodies: Bodies, directory: Path) -> None:
        raise NotImplementedError

    def reader(self, directory: Path, ids: Sequence[str]) -> Reader:
        """`ids`: all of them, in the order written: what a peer without names needs to find a row."""
        raise NotImplementedError

    def delete(self, directory: Path) -> None:
        shutil.rmtree(directory)


class LooseFiles(Peer):
    label = "loose files"

    def write(self, bodies: Bodies, directory: Path) -> None:
        for item_id, body in bodies.items():
            (directory / item_id).write_bytes(body)

    def reader(self, directory: Path, ids: Sequence[str]) -> Reader:
        def one(item_id: str, directory: str = str(directory)) -> bytes:
            with open(f"{directory}/{item_id}", "rb", buffering=0) as file:  # noqa: PTH123 (no path object a read)
                return file.read()

        return Reader.by_name(one)


class Tar(Peer):
    label = "tar"

    def write(self, bodies: Bodies, directory: Path) -> None:
        with tarfile.open(directory / "items.tar", "w") as tar:
            for item_id, body in bodies.items():
                header = tarfile.TarInfo(item_id)
                header.size = len(body)
                tar.addfile(header, BytesIO(body))

    def reader(self, directory: Path, ids: Sequence[str]) -> Reader:
        """Reads all headers first: a tar has no index."""
        tar = tarfile.open(directory / "items.tar")  # noqa: SIM115 (the reader's)
        members = {member.name: member for member in tar.getmembers()}

        def one(item_id: str) -> bytes:
            file = tar.extractfile(members[item_id])
            assert file
            return file.read()

        return Reader.by_name(one)


class Parquet(Peer):
    label, reads_one_by_one = "Parquet", False

    def write(self, bodies: Bodies, directory: Path) -> None:
        import pyarrow.parquet as pq

        # Images do not compress: zstd and dictionaries would only cost it time.
        options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(directory / "items.parquet", _SCHEMA, **options) as writer:
            for batch in _batches(bodies):
                writer.write_batch(batch)

    def reader(self, directory: Path, ids: Sequence[str]) -> Reader:
        import pyarrow.dataset as ds

        return Reader.by_row(ds.dataset(directory / "items.parquet"), ids)


class Lance(Peer):
    label = "Lance"

    def __init__(self) -> None:
        import lance  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)

        self._lance: Any = lance

    def write(self, bodies: Bodies, directory: Path) -> None:
        reader = pa.RecordBatchReader.from_batches(_SCHEMA, _batches(bodies))
        self._lance.write_dataset(reader, str(directory / "items.lance"))

    def reader(self, directory: Path, ids: Sequence[str]) -> Reader:
        return Reader.by_row(self._lance.dataset(str(directory / "items.lance")), ids)


class Headrace(Peer):
    label, is_durable, place = "Headrace", True, "handoff"

    def write(self, bodies: Bodies, directory: Path) -> None:
        items = (
            MediaItem(item_id=item_id, media_type=MEDIA_TYPE, content=body, num_bytes=len(body))
            for item_id, body in bodies.items()
        )
        publish_media(_handoffs(directory), "media", "all", items, code_version="1", run_id="benchmark")

    def reader(self, directory: Path, ids: Sequence[str]) -> Reader:
        media = MediaSet.open(_handoffs(directory).open("media", "all"))
        return Reader(media.read, media.read_many)

    def delete(self, directory: Path) -> None:
        """A version: its manifest, then index and shards, as the garbage collection does it."""
        handoffs = _handoffs(directory)
        handoff = handoffs.open("media", "all")
        handoffs.objects.delete(manifest_key(handoff.asset, handoff.partition, handoff.version))
        for prefix in media_prefixes(handoff.manifest):
            handoffs.objects.delete_prefix(prefix)


# By the name that `--peers` takes; `MODULES`: what a peer needs that is not in the project itself.
PEERS: dict[str, Callable[[], Peer]] = {"loose": LooseFiles, "tar": Tar, "parquet": Parquet, "lance": Lance}
MODULES = {"lance": "lance"}


def make_bodies(num_items: int, num_bytes: int) -> dict[str, bytes]:
    """Incompressible, as images and sounds are."""
    return {f"item-{number:07d}.jpg": os.urandom(num_bytes) for number in range(num_items)}


_SCHEMA = pa.schema({"item_id": pa.string(), "media_type": pa.string(), "content": pa.large_binary()})


def _batches(bodies: Bodies) -> Iterator[pa.RecordBatch]:
    ids = list(bodies)
    for start in range(0, len(ids), _BATCH_ROWS):
        some = ids[start : start + _BATCH_ROWS]
        columns = [some, [MEDIA_TYPE] * len(some), [bodies[item_id] for item_id in some]]
        arrays = [pa.array(values, one.type) for values, one in zip(columns, _SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _handoffs(directory: Path) -> HandoffStore:
    return HandoffStore(LocalStore(directory))
