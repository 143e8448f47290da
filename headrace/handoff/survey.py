"""Looks through a store for garbage collection: what is sealed, what no manifest names, who protects what.

Four listings, and one read for each manifest, claim and decision. Ages are by the store's own clock, which a probe
object tells; where nothing can be written, the newest object's time stands for it, and things seem younger than they
are.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, ObjectMissing, StoreUnavailable
from headrace.generation.claim_pins import BATCHES, ClaimPins, read_claim_pins
from headrace.handoff import leases, tombstones
from headrace.handoff.manifest import Manifest
from headrace.handoff.retention import FoundParts, FoundVersion, Snapshot
from headrace.handoff.tombstones import Tombstone
from headrace.keys import partition_from_path, partition_path
from headrace.store.objects import Entry, ObjectStore, new_nonce
from headrace.store.small_objects import Damaged

ROOT = "handoff"
NOTE = "collected.json"
VERSION = re.compile(r"v\d{6,}")
_MANIFEST = re.compile(rf"({ROOT}/([^/]+)/([^/]+))/v(\d{{6,}})/manifest\.json")
_PARTS = re.compile(rf"({ROOT}/([^/]+)/([^/]+)/parts/([^/]+))/.+")
_READERS = 16


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A snapshot to decide on, and what is only to be cleared away."""

    snapshot: Snapshot
    expired_leases: tuple[Entry, ...]
    tombstones: tuple[tuple[Tombstone, float], ...]  # with when they were made
    claims: ClaimPins
    batches: dict[str, tuple[int, float]]  # prefix: bytes, when the newest was written


def survey(objects: ObjectStore, clock: Clock, *, damaged: Damaged) -> Survey:
    """Args: damaged: told of what cannot be read; whatever it may protect counts as protected."""
    # Leases and tombstones before manifests: what is sealed meanwhile then counts as sealed, not as an orphan.
    entries = {root: objects.entries(root) for root in (leases.ROOT, tombstones.ROOT, BATCHES)}
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
    claims = read_claim_pins(objects, damaged=damaged)
    snapshot = Snapshot(
        now=store_now(objects, [*sealed, *(entry for listed in entries.values() for entry in listed)]),
        versions=tuple(versions),
        unnamed=tuple(_unnamed(sealed, versions)),
        leased=frozenset(leased),
        taken=frozenset(taken),
        doubtful=frozenset(doubtful),
        unread=claims.unread,
        in_use=claims.in_use,
        finished=claims.finished,
    )
    batches = {prefix: _size_and_time(listed) for prefix, listed in _by_prefix(entries[BATCHES], depth=2).items()}
    return Survey(
        snapshot=snapshot, expired_leases=tuple(expired), tombstones=condemned, claims=claims, batches=batches
    )


def store_now(objects: ObjectStore, entries: Iterable[Entry]) -> float:
    """Seconds since the epoch by the store's clock, or somewhat less."""
    newest = max((entry.modified_at for entry in entries), default=0.0)
    prefix = f"{leases.ROOT}/probe-{new_nonce()}"
    with suppress(StoreUnavailable):
        objects.create(f"{prefix}/probe-0", b"", durable=False)
        newest = max([newest, *(entry.modified_at for entry in objects.entries(prefix))])
        objects.delete_prefix(prefix)
    return newest


def names_nonce(objects: ObjectStore, prefix: str, nonce: str, known: Iterable[int]) -> bool:
    """Whether a version of the partition below `prefix`, other than the `known` ones, has this nonce.

    A manifest that cannot be read may have it.
    """
    known = set(known)
    for name in objects.children(prefix):
        if VERSION.fullmatch(name) and int(name[1:]) not in known:
            key = f"{prefix}/{name}/manifest.json"
            try:
                if Manifest.from_bytes(objects.read(key), uri=objects.uri(key)).nonce == nonce:
                    return True
            except ObjectMissing:
                continue
            except HandoffCorrupt:
                return True
    return False


def _versions(objects: ObjectStore, entries: Sequence[Entry]) -> list[FoundVersion]:
    sizes = {prefix: _size_and_time(listed)[0] for prefix, listed in _by_prefix(entries, depth=5).items()}

    def read(entry: Entry) -> FoundVersion | None:
        match = _MANIFEST.fullmatch(entry.key)
        if not match:
            return None
        where = {
            "asset": partition_from_path(match[2]),
            "partition": partition_from_path(match[3]),
            "version": int(match[4]),
            "manifest_key": entry.key,
            "sealed_at": entry.modified_at,
        }
        try:
            manifest = Manifest.from_bytes(objects.read(entry.key), uri=objects.uri(entry.key))
        except ObjectMissing:
            return None
        except HandoffCorrupt as error:
            return FoundVersion(**where, damage=type(error).__name__)
        prefix = f"{match[1]}/parts/{manifest.nonce}"
        # The path shows a long key shortened, the manifest whole: as Dagster, who is asked what must stay, names it.
        where |= {"partition": manifest.partition} if partition_path(manifest.partition) == match[3] else {}
        return FoundVersion(
            **where,
            nonce=manifest.nonce,
            content_digest=manifest.content_digest,
            num_bytes=sizes.get(prefix, 0) + entry.num_bytes,
            prefix=prefix,
            facts={
                "nonce": manifest.nonce,
                "content_digest": manifest.content_digest,
                "num_rows": manifest.num_rows,
                "num_bytes": manifest.num_bytes,
                "code_version": manifest.code_version,
                "run_id": manifest.run_id,
                "input_versions": dict(manifest.input_versions),
                "attributes": dict(manifest.attributes),
                "created_at": manifest.created_at,
            },
        )

    with ThreadPoolExecutor(_READERS) as readers:
        return [found for found in readers.map(read, entries) if found]


def _unnamed(entries: Sequence[Entry], versions: Sequence[FoundVersion]) -> list[FoundParts]:
    named = {version.prefix for version in versions}
    found = []
    for prefix, listed in _by_prefix(entries, depth=5).items():
        match = _PARTS.fullmatch(listed[0].key)
        if match and prefix not in named:
            num_bytes, written_at = _size_and_time(listed)
            found.append(
                FoundParts(
                    asset=partition_from_path(match[2]),
                    partition=partition_from_path(match[3]),
                    nonce=match[4],
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
            continue  # what a file system or a desktop leaves is no lease
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


def _by_prefix(entries: Iterable[Entry], *, depth: int) -> dict[str, list[Entry]]:
    """Groups by the first `depth` segments of the keys."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups["/".join(entry.key.split("/")[:depth])].append(entry)
    return groups


def _size_and_time(entries: Sequence[Entry]) -> tuple[int, float]:
    return sum(entry.num_bytes for entry in entries), max(entry.modified_at for entry in entries)
