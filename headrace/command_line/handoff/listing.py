"""Tables of versions, partitions and assets. Reads only the manifests of shown versions."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from headrace.clock import epoch_seconds
from headrace.command_line.bodies.handoffs import ListedBody
from headrace.command_line.handoff.holders import Holder, holders_by_nonce
from headrace.command_line.output import age_text, bytes_text, print_table
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.handoff.layout import Place, manifest_place
from headrace.handoff.manifest import Manifest
from headrace.handoff.versions import HandoffStore
from headrace.keys import partition_from_path, partition_path
from headrace.store.objects import Entry
from headrace.text.terminal import say

_READERS = 16
_DIGEST_CHARS = 12


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A version; `manifest` is None if it is damaged."""

    asset: str
    partition: str
    version: int
    sealed_at: float
    manifest: Manifest | None
    held_by: Sequence[Holder]

    def body(self, now: float) -> ListedBody:
        manifest = self.manifest
        return ListedBody(
            asset=self.asset,
            partition=self.partition,
            version=self.version,
            damaged=manifest is None,
            num_rows=manifest.num_rows if manifest else None,
            num_bytes=manifest.num_bytes if manifest else None,
            num_parts=len(manifest.parts) if manifest else None,
            content_digest=manifest.content_digest if manifest else None,
            created_at=manifest.created_at if manifest else None,
            age_seconds=round(now - self.sealed_at),
            held_by=tuple(one.body for one in self.held_by),
        )


def read_listed(handoffs: HandoffStore, found: Sequence[Entry], now: float, *, newest_only: bool) -> list[Listed]:
    """Sorted by asset, partition and version."""
    entries = [(place, entry) for entry in found if (place := manifest_place(entry.key))]
    entries.sort(key=lambda pair: (pair[0].prefix, int(pair[0].of)))
    if newest_only:
        entries = list({pair[0].prefix: pair for pair in entries}.values())
    held = holders_by_nonce(handoffs.objects, now)

    def read(pair: tuple[Place, Entry]) -> Listed | None:
        place, entry = pair
        try:
            manifest = Manifest.from_bytes(handoffs.objects.read(entry.key), uri=handoffs.objects.uri(entry.key))
        except ObjectMissing:
            return None  # collected meanwhile
        except HandoffCorrupt:
            manifest = None
        return Listed(
            asset=place.asset,
            # The path shortens a long key.
            partition=manifest.partition if manifest else place.partition,
            version=int(place.of),
            sealed_at=epoch_seconds(manifest.created_at) if manifest else entry.modified_at,
            manifest=manifest,
            held_by=held.get(manifest.nonce, []) if manifest else [],
        )

    with ThreadPoolExecutor(_READERS) as readers:
        return [listed for listed in readers.map(read, entries) if listed]


def print_versions(listed: Sequence[Listed], now: float) -> None:
    rows = [
        [
            one.asset,
            one.partition,
            f"v{one.version}",
            *_size(one.manifest),
            age_text(now - one.sealed_at),
            one.manifest.content_digest[:_DIGEST_CHARS] if one.manifest else "manifest damaged",
            ", ".join(holder.text for holder in one.held_by),
        ]
        for one in listed
    ]
    headers = ["ASSET", "PARTITION", "VERSION", "ROWS", "BYTES", "PARTS", "AGE", "DIGEST", "HELD BY"]
    print_table(headers, rows, right=["VERSION", "ROWS", "BYTES", "PARTS", "AGE"])


def print_partitions(listed: Sequence[Listed], found: Sequence[Entry], now: float) -> None:
    stored, counts = defaultdict(int), defaultdict(int)
    for entry in found:
        partition = entry.key.split("/")[2]
        stored[partition] += entry.num_bytes
        counts[partition] += manifest_place(entry.key) is not None
    rows = [
        [
            one.partition,
            f"v{one.version}",
            *_size(one.manifest),
            age_text(now - one.sealed_at),
            f"{counts[partition_path(one.partition)]}",
            bytes_text(stored[partition_path(one.partition)]),
            ", ".join(holder.text for holder in one.held_by),
        ]
        for one in listed
    ]
    headers = ["PARTITION", "NEWEST", "ROWS", "BYTES", "PARTS", "AGE", "VERSIONS", "STORED", "HELD BY"]
    print_table(headers, rows, right=headers[1:-1])


def print_assets(found: Sequence[Entry], now: float, uri: str) -> None:
    partitions: dict[str, set[str]] = defaultdict(set)
    versions, stored, newest = defaultdict(int), defaultdict(int), defaultdict(float)
    for entry in found:
        _, asset, partition, _ = entry.key.split("/", 3)
        stored[asset] += entry.num_bytes
        if manifest_place(entry.key):
            partitions[asset].add(partition)
            versions[asset] += 1
            newest[asset] = max(newest[asset], entry.modified_at)
    if not partitions:
        say(f"No handoff is sealed in {uri} yet. Materialize an asset.", error=True)
        return
    rows = [
        [
            partition_from_path(asset),
            f"{len(partitions[asset]):,}",
            f"{versions[asset]:,}",
            bytes_text(stored[asset]),
            age_text(now - newest[asset]),
        ]
        for asset in sorted(partitions)
    ]
    headers = ["ASSET", "PARTITIONS", "VERSIONS", "STORED", "NEWEST"]
    print_table(headers, rows, right=headers[1:])


def _size(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return ["?", "?", "?"]
    return [f"{manifest.num_rows:,}", bytes_text(manifest.num_bytes), f"{len(manifest.parts)}"]
