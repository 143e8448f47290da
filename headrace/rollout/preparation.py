"""Records which nodes are ready for a set before it gets units: each fetched, verified, loaded and tried it.

A node makes one record for each proposal: `rollout/<name>/prepared/<proposal>/<node>.json`. The proposal is the journal
entry that named the set, so a set that is proposed again is prepared again. The controller starts a set when enough
nodes have good records, and withdraws it at the first bad one: if a member is missing or damaged, nothing changes.

Any exception of preparing is an outcome, and so is a hang: a chat template that refuses a system turn, a library's
error or a load that never ends is a recorded refusal with its reason, like a damaged file.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, ObjectMissing, reason_of
from headrace.rollout.layout import rollout_prefix
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.version_sets.sets import VersionSet

# Fetches, verifies, loads and tries every member of a set; raises if one of them fails.
Prepare = Callable[[VersionSet], object]


@dataclass(frozen=True, kw_only=True)
class PreparationRecord:
    """One node's record on one set. `members`: the loaded and tried roles; `error`: why it is not `ok`."""

    node: str
    ok: bool
    error: str | None = None
    seconds: float
    members: tuple[str, ...] = ()
    at: float


RECORD = Kind(
    "Preparation record",
    PreparationRecord,
    "The set is withdrawn and nothing else changes: propose it again, its nodes then prepare it anew.",
)


def write_preparation(store: ObjectStore, name: str, proposal: int, record: PreparationRecord) -> None:
    """Keeps a record, unless this node has one for the proposal already."""
    node = record.node.replace("/", "_").lstrip(".") or "node"
    with suppress(HandoffCorrupt):  # its earlier record is damaged: `preparations` reports it
        create_object(store, record_key(name, proposal, node), RECORD, record)


def preparations(store: ObjectStore, name: str, proposal: int) -> list[PreparationRecord]:
    """All nodes' records on a proposal (`RolloutState.proposal`), by node. A damaged one counts as bad, since its node
    cannot write another."""
    found = []
    for file in store.children(rollout_prefix(name, "prepared", proposal)):
        if file.startswith(".") or not file.endswith(".json"):
            continue
        node = file.removesuffix(".json")
        try:
            found.append(read_object(store, record_key(name, proposal, node), RECORD))
        except ObjectMissing:
            continue
        except HandoffCorrupt as error:
            found.append(PreparationRecord(node=node, ok=False, error=str(error), seconds=0.0, at=0.0))
    return found


def prepare_here(
    store: ObjectStore,
    name: str,
    proposal: int,
    prepare: Callable[[], VersionSet],
    *,
    node: str,
    clock: Clock,
    seconds_max: float,
) -> PreparationRecord:
    """Prepares a set on this node and keeps the record, good or bad.

    Args:
        prepare: finds the set and makes it ready.
        seconds_max: after this time it counts as failed.
    """
    started, prepared = clock.now(), list[VersionSet]()
    error = failure_of(lambda: prepared.append(prepare()), seconds_max=seconds_max)
    record = PreparationRecord(
        node=node,
        ok=error is None,
        error=error,
        seconds=clock.now() - started,
        members=() if error else tuple(member.role for member in prepared[0].members),
        at=clock.now(),
    )
    write_preparation(store, name, proposal, record)
    return record


def failure_of(work: Callable[[], object], *, seconds_max: float) -> str | None:
    """Why the work failed, in a line; None: it succeeded. Runs it in its own thread, since it may hang.

    Raises: only exceptions that end a process: KeyboardInterrupt, SystemExit.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (the caller gets it)
            raised.append(error)

    thread = threading.Thread(target=run, name="prepare", daemon=True)
    thread.start()
    thread.join(seconds_max)
    if thread.is_alive():
        return f"It did not end within {seconds_max:g} s."
    if not raised:
        return None
    if not isinstance(raised[0], Exception):
        raise raised[0]
    return reason_of(raised[0])


def record_key(name: str, proposal: int, node: str) -> str:
    return f"{rollout_prefix(name, 'prepared', proposal)}/{node}.json"
