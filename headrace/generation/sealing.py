"""Publishes what a claim's commits hold: at most one version a claim, and nothing of a claim that is void.

Order: the claim is settled, then the execution table is published, then the content. A worker killed in between leaves
a settled claim; whoever opens it next publishes the same bytes. A worker that slept meanwhile finds them published.

Readers take a partition's newest version. A worker that slept while newer prompts, or a later attempt, were sealed
does not hide them: its attempt is void, or stays sealed and unpublished where it was settled before.

A mirror's rows go to assets of their own, which nobody publishes from: what is sealed where is the claim's word.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from headrace.errors import HandoffCorrupt, HandoffMissing, HeadraceError, IllegalTransition, RepinRequired
from headrace.generation.campaign import GENERATION_CODE_VERSION
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims
from headrace.handoff.versions import Handoff, HandoffStore

CONTENT = "generated_content"
EXECUTION = "execution"
# Rows of a set that was rolled back, kept where the plan says `on_abort: finish_unpublished`. No asset reads them.
UNPUBLISHED = "unpublished_content"
# Rows of mirrors, and how they were made.
MIRRORED = "mirrored_content"
MIRROR_EXECUTION = "mirror_execution"

# Asset of the rows and asset of their making, by the claim's kind.
_ASSETS = {"content": (CONTENT, EXECUTION), "mirror": (MIRRORED, MIRROR_EXECUTION)}


class MirrorStopped(IllegalTransition):
    """The version set of a mirror was rolled back: nothing of it is sealed, and it is not tried again."""


class Superseded(IllegalTransition):
    """The partition's newest content is of newer prompts, or of a later attempt: a retry would find the same."""


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
        RepinRequired, MirrorStopped: the claim's version set was rolled back before the claim was settled, or another
            worker found so.
        Superseded: what is published is of newer prompts or of a later attempt; the claim is void if it was not
            settled before.
        PublishConflict: another attempt was published in this moment; seal again.
        HandoffCorrupt: a row is of another version set than the claim's; nothing was settled.
    """
    _check_one_set(claim, content)
    settlement = claims.settlement(claim)
    if settlement is None and (reason := claims.abort_of(claim)):
        _keep_unpublished(handoffs, claim, content, origin)
        settlement = claims.settle(claim, "void", reason)
    if settlement is None:
        stop_if_superseded(claim, claims, handoffs, origin)
    settlement = settlement or claims.settle(claim, "sealed", "all micro-batches are committed")
    if settlement.outcome == "void":
        # Whoever rolled the set back has ended the attempt (`rolled_back.void_unsealed`).
        _keep_unpublished(handoffs, claim, content, origin)
        claims.drop_batches(claim)
        raise void_error(claim, settlement.reason)
    rows, making = _ASSETS[claim.kind]
    # The number before the look at what is published under it: a version that comes between the two is a conflict.
    expected = handoffs.last_number(rows, claim.partition)
    if reason := _superseded(claim, claims, handoffs, origin.input_versions):
        raise _superseded_error(claim, reason)
    sealed_execution = _publish_once(handoffs, making, claim, execution, origin)
    sealed_content = _publish_once(handoffs, rows, claim, content, origin, expected=expected)
    return SealedContent(content=sealed_content, execution=sealed_execution)


def stop_if_superseded(claim: Claim, claims: Claims, handoffs: HandoffStore, origin: Origin) -> None:
    """Ends an attempt whose rows nobody may see any more, before they are made, or before they are settled.

    Raises:
        Superseded: the attempt is void now, or was settled before. A mirror stays as it is: it has one attempt, which
            serves again if its prompts go back to what they were.
    """
    if reason := _superseded(claim, claims, handoffs, origin.input_versions):
        if claim.kind == "content":
            claims.settle(claim, "void", reason)
            claims.drop_batches(claim)
        raise _superseded_error(claim, reason)


def inputs_now(handoffs: HandoffStore, input_versions: Mapping[str, str]) -> dict[str, str]:
    """The same inputs under their newest numbers: what went back to what it was is newer than what was in between."""
    renumbered = dict(input_versions)
    for name, stated in input_versions.items():
        asset, _, rest = name.partition("[")
        with suppress(HandoffCorrupt):  # of a version that is not read here
            newest = handoffs.newest(asset, rest.removesuffix("]"))
            if newest is not None and newest.content_digest == stated.rpartition(" ")[2]:
                renumbered[name] = f"v{newest.version} {newest.content_digest}"
    return renumbered


def _superseded(claim: Claim, claims: Claims, handoffs: HandoffStore, input_versions: Mapping[str, str]) -> str | None:
    """Why the claim's rows must not become the newest version; None: they may, or they are a version already."""
    rows, _ = _ASSETS[claim.kind]
    own = handoffs.find(rows, claim.partition, claim=claim.id)
    if own is not None and handoffs.is_intact(own):
        return None
    return _newer_than(claim, claims, handoffs, input_versions)


def _newer_than(claim: Claim, claims: Claims, handoffs: HandoffStore, input_versions: Mapping[str, str]) -> str | None:
    rows, _ = _ASSETS[claim.kind]
    if newer := handoffs.newer_inputs(rows, claim.partition, input_versions):
        return newer
    if claim.kind == "mirror":
        return None
    try:
        newest = handoffs.newest(rows, claim.partition)
    except HandoffCorrupt:
        return None  # the next version repairs the partition
    shown = newest.attributes.get("claim") if newest else None
    later = claims.attempt_named(claim, shown) if shown else 0
    return f"attempt {later} at the same prompts is published" if later > claim.attempt else None


def _superseded_error(claim: Claim, reason: str) -> Superseded:
    rows, _ = _ASSETS[claim.kind]
    return Superseded(
        f"Attempt {claim.attempt} at {rows}[{claim.partition}] came too late: {reason}. Nothing of it is published, "
        "and the newest version stays. Materialize the partition again if that is not what it should hold."
    )


def _keep_unpublished(handoffs: HandoffStore, claim: Claim, content: pa.Table, origin: Origin) -> None:
    """Now or never: nobody comes back to an attempt that is void."""
    if claim.on_abort == "finish_unpublished" and claim.kind == "content":
        _publish_once(handoffs, UNPUBLISHED, claim, content, origin)


def find_sealed(claim: Claim, claims: Claims, handoffs: HandoffStore) -> SealedContent | None:
    """What the claim published, as the partition's newest version; None: nothing yet, or it was damaged since.

    When inputs go back to what they were, an old attempt serves again: its rows are then published once more, since
    readers take the newest version.

    Raises:
        Superseded: the claim's version is not the newest, and is not to become it again.
    """
    rows, making = _ASSETS[claim.kind]
    content = handoffs.find(rows, claim.partition, claim=claim.id)
    execution = handoffs.find(making, claim.partition, claim=claim.id)
    if content is None or execution is None or not (handoffs.is_intact(content) and handoffs.is_intact(execution)):
        return None
    # A mirror is looked up by its set; it needs not be the newest one.
    expected = handoffs.last_number(CONTENT, claim.partition)
    newest = handoffs.newest(CONTENT, claim.partition) if claim.kind == "content" else None
    if newest is not None and newest.version != content.version:
        input_versions = inputs_now(handoffs, content.manifest.input_versions)
        if reason := _newer_than(claim, claims, handoffs, input_versions):
            raise _superseded_error(claim, reason)
        content = handoffs.publish(
            CONTENT,
            claim.partition,
            content.table(),
            code_version=content.manifest.code_version,
            run_id=content.manifest.run_id,
            input_versions=input_versions,
            attributes=content.attributes,
            expected=expected,
        )
    return SealedContent(content=replace(content, reused=True), execution=replace(execution, reused=True))


def void_error(claim: Claim, reason: str) -> HeadraceError:
    """What a worker on a void claim ends with: a content partition has a next attempt, a mirror has none."""
    if claim.kind == "mirror":
        return MirrorStopped(
            f"The mirror of {CONTENT}[{claim.partition}] on version set {claim.version_set[:12]} is void: {reason}. "
            "Nothing of it is sealed; mirror another set."
        )
    return RepinRequired(
        f"Attempt {claim.attempt} at {CONTENT}[{claim.partition}] is void: {reason}. The next attempt pins another set."
    )


def version_read(made: Handoff, asset: str) -> int:
    """The version of `asset`, in the same partition, that a sealed version was made from.

    Raises:
        HandoffMissing: its manifest does not say.
    """
    stated = made.manifest.input_versions.get(f"{asset}[{made.partition}]", "")
    if not (match := re.match(r"v(\d+)", stated)):
        raise HandoffMissing(f"{made.manifest.label} does not say which version of its {asset} it was made from.")
    return int(match[1])


def _check_one_set(claim: Claim, content: pa.Table) -> None:
    found = set(content["version_set"].to_pylist())
    if foreign := sorted(found - {claim.version_set}):
        raise HandoffCorrupt(
            f"Attempt {claim.attempt} at {CONTENT}[{claim.partition}] pinned version set {claim.version_set[:12]}, and "
            f"has rows of {', '.join(one[:12] for one in foreign)}: nothing was sealed. "
            "Set regenerate: current_set to begin a new attempt."
        )


def _publish_once(
    handoffs: HandoffStore, asset: str, claim: Claim, table: pa.Table, origin: Origin, *, expected: int | None = None
) -> Handoff:
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
        expected=expected,
    )
