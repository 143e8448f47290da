"""How garbage collection takes something away, against leases, so that it may be killed anywhere, beside anybody.

A tombstone is made, then leases are looked for (`headrace.store.tombstones`). Order of deletion: a note, where one
stays; the object that makes the rest be there; the rest; leases; the tombstones last, which hold all that is to go, so
that the next collection ends what was begun. Keys that are deleted are never made again: what comes back, comes under
another number or another nonce. So a collector that slept anywhere deletes nothing but what it had decided on.

Tombstones of orphans stay for 30 days: a writer that was stopped that long still finds out that its parts are gone.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from headrace.clock import Clock, iso
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store import leases
from headrace.store.leases import is_leased
from headrace.store.objects import ObjectStore, new_nonce
from headrace.store.small_objects import Damaged, create_object
from headrace.store.tombstones import NOTE, Condemned, Tombstone, standing, tombstones

# After this a collector that has not decided is taken for dead. It may still be alive: see `Tombstone.decide`.
_UNDECIDED_SECONDS = 3600.0
_ORPHAN_TOMBSTONE_SECONDS = 30 * 24 * 3600.0

Fate = Literal["collected", "leased", "sealed", "spared", "damaged"]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A tombstone of an earlier collection, and what becomes of it."""

    tombstone: Tombstone
    action: Literal["finish", "spare", "clear"]


def take(
    objects: ObjectStore,
    clock: Clock,
    nonce: str | None,
    condemned: Condemned,
    *,
    also_leased: Sequence[str] = (),
    is_needed: Callable[[], bool] | None = None,
) -> Fate:
    """Args: as of `headrace.store.protection.Leaving`."""
    if nonce is None:
        _delete(objects, condemned)
        return "collected"
    # Decided before: an orphan that its writer sealed afterwards. It must go on finding a tombstone.
    was_taken = standing(objects, nonce) == "collected"
    tombstone = Tombstone(nonce=nonce, collector=new_nonce())
    condemned = replace(condemned, clears=condemned.clears and not was_taken)
    tombstone.create(objects, condemned)
    if not was_taken:
        # From here on nobody begins to read or ends writing without noticing; who began before has a lease.
        if any(is_leased(objects, one, clock.now()) for one in (nonce, *also_leased)):
            tombstone.withdraw(objects)
            return "leased"
        if is_needed and is_needed():
            tombstone.withdraw(objects)
            return "sealed"
    try:
        if tombstone.decide(objects, "collect", at=iso(clock.now())) == "spare":
            return "spared"
    except ObjectMissing:
        pass  # another collector has taken all of it, our tombstone too
    _finish(objects, nonce, condemned)
    return "collected"


def end(objects: ObjectStore, clock: Clock, leftover: Leftover) -> None:
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


def find_leftovers(
    objects: ObjectStore,
    found: Sequence[tuple[Tombstone, float]],
    *,
    now: float,
    there: set[str],
    going: set[str],
    damaged: Damaged,
) -> list[Leftover]:
    """Args:
    found: tombstones, and when they were made.
    there, going: nonces of what stays, and of what this collection takes.
    """
    leftovers = []
    for tombstone, made_at in found:
        age = now - made_at
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


def _finish(objects: ObjectStore, nonce: str, condemned: Condemned) -> None:
    """Everything here may be done twice, by two collectors, and at any later time."""
    _delete(objects, condemned)
    _delete_all(objects, f"{leases.ROOT}/{nonce}")
    if condemned.clears:
        for tombstone in tombstones(objects, nonce):
            _clear(objects, tombstone)


def _delete(objects: ObjectStore, condemned: Condemned) -> None:
    if condemned.note_key and condemned.note:
        # One that is there and damaged says all the same that this was collected.
        with suppress(HandoffCorrupt):
            create_object(objects, condemned.note_key, NOTE, condemned.note)
    if condemned.manifest_key:
        objects.delete(condemned.manifest_key)
    _delete_all(objects, condemned.prefix)


def _clear(objects: ObjectStore, tombstone: Tombstone) -> None:
    # In this order: a decision without its tombstone is cleared by the next collection.
    objects.delete(tombstone.key)
    objects.delete(tombstone.decision_key)


def _delete_all(objects: ObjectStore, prefix: str) -> None:
    """Until nothing is listed: two that delete at the same time may stop each other half-way."""
    objects.delete_prefix(prefix)
    while objects.list(prefix):
        objects.delete_prefix(prefix)
