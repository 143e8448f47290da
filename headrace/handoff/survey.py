"""Surveys a store for garbage collection: sealed versions, unnamed parts, and their protection.

Takes three listings, and one read for each manifest and decision. Ages are by the store's own clock, which a probe
object shows; in a read-only store the newest object's time replaces it, and objects seem younger than they are.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, ObjectMissing, StoreUnavailable
from headrace.handoff.handed_on import hands_on_weights
from headrace.handoff.layout import (
    ROOT,
    manifest_key,
    manifest_place,
    partition_prefix,
    parts_below,
    parts_place,
    version_numbers,
)
from headrace.handoff.manifest import Manifest
from headrace.handoff.retention import FoundParts, FoundVersion, Snapshot
from headrace.keys import partition_path
from headrace.store import leases, tombstones
from headrace.store.listings import by_prefix, size_and_time
from headrace.store.objects import Entry, ObjectStore, new_nonce
from headrace.store.small_objects import Damaged
from headrace.store.tombstones import Tombstone

_READERS = 16


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A snapshot to decide on, and leases and tombstones to clear."""

    snapshot: Snapshot
    expired_leases: tuple[Entry, ...]
    tombstones: tuple[tuple[Tombstone, float], ...]  # with when they were made


def survey(objects: ObjectStore, clock: Clock, *, damaged: Damaged) -> Survey:
    """Args: damaged: called for unreadable objects; whatever they may protect counts as protected."""
    # Leases and tombstones before manifests: a version sealed meanwhile then counts as sealed, not as an orphan.
    entries = {root: objects.entries(root) for root in (leases.ROOT, tombstones.ROOT)}
    sealed = objects.entries(ROOT)
    versions = _versions(objects, sealed)
    leased, expired = _leased(entries[leases.ROOT], clock.now())
    condemned = _tombstones(entries[tombstones.ROOT])
    taken = set[str]()
    doubtful = set[str]()
    for one, _ in condemned:
        try:
            if one.decision(objects) == "collect":
                taken.add(one.nonce)
        except HandoffCorrupt as error:
            damaged(error)
            doubtful.add(one.nonce)
    snapshot = Snapshot(
        now=store_now(objects, [*sealed, *(entry for listed in entries.values() for entry in listed)]),
        versions=tuple(versions),
        unnamed=tuple(_unnamed(sealed, versions)),
        leased=frozenset(leased),
        taken=frozenset(taken),
        doubtful=frozenset(doubtful),
    )
    return Survey(snapshot=snapshot, expired_leases=tuple(expired), tombstones=condemned)


def store_now(objects: ObjectStore, entries: Iterable[Entry]) -> float:
    """Seconds since the epoch by the store's clock, or somewhat less."""
    newest = max((entry.modified_at for entry in entries), default=0.0)
    prefix = f"{leases.ROOT}/probe-{new_nonce()}"
    with suppress(StoreUnavailable):
        objects.create(f"{prefix}/probe-0", b"", durable=False)
        newest = max([newest, *(entry.modified_at for entry in objects.entries(prefix))])
        objects.delete_prefix(prefix)
    return newest


def names_nonce(objects: ObjectStore, asset: str, partition: str, nonce: str, known: Iterable[int]) -> bool:
    """Whether a version of the partition, other than the `known` ones, has this nonce.

    An unreadable manifest counts as having it.
    """
    known = set(known)
    for number in version_numbers(objects.children(partition_prefix(asset, partition))):
        if number in known:
            continue
        key = manifest_key(asset, partition, number)
        try:
            if Manifest.from_bytes(objects.read(key), uri=objects.uri(key)).nonce == nonce:
                return True
        except ObjectMissing:
            continue
        except HandoffCorrupt:
            return True
    return False


def _versions(objects: ObjectStore, entries: Sequence[Entry]) -> list[FoundVersion]:
    sizes = {prefix: size_and_time(listed)[0] for prefix, listed in by_prefix(entries, depth=5).items()}

    def read(entry: Entry) -> FoundVersion | None:
        if not (place := manifest_place(entry.key)):
            return None
        where = {
            "asset": place.asset,
            "partition": place.partition,
            "version": int(place.of),
            "manifest_key": entry.key,
            "sealed_at": entry.modified_at,
        }
        try:
            manifest = Manifest.from_bytes(objects.read(entry.key), uri=objects.uri(entry.key))
        except ObjectMissing:
            return None
        except HandoffCorrupt as error:
            return FoundVersion(**where, damage=type(error).__name__)
        prefix = parts_below(place.prefix, manifest.nonce)
        # The path shortens a long key; the manifest has it whole, as Dagster names it when asked what must stay.
        where |= (
            {"partition": manifest.partition}
            if partition_path(manifest.partition) == partition_path(place.partition)
            else {}
        )
        return FoundVersion(
            **where,
            nonce=manifest.nonce,
            content_digest=manifest.content_digest,
            num_bytes=sizes.get(prefix, 0) + entry.num_bytes,
            prefix=prefix,
            hands_on_weights=hands_on_weights(manifest),
            facts=manifest.facts(),
        )

    with ThreadPoolExecutor(_READERS) as readers:
        return [found for found in readers.map(read, entries) if found]


def _unnamed(entries: Sequence[Entry], versions: Sequence[FoundVersion]) -> list[FoundParts]:
    named = {version.prefix for version in versions}
    found = []
    for prefix, listed in by_prefix(entries, depth=5).items():
        place = parts_place(listed[0].key)
        if place and prefix not in named:
            num_bytes, written_at = size_and_time(listed)
            found.append(
                FoundParts(
                    asset=place.asset,
                    partition=place.partition,
                    nonce=place.of,
                    prefix=prefix,
                    num_bytes=num_bytes,
                    written_at=written_at,
                )
            )
    return found


def _leased(entries: Iterable[Entry], now: float) -> tuple[set[str], list[Entry]]:
    leased, expired = set(), []
    for entry in entries:
        _, nonce, *names = entry.key.split("/", 2)
        if not names or (name := names[0]).startswith("."):
            continue  # left by a file system or a desktop: not a lease
        if leases.expires_at(name) + leases.CLOCK_SKEW_SECONDS > now:
            leased.add(nonce)
        else:
            expired.append(entry)
    return leased, expired


def _tombstones(entries: Iterable[Entry]) -> tuple[tuple[Tombstone, float], ...]:
    made_at: dict[Tombstone, float] = {}
    for entry in entries:
        if one := tombstones.tombstone_of(entry.key):
            made_at[one] = max(entry.modified_at, made_at.get(one, 0.0))
    return tuple(made_at.items())
