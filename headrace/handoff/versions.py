"""Sealed, numbered versions of what an asset's partition holds.

A version is its manifest: parts are written first, under keys with the writer's nonce, then the manifest is created at
the next free number; whoever loses that race takes the number after. What has the same content and attributes as the
newest version is that version: nothing is sealed twice. Versions are never changed; readers map them.

A writer that is killed leaves parts that no manifest names, and nothing else.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from headrace.clock import Clock, SystemClock, iso
from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput, ObjectMissing, StoreUnavailable
from headrace.handoff.manifest import Manifest
from headrace.handoff.parts import file_digest, map_part, write_parts
from headrace.handoff.schemas import fingerprint
from headrace.keys import partition_from_path, partition_path
from headrace.store.objects import ObjectStore, create_json, new_nonce
from headrace.store.verified import verified_once

ROOT = "handoff"
_VERSION = re.compile(r"v(\d{6,})")


@dataclass(frozen=True)
class Handoff:
    """One sealed version. Opening it reads the manifest alone; its rows are mapped, never loaded.

    `reused`: a publish that found its content already sealed, and made nothing.
    """

    objects: ObjectStore = field(repr=False, compare=False)
    manifest: Manifest
    reused: bool = False

    @property
    def asset(self) -> str:
        return self.manifest.asset

    @property
    def partition(self) -> str:
        return self.manifest.partition

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def content_digest(self) -> str:
        return self.manifest.content_digest

    @property
    def num_rows(self) -> int:
        return self.manifest.num_rows

    @property
    def num_bytes(self) -> int:
        return self.manifest.num_bytes

    @property
    def attributes(self) -> dict[str, str]:
        return self.manifest.attributes

    @property
    def paths(self) -> list[Path]:
        """The Arrow IPC files, in row order. For reading only."""
        return [self.objects.local_path(part.key) for part in self.manifest.parts]

    @property
    def schema(self) -> pa.Schema:
        self._verify_once()
        return pa.ipc.open_file(pa.memory_map(str(self.paths[0]))).schema

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows; its buffers are pages of the sealed files.

        Raises:
            HandoffCorrupt: a file is missing or damaged; checked once per machine and version.
        """
        self._verify_once()
        tables = [map_part(path) for path in self.paths]
        if columns is not None:
            tables = [table.select(list(columns)) for table in tables]
        return pa.concat_tables(tables)

    def head(self, num_rows: int) -> pa.Table:
        """The first rows, out of the first file alone."""
        self._verify_once()
        return map_part(self.paths[0]).slice(0, num_rows)

    def polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All rows as polars sees them: fixed-width columns share the files' pages; strings gain 16 bytes a row."""
        frame = pl.from_arrow(self.table(columns), rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def lazy(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        return self.polars(columns).lazy()

    def verify(self) -> None:
        """Reads every byte of every part, whatever was verified before.

        Raises:
            HandoffCorrupt: naming the first part that differs from the manifest.
        """
        for part, path in zip(self.manifest.parts, self.paths, strict=True):
            if not path.is_file():
                found = "is missing"
            elif path.stat().st_size != part.num_bytes:
                found = f"has {path.stat().st_size} bytes, manifest says {part.num_bytes}"
            elif (digest := file_digest(path)) != part.xxh3_128:
                found = f"has digest {digest[:8]}…, manifest says {part.xxh3_128[:8]}…"
            else:
                continue
            raise HandoffCorrupt(
                f"Handoff {self.manifest.label} does not match its manifest: {part.name} {found}. "
                f"Materialize {self.asset}[{self.partition}] again; what read it before has to be made again too."
            )

    def _verify_once(self) -> None:
        verified_once(self.objects, f"handoff-{self.manifest.nonce}", self.paths, self.verify)


@dataclass(frozen=True)
class HandoffStore:
    """Publishes and finds versions. Asset and partition are free text; both become one path segment."""

    objects: ObjectStore
    clock: Clock = field(default_factory=SystemClock)
    nonces: Callable[[], str] = new_nonce

    def publish(
        self,
        asset: str,
        partition: str,
        rows: pa.Table | Iterable[pa.RecordBatch],
        *,
        schema: pa.Schema | None = None,
        code_version: str,
        run_id: str,
        input_versions: Mapping[str, str] | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Handoff:
        """Seals `rows` as the next version, unless the newest one holds the same with the same attributes.

        Batches are written as they come; nothing is visible before the last one, and nothing is left if they fail.

        Raises:
            InvalidInput: batches without a schema, or a column type that handoffs do not carry.
            StoreUnavailable: the store cannot take the bytes.
        """
        schema, batches = _stream(rows, schema)
        nonce = self.nonces()
        prefix = f"{_prefix(asset, partition)}/parts/{nonce}"
        try:
            written = write_parts(self.objects, prefix, schema, batches)
        except BaseException:
            with suppress(StoreUnavailable):
                self.objects.delete_prefix(prefix)
            raise
        while True:
            # Before the look at the newest: what is sealed in between makes this number lose, and be looked at.
            number = self._last_number(asset, partition) + 1
            newest = self._newest_or_damaged(asset, partition)
            if newest and _is_same(newest, written.content_digest, dict(attributes or {})):
                self.objects.delete_prefix(prefix)
                return Handoff(self.objects, newest.manifest, reused=True)
            manifest = Manifest(
                asset=asset,
                partition=partition,
                version=number,
                num_rows=written.num_rows,
                num_bytes=sum(part.num_bytes for part in written.parts),
                parts=written.parts,
                schema_fingerprint=fingerprint(schema),
                content_digest=written.content_digest,
                code_version=code_version,
                run_id=run_id,
                input_versions=dict(input_versions or {}),
                attributes=dict(attributes or {}),
                created_at=iso(self.clock.now()),
                nonce=nonce,
            )
            key = _manifest_key(asset, partition, manifest.version)
            # If this raises, the parts stay: the manifest may be there although the store could not say so.
            if create_json(self.objects, key, manifest.to_body(), nonce=nonce).won:
                return Handoff(self.objects, manifest)

    def newest(self, asset: str, partition: str) -> Handoff | None:
        for version in reversed(self._numbers(asset, partition)):
            if handoff := self._read(asset, partition, version):
                return handoff
        return None

    def open(self, asset: str, partition: str, version: int | None = None) -> Handoff:
        """The given version, or the newest.

        Raises:
            HandoffMissing: naming the partition, and what there is.
        """
        handoff = self.newest(asset, partition) if version is None else self._read(asset, partition, version)
        if handoff:
            return handoff
        wanted = f"{asset}[{partition}]" + (f" v{version}" if version is not None else "")
        there = ", ".join(f"v{number}" for number in self.versions(asset, partition)[-5:]) or "none"
        raise HandoffMissing(
            f"No sealed handoff {wanted} in {self.objects.uri(ROOT)} (versions there: {there}). "
            f"Materialize {asset}, partition {partition}."
        )

    def versions(self, asset: str, partition: str) -> list[int]:
        return [
            number
            for number in self._numbers(asset, partition)
            if self.objects.exists(_manifest_key(asset, partition, number))
        ]

    def partitions(self, asset: str) -> list[str]:
        """Partitions with at least one sealed version, sorted."""
        names = map(partition_from_path, self.objects.children(f"{ROOT}/{partition_path(asset)}"))
        return sorted(name for name in names if self.versions(asset, name))

    def find(self, asset: str, partition: str, /, **attributes: str) -> Handoff | None:
        """The newest version that has (at least) these attributes; one with a damaged manifest has none."""
        for version in reversed(self._numbers(asset, partition)):
            with suppress(HandoffCorrupt):
                handoff = self._read(asset, partition, version)
                if handoff and attributes.items() <= handoff.attributes.items():
                    return handoff
        return None

    def _last_number(self, asset: str, partition: str) -> int:
        numbers = reversed(self._numbers(asset, partition))
        return next((n for n in numbers if self.objects.exists(_manifest_key(asset, partition, n))), 0)

    def _newest_or_damaged(self, asset: str, partition: str) -> Handoff | None:
        """None also where the newest manifest is damaged: the next version then repairs the partition."""
        try:
            return self.newest(asset, partition)
        except HandoffCorrupt:
            return None

    def _numbers(self, asset: str, partition: str) -> list[int]:
        """Numbers that somebody tried to seal; a killed writer may have left one without a manifest."""
        matches = map(_VERSION.fullmatch, self.objects.children(_prefix(asset, partition)))
        return sorted(int(match[1]) for match in matches if match)

    def _read(self, asset: str, partition: str, version: int) -> Handoff | None:
        key = _manifest_key(asset, partition, version)
        try:
            text = self.objects.read(key)
        except ObjectMissing:
            return None
        return Handoff(self.objects, Manifest.from_bytes(text, uri=self.objects.uri(key)))


def _prefix(asset: str, partition: str) -> str:
    return f"{ROOT}/{partition_path(asset)}/{partition_path(partition)}"


def _manifest_key(asset: str, partition: str, version: int) -> str:
    return f"{_prefix(asset, partition)}/v{version:06d}/manifest.json"


def _stream(rows: Any, schema: pa.Schema | None) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    if isinstance(rows, pa.Table):
        return schema or rows.schema, rows.to_batches()
    if isinstance(rows, pa.RecordBatchReader):
        return schema or rows.schema, rows
    if schema is None:
        raise InvalidInput("A stream of record batches needs its schema beside it: publish(…, batches, schema=…).")
    return schema, rows


def _is_same(newest: Handoff, content_digest: str, attributes: dict[str, str]) -> bool:
    """A damaged version is not the same: sealing its content again is how it is repaired."""
    if newest.content_digest != content_digest or newest.attributes != attributes:
        return False
    try:
        newest.verify()
    except HandoffCorrupt:
        return False
    return True
