"""Publishes what a claim's commits hold: at most one version a claim, and nothing of a claim that is void.

Order: the claim is settled, then the execution table is published, then the content. A worker killed in between leaves
a settled claim; whoever opens it next publishes the same bytes. A worker that slept meanwhile finds them published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from headrace.errors import RepinRequired
from headrace.generation.campaign import GENERATION_CODE_VERSION
from headrace.generation.claims import Claim, Claims
from headrace.handoff.versions import Handoff, HandoffStore

CONTENT = "generated_content"
EXECUTION = "execution"
# Rows of a set that was rolled back, kept where the plan says `on_abort: finish_unpublished`. No asset reads them.
UNPUBLISHED = "unpublished_content"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a manifest says of a version's making: the run that sealed it, and what its rows were made from."""

    run_id: str
    input_versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SealedContent:
    """Both tables of a sealed attempt."""

    content: Handoff
    execution: Handoff


def seal(
    claim: Claim, claims: Claims, handoffs: HandoffStore, *, content: pa.Table, execution: pa.Table, origin: Origin
) -> SealedContent:
    """Settle the claim as sealed and publish both tables.

    Raises:
        RepinRequired: the claim's version set was rolled back before the claim was settled, or another worker found so.
    """
    settlement = claims.settlement(claim)
    if settlement is None and (reason := claims.abort_of(claim)):
        if claim.on_abort == "finish_unpublished":
            # Before the settlement: after it nobody comes back to this attempt.
            _publish_once(handoffs, UNPUBLISHED, claim, content, origin)
        settlement = claims.settle(claim, "void", reason)
    settlement = settlement or claims.settle(claim, "sealed", "all micro-batches are committed")
    if settlement.outcome == "void":
        raise repin_required(claim, settlement.reason)
    sealed_execution = _publish_once(handoffs, EXECUTION, claim, execution, origin)
    return SealedContent(content=_publish_once(handoffs, CONTENT, claim, content, origin), execution=sealed_execution)


def find_sealed(claim: Claim, handoffs: HandoffStore) -> SealedContent | None:
    """What the claim published, as the partition's newest version; None: nothing yet, or it was damaged since.

    When inputs go back to what they were, an old attempt serves again: its rows are then published once more, since
    readers take the newest version.
    """
    content = handoffs.find(CONTENT, claim.partition, claim=claim.id)
    execution = handoffs.find(EXECUTION, claim.partition, claim=claim.id)
    if content is None or execution is None or not (handoffs.is_intact(content) and handoffs.is_intact(execution)):
        return None
    newest = handoffs.newest(CONTENT, claim.partition)
    if newest is not None and newest.version != content.version:
        content = handoffs.publish(
            CONTENT,
            claim.partition,
            content.table(),
            code_version=content.manifest.code_version,
            run_id=content.manifest.run_id,
            input_versions=content.manifest.input_versions,
            attributes=content.attributes,
        )
    return SealedContent(content=replace(content, reused=True), execution=replace(execution, reused=True))


def repin_required(claim: Claim, reason: str) -> RepinRequired:
    return RepinRequired(
        f"Attempt {claim.attempt} at {CONTENT}[{claim.partition}] is void: {reason}. The next attempt pins another set."
    )


def _publish_once(handoffs: HandoffStore, asset: str, claim: Claim, table: pa.Table, origin: Origin) -> Handoff:
    # Once: a claim's second publication, however late, finds the first instead of hiding a newer attempt's version.
    return handoffs.publish(
        asset,
        claim.partition,
        table,
        code_version=GENERATION_CODE_VERSION,
        run_id=origin.run_id,
        input_versions=origin.input_versions,
        attributes={"version_set": claim.version_set},
        once={"claim": claim.id},
    )
