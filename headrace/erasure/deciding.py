"""Decides an erasure, by one entry of the chain, and shows beforehand what it would take.

The same command finds its own entry again: one of the same subject that names all that is there now. So a killed or
waiting erasure goes on, and what came after it (an event of the tenant, sealed meanwhile) gets an entry of its own.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, iso
from headrace.erasure.claims import claims_with_batches, under_way
from headrace.erasure.rewriting import num_rows_of
from headrace.erasure.scope import Asked, Scope, find_scope, linked_versions
from headrace.errors import HandoffMissing
from headrace.generation.claim_objects import Claim
from headrace.handoff.erasures import (
    ErasedData,
    Erasure,
    data_of,
    erasure_chain,
    keep_digests,
    links_of,
    store_salt,
)
from headrace.handoff.manifest import Manifest
from headrace.handoff.row_tables import PROMPTS
from headrace.handoff.versions import HandoffStore
from headrace.inbox.erasing import inboxes
from headrace.store.objects import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Affected:
    """A sealed version with rows of what is erased."""

    manifest: Manifest
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class MadeOf:
    """What was made of a removed version and has no rows of it, such as a model: nothing in it can be taken out."""

    asset: str
    partition: str
    version: Annotated[int, Ge(1)]
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an erasure would take now.

    Attributes:
        made_of: versions that were made of affected ones, and have no such rows themselves: models, and what else
            cannot be rewritten.
        under_way: attempts at rows that would end.
        earlier: an entry of the same subject that names all of it: the command goes on with it.
    """

    asked: Asked
    scope: Scope
    affected: tuple[Affected, ...]
    made_of: tuple[MadeOf, ...]
    under_way: tuple[Claim, ...]
    num_claims_with_batches: int
    earlier: Erasure | None = None

    @property
    def runs(self) -> list[str]:
        """Dagster's runs that sealed affected versions, whose records may show their first rows."""
        return sorted({one.manifest.run_id for one in self.affected})

    @property
    def num_rows_by_asset(self) -> Mapping[str, int]:
        """Of all versions."""
        found: Counter[str] = Counter()
        for one in self.affected:
            found[one.manifest.asset] += one.num_rows
        return found


def plan(objects: ObjectStore, clock: Clock, asked: Asked) -> Plan:
    """Writes nothing.

    Raises:
        InvalidInput: the name is of several things, or too short.
        HandoffMissing: nothing in the store has it, and no erasure was of it.
        HandoffCorrupt: something that may hold it is damaged.
    """
    handoffs = HandoffStore(objects, clock)
    versions = linked_versions(handoffs)
    newest = erasure_chain(objects).newest()
    # Without an erasure there is no salt, and a dry run makes none.
    salt = store_salt(objects) if newest else os.urandom(32)
    own = erasures_of(objects, asked)
    try:
        scope = find_scope(handoffs, asked, versions, inboxes(objects))
    except HandoffMissing:
        if not own:
            raise
        scope = Scope()
    digests = frozenset(scope.digests(salt))
    data = ErasedData(salt, digests)
    affected = tuple(found for one in versions if (found := _affected(handoffs, one, data)))
    prompts = {(one.manifest.partition, one.manifest.version) for one in affected if one.manifest.asset == PROMPTS}
    return Plan(
        asked=asked,
        scope=scope,
        affected=affected,
        made_of=made_of(handoffs, {one.manifest.content_digest for one in affected}),
        under_way=tuple(under_way(objects, clock, prompts)),
        num_claims_with_batches=len(list(claims_with_batches(objects, data))),
        earlier=next((one for one in own if digests <= data_of(objects, one.number).digests), None),
    )


def decide(objects: ObjectStore, clock: Clock, plan: Plan, *, by: str, reason: str) -> Erasure:
    """The entry: the earlier one, or a new one. From here on it cannot be taken back."""
    if plan.earlier:
        return plan.earlier
    salt, chain, scope = store_salt(objects), erasure_chain(objects), plan.scope
    fields = {
        "asked": plan.asked.kind,
        "subject": plan.asked.subject(salt),
        "campaigns": sorted(scope.campaigns),
        "by": by,
        "reason": reason,
        "digests": keep_digests(objects, scope.digests(salt)),
        "num_events": len(scope.events),
        "num_prompts": len(scope.prompts),
        "num_rows": len(scope.rows),
        "num_calls": len(scope.calls),
        "num_files": len(scope.batches.files),
        "num_batches": len(scope.batches.batches),
        "num_lines": len(scope.batches.lines),
    }
    while True:
        number = chain.newest() + 1
        made = chain.create(number, fields | {"number": number, "at": iso(clock.now())})
        if made.won:
            return made.value


def erasures(objects: ObjectStore) -> list[Erasure]:
    chain = erasure_chain(objects)
    return [chain.read(number) for number in chain.numbers()]


def erasures_of(objects: ObjectStore, asked: Asked) -> list[Erasure]:
    """Those that were asked for in the same words."""
    found = erasures(objects)
    subject = asked.subject(store_salt(objects)) if found else ""
    return [one for one in found if one.subject == subject]


def made_of(handoffs: HandoffStore, digests: Collection[str]) -> tuple[MadeOf, ...]:
    """Newest versions that were made of one of these contents, or of what was made of it, and whose rows name nothing
    themselves: models and what measures them."""
    newest = [
        found.manifest
        for asset in handoffs.assets()
        for partition in handoffs.partitions(asset)
        if (found := handoffs.newest(asset, partition)) and not links_of(asset, found.schema.names)
    ]
    known, found = set(digests), dict[str, Manifest]()
    while more := [one for one in newest if one.label not in found and known & _inputs(one)]:
        found |= {one.label: one for one in more}
        known |= {one.content_digest for one in more}
    return tuple(
        MadeOf(asset=one.asset, partition=one.partition, version=one.version, run_id=one.run_id)
        for one in found.values()
    )


def _inputs(manifest: Manifest) -> set[str]:
    return {version.rpartition(" ")[2] for version in manifest.input_versions.values()}


def _affected(handoffs: HandoffStore, manifest: Manifest, data: ErasedData) -> Affected | None:
    num_rows = num_rows_of(handoffs, manifest, data)
    return Affected(manifest=manifest, num_rows=num_rows) if num_rows else None
