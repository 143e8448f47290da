"""What an erasure has done, from what it left: notes of deleted versions, and what names them. And the proof of it.

Everything is read from the store, so a killed and resumed erasure tells the same as one that was not.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, iso
from headrace.erasure.carrying_out import measured_with
from headrace.erasure.claims import claims_with_batches
from headrace.erasure.deciding import MadeOf, made_of
from headrace.erasure.rewriting import num_rows_of, removed_notes
from headrace.erasure.scope import linked_versions
from headrace.erasure.window_counts import is_miscounted
from headrace.errors import ObjectMissing
from headrace.handoff.erasures import ROOT, Erasure, data_of, scope_of
from headrace.handoff.layout import parts_prefix
from headrace.handoff.survey import survey
from headrace.handoff.versions import HandoffStore
from headrace.inbox.batches.erasing import remaining_batches
from headrace.inbox.erasing import waiting_logs
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, PassedOver, create_object, read_object
from headrace.voice.erasing import remaining_calls


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A version that is gone; its digest is the proof of what it held."""

    asset: str
    partition: str
    version: Annotated[int, Ge(1)]
    content_digest: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An erasure is over: nothing of what it names was in the store then."""

    number: Annotated[int, Ge(1)]
    at: str
    removed: tuple[Removed, ...]
    made_of: tuple[MadeOf, ...]


OUTCOME = Kind(
    "Outcome of an erasure",
    Outcome,
    "Delete it, and run `headrace erase` once more with the same words: it is made again.",
)


def outcome_key(number: int) -> str:
    return f"{ROOT}/done/{number:08d}.json"


def outcome_of(objects: ObjectStore, number: int) -> Outcome | None:
    """None: the erasure is not over."""
    try:
        return read_object(objects, outcome_key(number), OUTCOME)
    except ObjectMissing:
        return None


def finish(objects: ObjectStore, clock: Clock, erasure: Erasure) -> Outcome:
    """For an erasure that has nothing left to do."""
    handoffs = HandoffStore(objects, clock, leased=False)
    removed = sorted(removed_notes(objects, erasure.number), key=lambda one: (one.asset, one.partition, one.version))
    outcome = Outcome(
        number=erasure.number,
        at=iso(clock.now()),
        removed=tuple(
            Removed(
                asset=one.asset,
                partition=one.partition,
                version=one.version,
                content_digest=one.content_digest,
                run_id=one.run_id,
            )
            for one in removed
        ),
        made_of=made_of(handoffs, {one.content_digest for one in removed}),
    )
    return create_object(objects, outcome_key(erasure.number), OUTCOME, outcome).value


def remains(objects: ObjectStore, clock: Clock, erasure: Erasure) -> list[str]:
    """Where something of an erasure still is, a phrase each; empty: nowhere in the store, nor in a log.

    Reads by which events, prompts and rows every version's and batch's rows are named, and lists what deleted versions
    had.
    """
    data, found = data_of(objects, erasure.number), list[str]()
    handoffs = HandoffStore(objects, clock, leased=False)
    versions = linked_versions(handoffs)
    for manifest in versions:
        if num_rows := num_rows_of(handoffs, manifest, data):
            found.append(f"{manifest.label} has {num_rows} rows of it")
        if is_miscounted(handoffs, manifest):
            found.append(f"window {manifest.partition} counts events of tenants of whom it has none")
    found += [f"batches of claim {claim[:12]} have rows of it" for claim in claims_with_batches(objects, data)]
    for note in removed_notes(objects, erasure.number):
        if objects.list(parts_prefix(note.asset, note.partition, note.nonce)):
            found.append(f"{note.asset}[{note.partition}] v{note.version} still has files")
    found += [f"{one.label} may have samples of it" for one in measured_with(handoffs, erasure.number)]
    assets = {one.asset for one in versions}
    for parts in survey(objects, clock, damaged=PassedOver()).snapshot.unnamed:
        if parts.asset in assets and set(scope_of(parts.asset, parts.partition)) <= set(erasure.campaigns):
            found.append(f"{parts.label} belong to no version, and may have rows of it")
    if erasure.num_calls:
        found += remaining_calls(objects, data)
    if erasure.num_files or erasure.num_batches or erasure.num_lines:
        found += remaining_batches(objects, data)
    found += [
        f"the log {log[:8]}… of {whose} has not carried it out" for log, whose in waiting_logs(objects, erasure).items()
    ]
    return found
