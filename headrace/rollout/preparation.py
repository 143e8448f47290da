"""Who is ready for a set before it gets a unit: each node's record that it fetched, verified, loaded and tried it.

A record is made by the node itself, once a proposal and node: `rollout/<name>/prepared/<proposal>/<node>.json`, where
the proposal is the journal entry that named the set; a set that is proposed again is prepared again. The controller
starts a set when enough nodes have good records, and withdraws it at the first bad one: one member that is missing or
damaged, and nothing changes.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from headrace.clock import Clock
from headrace.errors import HeadraceError, ObjectMissing
from headrace.rollout.version_sets import VersionSet
from headrace.store.objects import ObjectStore, canonical_json

# Fetches, verifies, loads and tries every member of a set; raises HeadraceError if one of them fails.
Prepare = Callable[[VersionSet], None]


@dataclass(frozen=True, kw_only=True)
class PreparationRecord:
    """One node's word on one set. `members`: the roles that were loaded and tried; `error`: why it is not `ok`."""

    node: str
    ok: bool
    error: str | None = None
    seconds: float
    members: tuple[str, ...] = ()
    at: float


def write_preparation(store: ObjectStore, name: str, proposal: int, record: PreparationRecord) -> None:
    """Keep a record; a node that prepared the set before has said so already, and is not asked again."""
    node = record.node.replace("/", "_").lstrip(".") or "node"
    store.create(f"{_prefix(name, proposal)}/{node}.json", canonical_json(asdict(record)))


def preparations(store: ObjectStore, name: str, proposal: int) -> list[PreparationRecord]:
    """All nodes' records on a proposal (`RolloutState.proposal`), by node."""
    found = []
    for file in store.children(_prefix(name, proposal)):
        try:
            body = json.loads(store.read(f"{_prefix(name, proposal)}/{file}"))
        except ObjectMissing:
            continue
        found.append(PreparationRecord(**body | {"members": tuple(body["members"])}))
    return found


def prepare_here(
    store: ObjectStore,
    name: str,
    proposal: int,
    version_set: VersionSet,
    prepare: Prepare,
    *,
    node: str,
    clock: Clock,
) -> PreparationRecord:
    """Prepare a set on this node and keep the record, good or bad."""
    started, error = clock.now(), None
    try:
        prepare(version_set)
    except HeadraceError as failure:
        error = str(failure)
    record = PreparationRecord(
        node=node,
        ok=error is None,
        error=error,
        seconds=clock.now() - started,
        members=tuple(member.role for member in version_set.members) if error is None else (),
        at=clock.now(),
    )
    write_preparation(store, name, proposal, record)
    return record


def _prefix(name: str, proposal: int) -> str:
    return f"rollout/{name}/prepared/{proposal:08d}"
