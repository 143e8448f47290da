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

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import ObjectMissing
from headrace.store.objects import ObjectStore, canonical_json, create_json

ROOT = "condemned"

Decision = Literal["collect", "spare"]
# "none": nobody wants it. "undecided": a collector looks for leases right now, or was killed while it did.
Standing = Literal["none", "undecided", "collected"]

_DECIDED = ".decided.json"
_TOMBSTONE = ".json"


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """One collector's claim on a nonce. `body` is what it said it would delete."""

    nonce: str
    collector: str

    @property
    def key(self) -> str:
        return f"{ROOT}/{self.nonce}/{self.collector}{_TOMBSTONE}"

    @property
    def decision_key(self) -> str:
        return f"{ROOT}/{self.nonce}/{self.collector}{_DECIDED}"

    def create(self, objects: ObjectStore, body: Mapping[str, Any]) -> None:
        objects.create(self.key, canonical_json(dict(body)))

    def body(self, objects: ObjectStore) -> dict[str, Any]:
        """Raises: ObjectMissing: it was withdrawn, or its collection has ended."""
        return json.loads(objects.read(self.key))

    def decide(self, objects: ObjectStore, decision: Decision, *, at: str) -> Decision:
        """The first one to decide decides; everybody gets that decision back.

        Raises:
            ObjectMissing: somebody else decided, and has cleared it away since.
        """
        return create_json(objects, self.decision_key, {"decision": decision, "at": at}).body["decision"]

    def decision(self, objects: ObjectStore) -> Decision | None:
        try:
            return json.loads(objects.read(self.decision_key))["decision"]
        except ObjectMissing:
            return None

    def withdraw(self, objects: ObjectStore) -> None:
        """For the collector itself, while it has not decided."""
        objects.delete(self.key)


def tombstones(objects: ObjectStore, nonce: str) -> list[Tombstone]:
    """Of every collector that wanted or wants this nonce, whatever was decided."""
    names = objects.children(f"{ROOT}/{nonce}")
    collectors = {name.removesuffix(_DECIDED).removesuffix(_TOMBSTONE) for name in names}
    return [Tombstone(nonce=nonce, collector=collector) for collector in sorted(collectors)]


def standing(objects: ObjectStore, nonce: str) -> Standing:
    """Where a nonce stands with garbage collection; one listing where nobody ever wanted it."""
    decisions = [tombstone.decision(objects) for tombstone in tombstones(objects, nonce)]
    if "collect" in decisions:
        return "collected"
    return "undecided" if None in decisions else "none"
