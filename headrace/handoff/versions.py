"""Sealed, numbered versions of an asset's partition.

A version is its manifest: the writer writes the parts first, under keys with its nonce, then creates the manifest under
the number that was free when it began. One writer wins a number. Data with the same content and attributes as the
newest version reuse that version: nothing is sealed twice. Versions never change; readers map them. Since readers take
the newest version, a writer that slept is refused if newer inputs were used meanwhile.

A killed writer leaves only parts that no manifest names.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from headrace.clock import Clock, SystemClock, iso
from headrace.errors import (
    HandoffCollected,
    HandoffCorrupt,
    HandoffMissing,
    InvalidInput,
    PublishConflict,
    StoreUnavailable,
)
from headrace.handoff.aligned_file import ALIGNMENT
from headrace.handoff.erasures import Erasures, links_of
from headrace.handoff.layout import (
    ROOT,
    asset_prefix,
    manifest_key,
    note_key,
    parts_prefix,
)
from headrace.handoff.manifest import Manifest, encoded_schema
from headrace.handoff.manifests import begun_versions, newest_manifest, read_manifest
from headrace.handoff.parts import BATCH_BYTES, PART_BYTES, WrittenParts, write_parts
from headrace.handoff.schemas import fingerprint
from headrace.handoff.sealed import Handoff, Verification, checked_verification
from headrace.keys import partition_from_path
from headrace.store.leases import Lease, Leases
from headrace.store.objects import ObjectStore, create_json, new_nonce

# The form in which a manifest names an input's version.
_STATED = re.compile(r"v(\d+) (\S+)")


@dataclass(frozen=True)
class HandoffStore:
    """Publishes and finds versions. Asset and partition are free text; each becomes one path segment.

    `verification` is the default mode of opened handoffs. `leased=False`: nobody collects garbage in this store.
    """

    objects: ObjectStore
    clock: Clock = field(default_factory=SystemClock)
    nonces: Callable[[], str] = new_nonce
    verification: Verification = "once"
    leased: bool = True

    def __post_init__(self) -> None:
        checked_verification(self.verification)

    @cached_property
    def leases(self) -> Leases | None:
        return Leases(self.objects, self.clock) if self.leased else None

    @cached_property
    def erasures(self) -> Erasures:
        return Erasures(self.objects)

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
        once: Mapping[str, str] | None = None,
        expected: int | None = None,
        nonce: str | None = None,
        compat: bool = False,
        alignment: int = ALIGNMENT,
        batch_bytes: int = BATCH_BYTES,
        part_bytes: int = PART_BYTES,
    ) -> Handoff:
        """Seals `rows` as the next version, unless the newest one has the same content and attributes.

        Batches are written as they come; nothing is visible before the last one, and a failure removes them.

        Args:
            input_versions: the inputs of the rows, `asset[partition]` to `v7 <content digest>`.
            once: attributes that only one version may have: an intact version with them is returned, old or new. Inputs
                are not compared, because its readers find it by these attributes, or its writer checks `expected`.
            expected: the highest number (`last_number`) that the caller decided on; others may have sealed since.
            nonce: the nonce of a caller that wrote its own objects under it, which live and go with this version.
            compat: text as `large_string`, for readers older than Arrow 16.
            alignment: of buffers in the files, bytes; 4096 for O_DIRECT.
            batch_bytes, part_bytes: small batches are joined up to the first, large ones cut at the second.

        Raises:
            PublishConflict: another writer sealed this version, with other content, since this call began or since
                `expected`; or the newest version was made from newer inputs.
            Erased: a row belongs to what was erased from the store.
            InvalidInput: batches without a schema, or a column type that handoffs do not carry.
            StoreUnavailable: the store cannot take the bytes.
        """
        schema, batches = _stream(rows, schema)
        number = (self.last_number(asset, partition) if expected is None else expected) + 1
        nonce = nonce or self.nonces()
        attributes = {**(attributes or {}), **(once or {})}
        prefix = parts_prefix(asset, partition, nonce)
        with self.leases.hold(nonce) if self.leases else nullcontext() as lease:
            started = time.perf_counter()
            # After the lease: an erasure that is decided from here on waits for this writer.
            if schema is not None and links_of(asset, schema.names):
                batches = self.erasures.all().checked(asset, partition, batches)
            try:
                written = write_parts(
                    self.objects,
                    prefix,
                    schema,
                    batches,
                    compat=compat,
                    alignment=alignment,
                    batch_bytes=batch_bytes,
                    part_bytes=part_bytes,
                )
            except BaseException:
                with suppress(StoreUnavailable):
                    self.objects.delete_prefix(prefix)
                raise
            if same := self._same(asset, partition, written, attributes, once):
                self.objects.delete_prefix(prefix)
                return same
            if once is None and (newer := self.newer_inputs(asset, partition, input_versions or {})):
                self.objects.delete_prefix(prefix)
                raise PublishConflict(
                    f"{asset}[{partition}] of run {run_id} was not sealed: {newer}. Readers take the newest version, "
                    "so rows of older inputs must not hide it. Run it again: it then starts from the newest inputs.",
                    asset=asset,
                    partition=partition,
                )
            manifest = Manifest(
                asset=asset,
                partition=partition,
                version=number,
                num_rows=written.num_rows,
                num_bytes=sum(part.num_bytes for part in written.parts),
                parts=written.parts,
                arrow_schema=encoded_schema(written.schema),
                schema_fingerprint=fingerprint(schema),
                content_digest=written.content_digest,
                code_version=code_version,
                run_id=run_id,
                input_versions=dict(input_versions or {}),
                attributes=attributes,
                created_at=iso(self.clock.now()),
                write_seconds=time.perf_counter() - started,
                nonce=nonce,
            )
            return self._seal(manifest, prefix, written, lease, once)

    def _seal(
        self,
        manifest: Manifest,
        prefix: str,
        written: WrittenParts,
        lease: Lease | None,
        once: Mapping[str, str] | None,
    ) -> Handoff:
        # If this raises, the parts stay: the manifest may exist although the store could not confirm it.
        key = manifest_key(manifest.asset, manifest.partition, manifest.version)
        if create_json(self.objects, key, manifest.to_body(), nonce=manifest.nonce).won:
            if lease:
                lease.confirm(key)
            return self._handoff(manifest)
        same = self._same(manifest.asset, manifest.partition, written, manifest.attributes, once)
        self.objects.delete_prefix(prefix)
        if same:
            return same
        raise PublishConflict(
            f"Another writer sealed {manifest.label} with other content while this one (run {manifest.run_id}) was "
            "writing it. Run it again: it then starts from the newest inputs.",
            handoff=manifest.label,
        )

    def newest(self, asset: str, partition: str) -> Handoff | None:
        manifest = newest_manifest(self.objects, asset, partition)
        return self._handoff(manifest) if manifest else None

    def open(self, asset: str, partition: str, version: int | None = None) -> Handoff:
        """The given version, or the newest.

        Raises:
            HandoffMissing: names the partition, and what exists.
        """
        handoff = self.newest(asset, partition) if version is None else self._read(asset, partition, version)
        if handoff:
            return handoff
        wanted = f"{asset}[{partition}]" + (f" v{version}" if version is not None else "")
        if version is not None and self.objects.exists(note_key(manifest_key(asset, partition, version))):
            raise HandoffCollected(
                f"Handoff {wanted} was garbage-collected. Open the newest version instead.",
                asset=asset,
                partition=partition,
                version=version,
            )
        there = ", ".join(f"v{number}" for number in self.versions(asset, partition)[-5:]) or "none"
        raise HandoffMissing(
            f"No sealed handoff {wanted} in {self.objects.uri(ROOT)} (versions there: {there}). "
            f"Materialize {asset}, partition {partition}.",
            asset=asset,
            partition=partition,
            version=version,
        )

    def versions(self, asset: str, partition: str) -> list[int]:
        return [
            number
            for number in self._numbers(asset, partition)
            if self.objects.exists(manifest_key(asset, partition, number))
        ]

    def partitions(self, asset: str) -> list[str]:
        """Partitions with at least one sealed version, sorted."""
        names = map(partition_from_path, self.objects.children(asset_prefix(asset)))
        return sorted(name for name in names if self.versions(asset, name))

    def assets(self) -> list[str]:
        """Assets with at least one partition in which a version was ever sealed or begun."""
        return sorted(map(partition_from_path, self.objects.children(ROOT)))

    def find(self, asset: str, partition: str, /, **attributes: str) -> Handoff | None:
        """The newest version with (at least) these attributes; a version with a damaged manifest has none."""
        for version in reversed(self._numbers(asset, partition)):
            with suppress(HandoffCorrupt):
                handoff = self._read(asset, partition, version)
                if handoff and attributes.items() <= handoff.attributes.items():
                    return handoff
        return None

    def find_made(
        self, asset: str, partition: str, *, code_version: str, input_versions: Mapping[str, str]
    ) -> Handoff | None:
        """The newest version, if this code made it from inputs of the same content; None: it must be made.

        An older version that fits does not count: readers take the newest.
        """
        newest = self._newest_or_damaged(asset, partition)
        if newest is None or newest.manifest.code_version != code_version:
            return None
        made_of = _digests(newest.manifest.input_versions)
        return self._reused(newest) if made_of == _digests(input_versions) and self.is_intact(newest) else None

    def newer_inputs(self, asset: str, partition: str, input_versions: Mapping[str, str]) -> str | None:
        """Says which inputs of the newest version are newer than `input_versions`; None: none are.

        Compares numbers if both name an input, its content differs, and this store knows the newer version. So inputs
        whose numbers started again, or of another store, stop nothing.
        """
        newest = self._newest_or_damaged(asset, partition)
        for name, stated in newest.manifest.input_versions.items() if newest else ():
            mine, theirs = _number_and_digest(input_versions.get(name, "")), _number_and_digest(stated)
            if mine and theirs and mine[0] < theirs[0] and mine[1] != theirs[1] and self._was_sealed(name, theirs[0]):
                assert newest
                return f"it was made from {name} v{mine[0]}, and {newest.label} from v{theirs[0]}"
        return None

    def _was_sealed(self, name: str, version: int) -> bool:
        asset, _, rest = name.partition("[")
        key = manifest_key(asset, rest.removesuffix("]"), version)
        return self.objects.exists(key) or self.objects.exists(note_key(key))

    def last_number(self, asset: str, partition: str) -> int:
        """The highest used number: of a version that is sealed, or was sealed and collected."""
        for number in reversed(self._numbers(asset, partition)):
            key = manifest_key(asset, partition, number)
            if self.objects.exists(key) or self.objects.exists(note_key(key)):
                return number
        return 0

    def _same(
        self,
        asset: str,
        partition: str,
        written: WrittenParts,
        attributes: Mapping[str, str],
        once: Mapping[str, str] | None,
    ) -> Handoff | None:
        """The version that makes this one superfluous. A damaged one does not: sealing its content again repairs it."""
        if once and (own := self.find(asset, partition, **once)) and self.is_intact(own):
            return self._reused(own)
        newest = self._newest_or_damaged(asset, partition)
        if newest is None or newest.content_digest != written.content_digest or newest.attributes != attributes:
            return None
        return self._reused(newest) if self.is_intact(newest) else None

    def is_intact(self, handoff: Handoff) -> bool:
        """Whether every byte is as sealed; a kind of handoff with more objects checks these too."""
        try:
            handoff.verify()
        except (HandoffCorrupt, HandoffCollected):
            return False
        return True

    def _newest_or_damaged(self, asset: str, partition: str) -> Handoff | None:
        """As `newest`, but None if the newest manifest is damaged: the next version then repairs the partition."""
        try:
            return self.newest(asset, partition)
        except HandoffCorrupt:
            return None

    def _numbers(self, asset: str, partition: str) -> list[int]:
        return begun_versions(self.objects, asset, partition)

    def _read(self, asset: str, partition: str, version: int) -> Handoff | None:
        manifest = read_manifest(self.objects, asset, partition, version)
        return self._handoff(manifest) if manifest else None

    def _handoff(self, manifest: Manifest, *, reused: bool = False) -> Handoff:
        return Handoff(self.objects, manifest, reused=reused, verification=self.verification, leases=self.leases)

    def _reused(self, handoff: Handoff) -> Handoff:
        return self._handoff(handoff.manifest, reused=True)


def _number_and_digest(stated: str) -> tuple[int, str] | None:
    match = _STATED.fullmatch(stated)
    return (int(match[1]), match[2]) if match else None


def _digests(input_versions: Mapping[str, str]) -> dict[str, str]:
    """Drops the version numbers: `v7 <digest>` and `v8 <digest>` are the same input."""
    return {name: version.rpartition(" ")[2] for name, version in input_versions.items()}


def _stream(rows: Any, schema: pa.Schema | None) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    if isinstance(rows, pa.Table):
        return schema or rows.schema, rows.to_batches()
    if isinstance(rows, pa.RecordBatchReader):
        return schema or rows.schema, rows
    if schema is None:
        raise InvalidInput("A stream of record batches needs its schema beside it: publish(…, batches, schema=…).")
    return schema, rows
