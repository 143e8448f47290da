"""Garbage collection: deletes unneeded versions, crashed writers' leftovers, and objects that rooms give up.

A plan comes first and shows what would go, and why. Versions and orphans are judged by `headrace.handoff.retention`,
sealed weights by `headrace.store.sealed_collecting`, other objects by the room that gives them up; nothing goes that
anybody names (`headrace.store.protection`). Carrying out the plan checks each object again, against the leases of that
moment (`headrace.store.taking`). Readers, writers and other collectors may run meanwhile. If a collection is killed
anywhere, the next one finishes its work.

A collected version leaves a note `collected.json` in its manifest's place, so its number is never used again and
lineage still resolves.

Over NFS a client may cache for half a minute that a directory was absent, and so miss a first lease or tombstone: mount
with `lookupcache=positive` wherever readers or collectors run.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from headrace.clock import Clock, iso
from headrace.errors import HandoffCorrupt, InvalidInput
from headrace.handoff.handed_on import weights_handed_on
from headrace.handoff.layout import note_key
from headrace.handoff.notes import CollectedNote
from headrace.handoff.retention import (
    FoundParts,
    FoundVersion,
    PartsVerdict,
    Verdict,
    decide_parts,
    decide_versions,
)
from headrace.handoff.survey import Survey, names_nonce, survey
from headrace.store.objects import ObjectStore
from headrace.store.protection import Asked, Leaving, Named, Protections, Protector, installed
from headrace.store.sealed_collecting import sealed_leavings
from headrace.store.sealed_directory import WEIGHTS
from headrace.store.small_objects import PassedOver
from headrace.store.taking import Fate, Leftover, end, find_leftovers, take
from headrace.store.tombstones import Condemned

KEEP_VERSIONS = 2
GRACE_SECONDS = 24 * 3600.0
# A plan is a snapshot of the store; it lacks later claims and materializations.
PLAN_SECONDS = 3600.0

Found = FoundVersion | FoundParts | Leaving


@dataclass(frozen=True, kw_only=True)
class CollectionPlan:
    """What would go and what stays, each with its reason. A dry run ends here.

    `others`: sealed weights, checkpoints, micro-batches, evidence.
    """

    made_at: float
    versions: tuple[Verdict, ...]
    parts: tuple[PartsVerdict, ...]
    others: tuple[Leaving, ...]
    expired_leases: tuple[str, ...]
    leftovers: tuple[Leftover, ...]
    # Which objects could not be read, and what to do: everything that they may protect stays.
    damaged: tuple[str, ...] = ()

    @property
    def collected(self) -> list[FoundVersion]:
        return [verdict.found for verdict in self.versions if not verdict.is_kept]

    @property
    def orphans(self) -> list[FoundParts]:
        return [verdict.found for verdict in self.parts if not verdict.is_kept]

    @property
    def leavings(self) -> list[Leaving]:
        return [one for one in self.others if not one.is_kept]

    @property
    def going(self) -> list[Found]:
        return [*self.collected, *self.orphans, *self.leavings]

    @property
    def num_bytes(self) -> int:
        """The bytes that the store would free."""
        return sum(found.num_bytes for found in self.going)

    def one_by_one(self) -> "list[CollectionPlan]":
        """Splits the plan into plans of one version each, so that callers can show progress and be interrupted."""
        only = replace(self, parts=(), others=(), expired_leases=(), leftovers=())
        going = [replace(only, versions=(verdict,)) for verdict in self.versions if not verdict.is_kept]
        return [*going, replace(self, versions=tuple(verdict for verdict in self.versions if verdict.is_kept))]


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """What was deleted. `kept_after_all`: what became needed after the plan, and why."""

    gone: tuple[Found, ...] = ()
    kept_after_all: tuple[tuple[Found, Fate], ...] = ()
    num_leases: int = 0
    num_leftovers: int = 0
    # Objects that could not be read, and so were left unchanged.
    damaged: tuple[str, ...] = ()

    @property
    def versions(self) -> list[FoundVersion]:
        return [found for found in self.gone if isinstance(found, FoundVersion)]

    @property
    def orphans(self) -> list[FoundParts]:
        return [found for found in self.gone if isinstance(found, FoundParts)]

    @property
    def leavings(self) -> list[Leaving]:
        return [found for found in self.gone if isinstance(found, Leaving)]

    @property
    def num_bytes(self) -> int:
        return sum(found.num_bytes for found in self.gone)

    def __add__(self, other: "CollectionReport") -> "CollectionReport":
        return CollectionReport(
            gone=self.gone + other.gone,
            kept_after_all=self.kept_after_all + other.kept_after_all,
            num_leases=self.num_leases + other.num_leases,
            num_leftovers=self.num_leftovers + other.num_leftovers,
            damaged=tuple(dict.fromkeys(self.damaged + other.damaged)),
        )


def plan_collection(
    objects: ObjectStore,
    clock: Clock,
    *,
    keep_versions: int = KEEP_VERSIONS,
    grace_seconds: float = GRACE_SECONDS,
    protectors: Mapping[str, Protector] | None = None,
    environment: Mapping[str, str] | None = None,
) -> CollectionPlan:
    """Examines the whole store and decides; deletes nothing.

    Args:
        keep_versions: how many to keep of each partition, and of the weights of each recipe, at least 1.
        grace_seconds: how long superseded or abandoned objects stay at least.
        protectors: who is asked what stays; None: all installed ones that need only the store.
        environment: where services outside the store are, for protectors that ask them.

    Raises:
        InvalidInput: a protector cannot be asked.
    """
    made_at, damaged = clock.now(), PassedOver()
    found = survey(objects, clock, damaged=damaged)
    asked = Asked(
        objects=objects,
        now=found.snapshot.now,
        clock=clock,
        grace_seconds=grace_seconds,
        damaged=damaged,
        environment=environment or {},
    )
    answers = [protector(asked) for protector in (installed() if protectors is None else protectors).values()]
    # Lists objects before their names, so that it sees names given meanwhile.
    others = [*sealed_leavings(asked, keep_versions=keep_versions)]
    others += [leaving for answer in answers for leaving in answer.leavings]
    named = [named for answer in answers for named in answer.named]
    if any(one.kind == WEIGHTS for one in others):
        named += weights_handed_on(objects, found.snapshot.versions, damaged=damaged)
    protections = Protections(named)
    others = [_judged(one, protections, found) for one in others]
    needed = [Named(key=one.needs, reason=f"{one.label} needs it") for one in others if one.is_kept and one.needs]
    others = [_judged(one, Protections(needed), found) for one in others]
    versions = decide_versions(
        found.snapshot,
        protections,
        [belonging for answer in answers for belonging in answer.belongings],
        keep_versions=keep_versions,
        grace_seconds=grace_seconds,
    )
    parts = decide_parts(found.snapshot, grace_seconds=grace_seconds)
    going = {verdict.found.nonce for verdict in [*versions, *parts] if not verdict.is_kept}
    going |= {one.nonce for one in others if one.nonce and not one.is_kept}
    there = {one.nonce for one in [*found.snapshot.versions, *found.snapshot.unnamed, *others] if one.nonce} - going
    leftovers = find_leftovers(
        objects, found.tombstones, now=found.snapshot.now, there=there, going=going, damaged=damaged
    )
    return CollectionPlan(
        made_at=made_at,
        versions=versions,
        parts=parts,
        others=tuple(others),
        expired_leases=tuple(entry.key for entry in found.expired_leases),
        leftovers=tuple(leftovers),
        damaged=tuple(damaged.sentences),
    )


def collect(objects: ObjectStore, clock: Clock, plan: CollectionPlan) -> CollectionReport:
    """Carries out a plan.

    Raises:
        InvalidInput: the plan is more than an hour old.
        StoreUnavailable: the next collection takes what this one did not reach.
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
            end(objects, clock, leftover)
        except HandoffCorrupt as error:
            damaged(error)
    gone: list[Found] = []
    kept: list[tuple[Found, Fate]] = []
    for found in plan.going:
        try:
            fate = _take(objects, clock, found, plan)
        except HandoffCorrupt as error:  # stops only this object's collection
            damaged(error)
            fate = "damaged"
        gone.append(found) if fate == "collected" else kept.append((found, fate))
    for key in plan.expired_leases:
        objects.delete(key, durable=False)
    return CollectionReport(
        gone=tuple(gone),
        kept_after_all=tuple(kept),
        num_leases=len(plan.expired_leases),
        num_leftovers=len(plan.leftovers),
        damaged=tuple(damaged.sentences),
    )


def _judged(leaving: Leaving, protections: Protections, found: Survey) -> Leaving:
    """An object that its owner gives up stays if a room names it or a lease holds it."""
    if leaving.is_kept:
        return leaving
    reason = protections.of(leaving.key)
    nonces = {leaving.nonce, *leaving.also_leased}
    if reason is None and nonces & found.snapshot.doubtful:
        reason = "what a collector decided about it cannot be read"
    if reason is None and nonces & found.snapshot.leased:
        reason = "leased: it was sealed or opened a short while ago"
    return replace(leaving, is_kept=True, reason=reason) if reason else leaving


def _take(objects: ObjectStore, clock: Clock, found: Found, plan: CollectionPlan) -> Fate:
    if isinstance(found, FoundVersion):
        return take(objects, clock, found.nonce, condemned(found, clock, by=f"{socket.gethostname()}/{os.getpid()}"))
    if isinstance(found, FoundParts):
        known = [verdict.found.version for verdict in plan.versions if verdict.found.place == found.place]
        return take(
            objects,
            clock,
            found.nonce,
            Condemned(prefix=found.prefix, clears=False),
            is_needed=lambda: names_nonce(objects, found.asset, found.partition, found.nonce, known),
        )
    return take(objects, clock, found.nonce, found.condemned, also_leased=found.also_leased, is_needed=found.is_needed)


def condemned(found: FoundVersion, clock: Clock, *, by: str) -> Condemned:
    """What a tombstone deletes of a version, and the note that stays. `by`: who deletes it."""
    note = CollectedNote(
        asset=found.asset,
        partition=found.partition,
        version=found.version,
        collected_at=iso(clock.now()),
        collected_by=by,
        **found.facts,
    )
    return Condemned(
        manifest_key=found.manifest_key,
        note_key=note_key(found.manifest_key),
        note=asdict(note),
        prefix=found.prefix,
        clears=True,
    )
