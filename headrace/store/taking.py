"""How garbage collection deletes something despite leases, kills at any point and other collectors.

A collector makes a tombstone, then looks for leases (`headrace.store.tombstones`). It writes a note first, where one
remains; then it deletes the object that makes the rest visible; the rest; the leases; and last the tombstones, which
list all that must go, so that the next collection can finish the work. Deleted keys are never made again: restored
content gets another number or another nonce. So a collector that paused anywhere deletes only what it had decided on.

Tombstones of orphans stay for 30 days: a writer that was stopped for that long still learns that its parts are gone.
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

# An undecided collector counts as dead after this time. It may still be alive: see `Tombstone.decide`.
_UNDECIDED_SECONDS = 3600.0
_ORPHAN_TOMBSTONE_SECONDS = 30 * 24 * 3600.0

Fate = Literal["collected", "leased", "sealed", "spared", "damaged"]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """An earlier collection's tombstone, and what to do with it."""

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
    """Args: see `headrace.store.protection.Leaving`."""
    if nonce is None:
        _delete(objects, condemned)
        return "collected"
    # Decided earlier, and then its writer sealed this orphan. The writer must still find a tombstone.
    was_taken = standing(objects, nonce) == "collected"
    tombstone = Tombstone(nonce=nonce, collector=new_nonce())
    condemned = replace(condemned, clears=condemned.clears and not was_taken)
    tombstone.create(objects, condemned)
    if not was_taken:
        # From here on a new reader, or a writer that finishes, notices the tombstone; earlier ones have a lease.
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
        pass  # another collector has deleted all of it, our tombstone too
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
        return  # finished meanwhile
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
    there, going: nonces of what stays, and of what this collection deletes.
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
    """Safe to run twice, by two collectors, at any later time."""
    _delete(objects, condemned)
    _delete_all(objects, f"{leases.ROOT}/{nonce}")
    if condemned.clears:
        for tombstone in tombstones(objects, nonce):
            _clear(objects, tombstone)


def _delete(objects: ObjectStore, condemned: Condemned) -> None:
    if condemned.note_key and condemned.note:
        # Even a damaged note shows that this was collected.
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
    """Repeats until nothing is listed: two collectors that delete at once may stop each other half-way."""
    objects.delete_prefix(prefix)
    while objects.list(prefix):
        objects.delete_prefix(prefix)
