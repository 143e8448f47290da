"""Tombstones: a collector announces that it wants a nonce's objects, and the claim is decided here.

A reader makes its lease, then looks for tombstones; a collector makes its tombstone, then looks for leases. In any
order at least one of them sees the other. A collector that sees no lease decides `collect` with `create`; from then on
nobody may use the objects, and only then it deletes them.

Each collector has its own tombstone and withdraws no other: another collector may be about to decide. A killed
collector's tombstone is cancelled by deciding `spare` with the same `create`, so a collector that only slept finds
itself overruled. No clock matters here.

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
# "none": no collector wants it. "undecided": a collector is looking for leases, or was killed while it did.
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
    """What a tombstone deletes, after a note was made. `clears`: deletes the tombstones too, at the end."""

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
        """The objects that it deletes.

        Raises:
            ObjectMissing: it was withdrawn, or its collection is over. HandoffCorrupt: it cannot be read.
        """
        return read_object(objects, self.key, CONDEMNED)

    def decide(self, objects: ObjectStore, decision: Decision, *, at: str) -> Decision:
        """The first decision holds; every later caller gets that one back.

        Raises:
            ObjectMissing: another collector decided, and has cleared the decision since. HandoffCorrupt: the decision
                cannot be read.
        """
        return create_object(objects, self.decision_key, DECIDED, Decided(decision=decision, at=at)).value.decision

    def decision(self, objects: ObjectStore) -> Decision | None:
        """Raises: HandoffCorrupt: the decision cannot be read."""
        try:
            return read_object(objects, self.decision_key, DECIDED).decision
        except ObjectMissing:
            return None

    def withdraw(self, objects: ObjectStore) -> None:
        """For its own collector, before it has decided."""
        objects.delete(self.key)


def tombstones(objects: ObjectStore, nonce: str) -> list[Tombstone]:
    """The tombstones of every collector for this nonce, decided or not."""
    collectors = {match[1] for match in map(_NAME.fullmatch, objects.children(f"{ROOT}/{nonce}")) if match}
    return [Tombstone(nonce=nonce, collector=collector) for collector in sorted(collectors)]


def tombstone_of(key: str) -> Tombstone | None:
    """The tombstone that a key below ROOT belongs to; None: the key is not ours."""
    segments = key.split("/")
    match = _NAME.fullmatch(segments[-1])
    return Tombstone(nonce=segments[1], collector=match[1]) if match and len(segments) == 3 else None


def standing(objects: ObjectStore, nonce: str) -> Standing:
    """What garbage collection has decided on a nonce; one listing if no collector ever wanted it.

    Raises:
        HandoffCorrupt: the decision cannot be read.
    """
    decisions = [tombstone.decision(objects) for tombstone in tombstones(objects, nonce)]
    if "collect" in decisions:
        return "collected"
    return "undecided" if None in decisions else "none"
