"""Publishes a claim's committed rows: at most one version for each claim, and nothing of a void claim.

The claim is settled first; then pictures and recordings are published, then the execution table, then the content. A
worker killed in between leaves a settled claim; the next process that opens it publishes the same bytes. A worker that
slept meanwhile finds them published.

Readers take a partition's newest version. If a worker slept while newer prompts or a later attempt were sealed, it does
not hide them: its attempt becomes void, or stays sealed but unpublished if it was settled before.

A mirror's rows go to their own assets, from which nobody publishes; the claim decides which assets are used.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain

import pyarrow as pa

from headrace.errors import HandoffCorrupt, HeadraceError, IllegalTransition, RepinRequired
from headrace.generation.campaign import GENERATION_CODE_VERSION
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import Claims
from headrace.generation.committed_media import CommittedMedia
from headrace.generation.sealed_tables import MEDIA_OF, TABLES_OF, UNPUBLISHED
from headrace.generation.steps import Step, media_kinds
from headrace.handoff.media.publishing import media_versions, publish_media
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.version_sets.media_settings import MemberKind

# An attribute of content: the set that led to its texts, where it is not the version set itself.
TEXTS_OF = "texts_of"


class MirrorStopped(IllegalTransition):
    """A mirror's version set was rolled back: nothing is sealed, and the mirror is not tried again."""


class Superseded(IllegalTransition):
    """The partition's newest content has newer prompts, or comes from a later attempt: a retry would not help."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a version, for its manifest: the run that sealed it, and its rows' inputs."""

    run_id: str
    input_versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SealedContent:
    """The tables of a sealed attempt; `media`: the pictures, and the recordings, of a set that makes any."""

    content: Handoff
    execution: Handoff
    media: Mapping[MemberKind, Handoff] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MadeTables:
    """What an attempt made. `media`: of each step that paints or speaks its kind and what it committed."""

    content: pa.Table
    execution: pa.Table
    media: Sequence[tuple[MemberKind, CommittedMedia]] = ()


def seal(
    claim: Claim, claims: Claims, handoffs: HandoffStore, steps: Sequence[Step], made: MadeTables, *, origin: Origin
) -> SealedContent:
    """Settles the claim as sealed and publishes its tables, the content last.

    Raises:
        RepinRequired, MirrorStopped: the claim's version set was rolled back before the settlement, or another worker
            found that it was.
        Superseded: newer prompts or a later attempt are published; the claim becomes void unless it was settled before.
        PublishConflict: another attempt was published just now; seal again.
        HandoffCorrupt: a row has another version set than the claim; nothing was settled.
    """
    content = made.content
    _check_one_set(claim, content)
    settlement = claims.settlement(claim)
    if settlement is None and (reason := claims.abort_of(claim)):
        _keep_unpublished(handoffs, claim, made, origin)
        settlement = claims.settle(claim, "void", reason)
    if settlement is None:
        stop_if_superseded(claim, claims, handoffs, origin)
    settlement = settlement or claims.settle(claim, "sealed", "all micro-batches are committed")
    if settlement.outcome == "void":
        # The process that rolled the set back has ended the attempt (`rolled_back.void_unsealed`).
        _keep_unpublished(handoffs, claim, made, origin)
        claims.drop_batches(claim)
        raise void_error(claim, settlement.reason)
    rows, making = TABLES_OF[claim.kind]
    # Read before the newest version is examined, so that a version published in between is a conflict.
    expected = handoffs.last_number(rows, claim.partition)
    if reason := _superseded(claim, claims, handoffs, origin.input_versions):
        raise _superseded_error(claim, reason)
    media = _publish_media(handoffs, claim, claim.kind, made.media, origin)
    sealed_execution = _publish_once(handoffs, making, claim, made.execution, origin)
    texts = {TEXTS_OF: steps[0].led_to_by} if len(steps) > 1 else {}
    sealed_content = _publish_once(handoffs, rows, claim, content, origin, expected=expected, attributes=texts)
    if sealed_content.reused:
        # Its other parts were repaired. Its inputs may have changed back before: then readers take it again.
        with suppress(HandoffCorrupt):
            shown = _as_newest(claim, claims, handoffs, sealed_content)
            sealed_content = sealed_content if isinstance(shown, str) else shown
    return SealedContent(content=sealed_content, execution=sealed_execution, media=media)


def stop_if_superseded(claim: Claim, claims: Claims, handoffs: HandoffStore, origin: Origin) -> None:
    """Ends an attempt whose rows must not be published any more, before they are made or settled.

    Raises:
        Superseded: the attempt is now void, or was settled before. A mirror stays unchanged: its one attempt serves
            again if its prompts change back.
    """
    if reason := _superseded(claim, claims, handoffs, origin.input_versions):
        if claim.kind == "content":
            claims.settle(claim, "void", reason)
            claims.drop_batches(claim)
        raise _superseded_error(claim, reason)


def inputs_now(handoffs: HandoffStore, input_versions: Mapping[str, str]) -> dict[str, str]:
    """The same inputs under their newest numbers: content that came back is newer than what was in between."""
    renumbered = dict(input_versions)
    for name, stated in input_versions.items():
        asset, _, rest = name.partition("[")
        with suppress(HandoffCorrupt):  # a version that is not read here
            newest = handoffs.newest(asset, rest.removesuffix("]"))
            if newest is not None and newest.content_digest == stated.rpartition(" ")[2]:
                renumbered[name] = f"v{newest.version} {newest.content_digest}"
    return renumbered


def _superseded(claim: Claim, claims: Claims, handoffs: HandoffStore, input_versions: Mapping[str, str]) -> str | None:
    """Why the claim's rows must not become the newest version; None: they may, or are a version already."""
    rows, _ = TABLES_OF[claim.kind]
    own = handoffs.find(rows, claim.partition, claim=claim.id)
    if own is not None and handoffs.is_intact(own):
        return None
    return _newer_than(claim, claims, handoffs, input_versions)


def _newer_than(claim: Claim, claims: Claims, handoffs: HandoffStore, input_versions: Mapping[str, str]) -> str | None:
    rows, _ = TABLES_OF[claim.kind]
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
    rows, _ = TABLES_OF[claim.kind]
    return Superseded(
        f"Attempt {claim.attempt} at {rows}[{claim.partition}] came too late: {reason}. Nothing of it is published, "
        "and the newest version stays. Materialize the partition again if that is not what it should hold."
    )


def _keep_unpublished(handoffs: HandoffStore, claim: Claim, made: MadeTables, origin: Origin) -> None:
    """Publishes now, since nobody returns to a void attempt: rows with all their parts, where no asset reads them."""
    if claim.on_abort == "finish_unpublished" and claim.kind == "content":
        _publish_media(handoffs, claim, "unpublished", made.media, origin)
        _publish_once(handoffs, UNPUBLISHED, claim, made.content, origin)


def find_sealed(claim: Claim, claims: Claims, handoffs: HandoffStore, steps: Sequence[Step]) -> SealedContent | None:
    """The claim's published content, as the partition's newest version; None: there is none, or something is damaged.

    If inputs change back, an old attempt serves again: its rows are then published again, since readers take the newest
    version.

    Raises:
        Superseded: the claim's version is not the newest, and must not become it again.
    """
    rows, making = TABLES_OF[claim.kind]
    content = handoffs.find(rows, claim.partition, claim=claim.id)
    execution = handoffs.find(making, claim.partition, claim=claim.id)
    if content is None or execution is None or not (handoffs.is_intact(content) and handoffs.is_intact(execution)):
        return None
    media = media_of(handoffs, claim.kind, claim.partition, claim.id, steps)
    if media is None:
        return None
    shown = _as_newest(claim, claims, handoffs, content)
    if isinstance(shown, str):
        raise _superseded_error(claim, shown)
    return SealedContent(
        content=replace(shown, reused=True),
        execution=replace(execution, reused=True),
        media={kind: replace(one, reused=True) for kind, one in media.items()},
    )


def _as_newest(claim: Claim, claims: Claims, handoffs: HandoffStore, content: Handoff) -> Handoff | str:
    """The claim's content as its partition's newest version; or why it must not become it.

    Raises:
        PublishConflict: another attempt was published just now.
        HandoffCorrupt: the newest version cannot be read.
    """
    # A mirror is found by its set; it need not be the newest.
    if claim.kind == "mirror":
        return content
    expected = handoffs.last_number(CONTENT, claim.partition)
    newest = handoffs.newest(CONTENT, claim.partition)
    if newest is None or newest.version == content.version:
        return content
    input_versions = inputs_now(handoffs, content.manifest.input_versions)
    if reason := _newer_than(claim, claims, handoffs, input_versions):
        return reason
    return handoffs.publish(
        CONTENT,
        claim.partition,
        content.table(),
        code_version=content.manifest.code_version,
        run_id=content.manifest.run_id,
        input_versions=input_versions,
        attributes=content.attributes,
        expected=expected,
    )


def media_of(
    handoffs: HandoffStore, claim_kind: str, partition: str, claim_id: str, steps: Sequence[Step]
) -> dict[MemberKind, Handoff] | None:
    """A claim's pictures and recordings, by kind; None: one of them, or their record, is missing or damaged."""
    tables, making = MEDIA_OF[claim_kind]
    kinds = media_kinds(steps)
    if kinds and not _is_there(handoffs, making, partition, claim_id):
        return None
    found: dict[MemberKind, Handoff] = {}
    for kind in kinds:
        if (one := _is_there(media_versions(handoffs), tables[kind], partition, claim_id)) is None:
            return None
        found[kind] = one
    return found


def _is_there(handoffs: HandoffStore, asset: str, partition: str, claim_id: str) -> Handoff | None:
    found = handoffs.find(asset, partition, claim=claim_id)
    return found if found is not None and handoffs.is_intact(found) else None


def void_error(claim: Claim, reason: str) -> HeadraceError:
    """The error that ends a worker on a void claim: a content partition gets a next attempt, a mirror does not."""
    if claim.kind == "mirror":
        return MirrorStopped(
            f"The mirror of {CONTENT}[{claim.partition}] on version set {claim.version_set[:12]} is void: {reason}. "
            "Nothing of it is sealed; mirror another set."
        )
    return RepinRequired(
        f"Attempt {claim.attempt} at {CONTENT}[{claim.partition}] is void: {reason}. The next attempt pins another set."
    )


def _check_one_set(claim: Claim, content: pa.Table) -> None:
    found = set(content["version_set"].to_pylist())
    if foreign := sorted(found - {claim.version_set}):
        raise HandoffCorrupt(
            f"Attempt {claim.attempt} at {CONTENT}[{claim.partition}] pinned version set {claim.version_set[:12]}, and "
            f"has rows of {', '.join(one[:12] for one in foreign)}: nothing was sealed. "
            "Set regenerate: current_set to begin a new attempt.",
            partition=claim.partition,
            attempt=claim.attempt,
            version_set=claim.version_set,
        )


def _publish_media(
    handoffs: HandoffStore,
    claim: Claim,
    rows_kind: str,
    made: Sequence[tuple[MemberKind, CommittedMedia]],
    origin: Origin,
) -> dict[MemberKind, Handoff]:
    tables, making = MEDIA_OF[rows_kind]
    sealed: dict[MemberKind, Handoff] = {}
    kinds: dict[MemberKind, None] = {kind: None for kind, _ in made}
    for kind in kinds:
        of_kind = [committed for one, committed in made if one == kind]
        sealed[kind] = publish_media(
            handoffs,
            tables[kind],
            claim.partition,
            chain.from_iterable(committed.items() for committed in of_kind),
            code_version=GENERATION_CODE_VERSION,
            run_id=origin.run_id,
            input_versions=origin.input_versions,
            attributes={"version_set": claim.version_set},
            once={"claim": claim.id},
        )
    if made:
        execution = pa.concat_tables([committed.execution for _, committed in made])
        _publish_once(handoffs, making, claim, execution, origin)
    return sealed


def _publish_once(
    handoffs: HandoffStore,
    asset: str,
    claim: Claim,
    table: pa.Table,
    origin: Origin,
    *,
    expected: int | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Handoff:
    # Once: a late second publication of a claim finds the first one, and does not hide a newer attempt's version.
    return handoffs.publish(
        asset,
        claim.partition,
        table,
        code_version=GENERATION_CODE_VERSION,
        run_id=origin.run_id,
        input_versions=origin.input_versions,
        attributes={"version_set": claim.version_set, **(attributes or {})},
        once={"claim": claim.id},
        expected=expected,
    )
