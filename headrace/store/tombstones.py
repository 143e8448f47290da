"""Tombstones: how garbage collection announces that it wants a nonce's objects, and how that is decided.

A reader makes its lease, then looks for tombstones; a collector makes its tombstone, then looks for leases. Whatever
the order, at least one of the two sees the other. A collector that sees no lease decides `collect` with `create`, and
from then on the objects are lost to everybody; only then it deletes.

Each collector has a tombstone of its own and withdraws no other one's: that other may be about to decide. What a killed
collector left is put out of force by deciding it: `spare`, with the same `create`, so that a collector that only slept
finds itself overruled. Clocks play no part in this.

    condemned/<nonce>/<collector>.json            the tombstone: what is to be deleted
    condemned/<nonce>/<collector>.decided.json    `collect` or `spare`
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import ObjectMissing
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object

ROOT = "condemned"

Decision = Literal["collect", "spare"]
# "none": nobody wants it. "undecided": a collector looks for leases right now, or was killed while it did.
Standing = Literal["none", "undecided", "collected"]

_DECIDED = ".decided.json"
_TOMBSTONE = ".json"
_NAME = re.compile(r"([^.]+)(\.decided)?\.json")
_REMEDY = (
    "Nobody can tell whether garbage collection took, or is to take, what it names; that is neither opened nor taken. "
    "If `headrace handoff verify` finds the version whole, delete this object and the one beside it while no "
    "collection runs."
)


@dataclass(frozen=True, kw_only=True)
class Condemned:
    """What a tombstone is to delete, after a note was made. `clears`: the tombstones too, once it is done."""

    prefix: str
    clears: bool
    manifest_key: str | None = None
    note_key: str | None = None
    note: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Decided:
    decision: Decision
    at: str


CONDEMNED = Kind("Tombstone", Condemned, _REMEDY)
DECIDED = Kind("Decision", Decided, _REMEDY)
NOTE = Kind("Note of what was collected", Mapping[str, Any], "It only says what was there.")


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """One collector's claim on a nonce."""

    nonce: str
    collector: str

    @property
    def key(self) -> str:
        return f"{ROOT}/{self.nonce}/{self.collector}{_TOMBSTONE}"

    @property
    def decision_key(self) -> str:
        return f"{ROOT}/{self.nonce}/{self.collector}{_DECIDED}"

    def create(self, objects: ObjectStore, condemned: Condemned) -> None:
        create_object(objects, self.key, CONDEMNED, condemned)

    def condemned(self, objects: ObjectStore) -> Condemned:
        """What it is to delete.

        Raises:
            ObjectMissing: it was withdrawn, or its collection has ended. HandoffCorrupt: it cannot be read.
        """
        return read_object(objects, self.key, CONDEMNED)

    def decide(self, objects: ObjectStore, decision: Decision, *, at: str) -> Decision:
        """The first one to decide decides; everybody gets that decision back.

        Raises:
            ObjectMissing: somebody else decided, and has cleared it away since. HandoffCorrupt: what was decided
                cannot be read.
        """
        return create_object(objects, self.decision_key, DECIDED, Decided(decision=decision, at=at)).value.decision

    def decision(self, objects: ObjectStore) -> Decision | None:
        """Raises: HandoffCorrupt: what was decided cannot be read."""
        try:
            return read_object(objects, self.decision_key, DECIDED).decision
        except ObjectMissing:
            return None

    def withdraw(self, objects: ObjectStore) -> None:
        """For the collector itself, while it has not decided."""
        objects.delete(self.key)


def tombstones(objects: ObjectStore, nonce: str) -> list[Tombstone]:
    """Of every collector that wanted or wants this nonce, whatever was decided."""
    collectors = {match[1] for match in map(_NAME.fullmatch, objects.children(f"{ROOT}/{nonce}")) if match}
    return [Tombstone(nonce=nonce, collector=collector) for collector in sorted(collectors)]


def tombstone_of(key: str) -> Tombstone | None:
    """The tombstone that a key below ROOT is of; None: it is none of ours."""
    segments = key.split("/")
    match = _NAME.fullmatch(segments[-1])
    return Tombstone(nonce=segments[1], collector=match[1]) if match and len(segments) == 3 else None


def standing(objects: ObjectStore, nonce: str) -> Standing:
    """Where a nonce stands with garbage collection; one listing where nobody ever wanted it.

    Raises:
        HandoffCorrupt: what was decided cannot be read.
    """
    decisions = [tombstone.decision(objects) for tombstone in tombstones(objects, nonce)]
    if "collect" in decisions:
        return "collected"
    return "undecided" if None in decisions else "none"
