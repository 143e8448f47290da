"""Garbage collection: takes away versions that nobody needs, what crashed writers left, and its own leavings.

A plan is made first, and shows what would go and why; carrying it out asks once more about each version, against the
leases of that moment (`headrace.handoff.tombstones`). Collecting beside readers, writers and other collectors breaks
none of them. Killed anywhere, the next collection ends what was begun: a tombstone holds all that it takes.

Order of deletion: a note `collected.json` beside the manifest, so that the number is never given to another version and
lineage still resolves; the manifest; the parts; leases; the tombstones last. Tombstones of orphans stay for 30 days: a
writer that was stopped that long still finds out that its parts are gone.

Over NFS a client may remember for half a minute that a directory was not there, and so overlook a first lease or
tombstone: mount with `lookupcache=positive` wherever readers or collectors run.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from headrace.clock import Clock, iso
from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.generation.claim_pins import SettledClaim
from headrace.generation.sealing import CONTENT, EXECUTION, MIRROR_EXECUTION, MIRRORED
from headrace.handoff import leases
from headrace.handoff.leases import is_leased
from headrace.handoff.retention import (
    FoundParts,
    FoundVersion,
    Named,
    PartsVerdict,
    Verdict,
    decide_parts,
    decide_versions,
)
from headrace.handoff.survey import NOTE, ROOT, VERSION, Survey, names_nonce, survey
from headrace.handoff.tombstones import NOTE as NOTE_KIND
from headrace.handoff.tombstones import CollectedNote, Condemned, Tombstone, standing, tombstones
from headrace.keys import partition_path
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.small_objects import Damaged, PassedOver, create_object, read_object

KEEP_VERSIONS = 2
GRACE_SECONDS = 24 * 3600.0
# A plan is a picture of the store; claims and materializations that came later are not in it.
PLAN_SECONDS = 3600.0
# After this a collector that has not decided is taken for dead. It may still be alive: see `Tombstone.decide`.
_UNDECIDED_SECONDS = 3600.0
_ORPHAN_TOMBSTONE_SECONDS = 30 * 24 * 3600.0

Fate = Literal["collected", "leased", "sealed", "spared", "damaged"]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Micro-batches of a claim whose rows were published, or never will be."""

    prefix: str
    num_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A tombstone of an earlier collection, and what becomes of it."""

    tombstone: Tombstone
    action: Literal["finish", "spare", "clear"]


@dataclass(frozen=True, kw_only=True)
class CollectionPlan:
    """What would go and what stays, each with its reason. A dry run is this and nothing more."""

    made_at: float
    versions: tuple[Verdict, ...]
    parts: tuple[PartsVerdict, ...]
    batches: tuple[Batches, ...]
    expired_leases: tuple[str, ...]
    leftovers: tuple[Leftover, ...]
    # What could not be read, and what to do about it: everything that it may protect stays.
    damaged: tuple[str, ...] = ()

    @property
    def collected(self) -> list[FoundVersion]:
        return [verdict.found for verdict in self.versions if not verdict.is_kept]

    @property
    def orphans(self) -> list[FoundParts]:
        return [verdict.found for verdict in self.parts if not verdict.is_kept]

    @property
    def num_bytes(self) -> int:
        """What the store would hold less."""
        return sum(found.num_bytes for found in [*self.collected, *self.orphans, *self.batches])


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """What went. `kept_after_all`: versions and orphans that somebody had come to need since the plan, and how so."""

    versions: tuple[FoundVersion, ...]
    orphans: tuple[FoundParts, ...]
    kept_after_all: tuple[tuple[FoundVersion | FoundParts, Fate], ...]
    num_batches: int
    num_leases: int
    num_leftovers: int
    num_bytes: int
    # What could not be read, and so was left as it is.
    damaged: tuple[str, ...] = ()


def plan_collection(
    objects: ObjectStore,
    clock: Clock,
    *,
    keep_versions: int = KEEP_VERSIONS,
    named: Named = frozenset(),
    grace_seconds: float = GRACE_SECONDS,
) -> CollectionPlan:
    """Looks through the whole store and decides; deletes nothing.

    Args:
        keep_versions: of each partition, at least 1.
        named: versions that stay whatever their age, as a set or a question: what Dagster last materialized.
        grace_seconds: how long what was superseded, or left behind, stays at least.
    """
    made_at, damaged = clock.now(), PassedOver()
    found = survey(objects, clock, damaged=damaged)
    versions = decide_versions(found.snapshot, keep_versions=keep_versions, named=named, grace_seconds=grace_seconds)
    parts = decide_parts(found.snapshot, grace_seconds=grace_seconds)
    going = {verdict.found.nonce for verdict in [*versions, *parts] if not verdict.is_kept}
    there = {one.nonce for one in [*found.snapshot.versions, *found.snapshot.unnamed]} - going
    return CollectionPlan(
        made_at=made_at,
        versions=versions,
        parts=parts,
        batches=tuple(_batches(objects, found, grace_seconds, damaged)),
        expired_leases=tuple(entry.key for entry in found.expired_leases),
        leftovers=tuple(_leftovers(objects, found, there, going, damaged)),
        damaged=tuple(damaged.sentences),
    )


def collect(objects: ObjectStore, clock: Clock, plan: CollectionPlan) -> CollectionReport:
    """Carries a plan out.

    Raises:
        InvalidInput: the plan is more than an hour old.
        StoreUnavailable: what was not reached yet, the next collection takes.
    """
    age = clock.now() - plan.made_at
    if age > PLAN_SECONDS:
        raise InvalidInput(
            f"This collection plan is {age / 60:.0f} minutes old, it may be {PLAN_SECONDS / 60:.0f} at most: what was "
            "materialized since is not in it. Make a new plan."
        )
    damaged = PassedOver()
    for leftover in plan.leftovers:
        try:
            _end(objects, clock, leftover)
        except HandoffCorrupt as error:
            damaged(error)
    gone: list[FoundVersion] = []
    orphans: list[FoundParts] = []
    kept: list[tuple[FoundVersion | FoundParts, Fate]] = []
    for version in plan.collected:
        fate = _tried(lambda version=version: _take_version(objects, clock, version), damaged)
        gone.append(version) if fate == "collected" else kept.append((version, fate))
    for orphan in plan.orphans:
        known = [verdict.found.version for verdict in plan.versions if verdict.found.place == orphan.place]
        fate = _tried(lambda orphan=orphan, known=known: _take_orphan(objects, clock, orphan, known), damaged)
        orphans.append(orphan) if fate == "collected" else kept.append((orphan, fate))
    for key in plan.expired_leases:
        objects.delete(key, durable=False)
    for batches in plan.batches:
        _delete_all(objects, batches.prefix)
    return CollectionReport(
        versions=tuple(gone),
        orphans=tuple(orphans),
        kept_after_all=tuple(kept),
        num_batches=len(plan.batches),
        num_leases=len(plan.expired_leases),
        num_leftovers=len(plan.leftovers),
        num_bytes=sum(found.num_bytes for found in [*gone, *orphans, *plan.batches]),
        damaged=tuple(damaged.sentences),
    )


def _tried(take: Callable[[], Fate], damaged: Damaged) -> Fate:
    """What cannot be read stops only what it is about."""
    try:
        return take()
    except HandoffCorrupt as error:
        damaged(error)
        return "damaged"


def _take_version(objects: ObjectStore, clock: Clock, found: FoundVersion) -> Fate:
    condemned = Condemned(
        manifest_key=found.manifest_key,
        note_key=found.manifest_key.rpartition("/")[0] + "/" + NOTE,
        note=CollectedNote(
            asset=found.asset,
            partition=found.partition,
            version=found.version,
            collected_at=iso(clock.now()),
            collected_by=f"{socket.gethostname()}/{os.getpid()}",
            **found.facts,
        ),
        prefix=found.prefix,
        clears=True,
    )
    return _take(objects, clock, found.nonce, condemned, is_sealed=lambda: False)


def _take_orphan(objects: ObjectStore, clock: Clock, found: FoundParts, known: list[int]) -> Fate:
    condemned = Condemned(prefix=found.prefix, clears=False)
    partition = found.prefix.rpartition("/parts/")[0]
    return _take(
        objects, clock, found.nonce, condemned, is_sealed=lambda: names_nonce(objects, partition, found.nonce, known)
    )


def _take(
    objects: ObjectStore, clock: Clock, nonce: str, condemned: Condemned, *, is_sealed: Callable[[], bool]
) -> Fate:
    # Decided before: an orphan that its writer sealed afterwards. It must go on finding a tombstone.
    was_taken = standing(objects, nonce) == "collected"
    tombstone = Tombstone(nonce=nonce, collector=new_nonce())
    condemned = replace(condemned, clears=condemned.clears and not was_taken)
    tombstone.create(objects, condemned)
    if not was_taken:
        # From here on nobody begins to read or ends writing without noticing; who began before has a lease.
        if is_leased(objects, nonce, clock.now()):
            tombstone.withdraw(objects)
            return "leased"
        if is_sealed():
            tombstone.withdraw(objects)
            return "sealed"
    try:
        if tombstone.decide(objects, "collect", at=iso(clock.now())) == "spare":
            return "spared"
    except ObjectMissing:
        pass  # another collector has taken all of it, our tombstone too
    _finish(objects, nonce, condemned)
    return "collected"


def _finish(objects: ObjectStore, nonce: str, condemned: Condemned) -> None:
    """Everything here may be done twice, by two collectors, and at any later time."""
    if condemned.manifest_key:
        if condemned.note_key and condemned.note:
            # One that is there and damaged keeps the number taken all the same.
            with suppress(HandoffCorrupt):
                create_object(objects, condemned.note_key, NOTE_KIND, condemned.note)
        objects.delete(condemned.manifest_key)
    _delete_all(objects, condemned.prefix)
    _delete_all(objects, f"{leases.ROOT}/{nonce}")
    if condemned.clears:
        for tombstone in tombstones(objects, nonce):
            _clear(objects, tombstone)


def _clear(objects: ObjectStore, tombstone: Tombstone) -> None:
    # In this order: a decision without its tombstone is cleared by the next collection.
    objects.delete(tombstone.key)
    objects.delete(tombstone.decision_key)


def _delete_all(objects: ObjectStore, prefix: str) -> None:
    """Until nothing is listed: two that delete at the same time may stop each other half-way."""
    objects.delete_prefix(prefix)
    while objects.list(prefix):
        objects.delete_prefix(prefix)


def _end(objects: ObjectStore, clock: Clock, leftover: Leftover) -> None:
    tombstone = leftover.tombstone
    if leftover.action == "clear":
        _clear(objects, tombstone)
        return
    try:
        if leftover.action == "spare" and tombstone.decide(objects, "spare", at=iso(clock.now())) == "spare":
            return
        condemned = tombstone.condemned(objects)
    except ObjectMissing:
        return  # ended meanwhile
    _finish(objects, tombstone.nonce, condemned)


def _leftovers(
    objects: ObjectStore, found: Survey, there: set[str], going: set[str], damaged: Damaged
) -> list[Leftover]:
    leftovers = []
    for tombstone, made_at in found.tombstones:
        age = found.snapshot.now - made_at
        try:
            decision = tombstone.decision(objects)
            following = _after_collecting(objects, tombstone, age) if decision == "collect" else None
        except HandoffCorrupt as error:
            damaged(error)
            continue
        if decision == "collect":
            action = following
        elif tombstone.nonce in going:
            action = None  # cleared with the rest
        elif tombstone.nonce not in there:
            action = "clear" if age > _UNDECIDED_SECONDS else None
        else:
            action = "spare" if decision is None and age > _UNDECIDED_SECONDS else None
        if action:
            leftovers.append(Leftover(tombstone=tombstone, action=action))
    return leftovers


def _after_collecting(objects: ObjectStore, tombstone: Tombstone, age: float) -> Literal["finish", "clear"] | None:
    try:
        condemned = tombstone.condemned(objects)
    except ObjectMissing:
        return "clear"
    manifest_key = condemned.manifest_key
    is_over = not (objects.list(condemned.prefix) or (manifest_key and objects.exists(manifest_key)))
    if condemned.clears or not is_over:
        return "finish"
    return "clear" if age > _ORPHAN_TOMBSTONE_SECONDS else None


def _batches(objects: ObjectStore, found: Survey, grace_seconds: float, damaged: Damaged) -> list[Batches]:
    settled = {claim.batches_prefix: claim for claim in found.claims.settled}
    published = {
        (version.asset, version.facts.get("attributes", {}).get("claim")) for version in found.snapshot.versions
    }
    batches = []
    for prefix, (num_bytes, written_at) in found.batches.items():
        claim = settled.get(prefix)
        if claim is None or found.snapshot.now - written_at <= grace_seconds:
            continue
        if not claim.is_sealed:
            batches.append(Batches(prefix=prefix, num_bytes=num_bytes, reason="the claim is void"))
        # Settled is not published: whoever opens the claim next publishes out of its micro-batches.
        elif all(
            (asset, claim.id) in published or _was_published(objects, asset, claim, damaged)
            for asset in ((MIRRORED, MIRROR_EXECUTION) if claim.is_mirror else (CONTENT, EXECUTION))
        ):
            batches.append(Batches(prefix=prefix, num_bytes=num_bytes, reason="the claim's rows are published"))
    return batches


def _was_published(objects: ObjectStore, asset: str, claim: SettledClaim, damaged: Damaged) -> bool:
    """Whether a collected version was the claim's."""
    prefix = f"{ROOT}/{partition_path(asset)}/{partition_path(claim.partition)}"
    for name in objects.children(prefix):
        if VERSION.fullmatch(name):
            try:
                note = read_note(objects, f"{prefix}/{name}/{NOTE}")
            except HandoffCorrupt as error:
                damaged(error)
                continue
            if note and note.attributes.get("claim") == claim.id:
                return True
    return False


def read_note(objects: ObjectStore, key: str) -> CollectedNote | None:
    """What a collected version's note says; None: there is none under this key. Raises: HandoffCorrupt."""
    try:
        return read_object(objects, key, NOTE_KIND)
    except ObjectMissing:
        return None
