"""What an erasure does to attempts at rows: those under way end, and what is sealed goes on under the prompts left.

An attempt on erased prompts is settled as void, so its worker, which looks before each batch, publishes nothing and
takes its batches along. Committed batches with rows of what was erased are deleted with all others of their claim: what
is sealed does not need them, and what is not sealed never will be.

A sealed partition would be made again, row by row, since its prompts are others now. So the rows that are left get a
claim on the prompts that are left: the first attempt there, settled as sealed. It is found by its inputs alone, so a
killed erasure finds it again.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace

import pyarrow as pa

from headrace.clock import Clock, iso
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.generation.claim_objects import (
    BATCHES,
    CLAIM,
    ROOT,
    Claim,
    attempt_id,
    batches_prefix,
    claim_chain,
    inputs_digest,
    is_claim,
    mirror_digest,
)
from headrace.generation.claims import Claims
from headrace.handoff.erasures import ErasedData, erased_contents
from headrace.handoff.manifest import Manifest
from headrace.handoff.row_tables import PROMPTS
from headrace.keys import partition_path
from headrace.rollout.journal import Journal
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import read_object


def claims_of(objects: ObjectStore, partition: str) -> list[Claim]:
    """All attempts at a partition and its mirrors; nobody can go on with one that cannot be read."""
    found = []
    for key in objects.list(f"{ROOT}/{partition_path(partition)}"):
        if is_claim(key):
            try:
                found.append(read_object(objects, key, CLAIM))
            except (ObjectMissing, HandoffCorrupt):
                continue
    return found


def under_way(objects: ObjectStore, clock: Clock, prompts: Collection[tuple[str, int]]) -> list[Claim]:
    """Attempts that are not settled, on these versions of prompts, each a partition and a number."""
    return [
        claim
        for partition in sorted({partition for partition, _ in prompts})
        for claim in claims_of(objects, partition)
        if (partition, claim.inputs.get(PROMPTS)) in prompts
        and _claims(objects, claim, clock).settlement(claim) is None
    ]


def end_under_way(objects: ObjectStore, clock: Clock, prompts: Collection[tuple[str, int]], number: int) -> None:
    for claim in under_way(objects, clock, prompts):
        claims = _claims(objects, claim, clock)
        if claims.settle(claim, "void", f"erasure {number} erased some of its prompts").outcome == "void":
            claims.drop_batches(claim)


def drop_batches(objects: ObjectStore, data: ErasedData) -> int:
    """Deletes the batches of each claim that has rows of what was erased. Returns of how many claims."""
    dropped = list(claims_with_batches(objects, data))
    for claim in dropped:
        while objects.list(batches_prefix(claim)):
            objects.delete_prefix(batches_prefix(claim))
    return len(dropped)


def claims_with_batches(objects: ObjectStore, data: ErasedData) -> Iterator[str]:
    """Ids of claims with committed rows of what was erased; a batch that cannot be read counts as having one."""
    for claim in objects.children(BATCHES):
        if any(_has_rows(objects, key, data) for key in objects.list(batches_prefix(claim))):
            yield claim


def _has_rows(objects: ObjectStore, key: str, data: ErasedData) -> bool:
    try:
        # What follows the stream, its digest, is ignored by Arrow's reader.
        table = pa.ipc.open_stream(pa.py_buffer(objects.read(key))).read_all()
    except ObjectMissing:
        return False
    except pa.ArrowException:
        return True
    return bool(data.rows_in("", "", table))


def carry_over(objects: ObjectStore, clock: Clock, left: Manifest, number: int) -> dict[tuple[str, str], str]:
    """Claims on the prompts that are left, one for each that is sealed on the prompts that they replaced.

    Returns: partition and claim → the claim in its place.
    """
    partition = left.partition
    before = replace(left, content_digest=erased_contents(left)[-1])
    last: dict[str, Claim] = {}
    for claim in sorted(claims_of(objects, partition), key=lambda one: one.attempt):
        settlement = _claims(objects, claim, clock).settlement(claim)
        if _digest(before, claim) == claim.inputs_digest and settlement and settlement.outcome == "sealed":
            last[claim.inputs_digest] = claim
    found: dict[tuple[str, str], str] = {}
    for claim in last.values():
        digest = _digest(left, claim)
        kept = replace(
            claim,
            id=attempt_id(claim.kind, partition, digest, 1),
            inputs={PROMPTS: left.version},
            inputs_digest=digest,
            attempt=1,
            reason=f"what erasure {number} left of claim {claim.id[:12]}",
            created_at=iso(clock.now()),
        )
        made = claim_chain(objects, partition, digest, claim.kind).create(1, kept).value
        if made.reason != kept.reason:
            continue  # a run was faster, and makes the rows anew
        _claims(objects, made, clock).settle(made, "sealed", made.reason)
        found[partition, claim.id] = made.id
    return found


def _digest(prompts: Manifest, claim: Claim) -> str:
    """That of the claim's inputs, if they are these prompts."""
    return mirror_digest(prompts, claim.version_set) if claim.kind == "mirror" else inputs_digest(prompts)


def _claims(objects: ObjectStore, claim: Claim, clock: Clock) -> Claims:
    return Claims(objects=objects, journal=Journal(objects, claim.campaign, clock), clock=clock)
