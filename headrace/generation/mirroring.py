"""Mirrored bulk: makes past partitions again on another version set, without publishing, and compares row by row.

A mirror uses the machinery of content (claim, micro-batches, commits), so it resumes after a crash and is sealed once.
Its claim has its own keys and says that it is a mirror: its rows are sealed as `mirrored_content`, from which nobody
publishes, never as `generated_content`. `mirror_comparison` is sealed beside them: a row for each published one, with
both outputs judged by the campaign's present review rules. A rolled-back set has no mirrors: a running one stops,
unsealed.

Mirrors give evidence before any reader sees a row. They cost a candidate's compute for each row. They do not count
against a cap, which limits what is published.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.generation.bulk import Outcome, Progress, Worker, generate_partition
from headrace.generation.campaign import GENERATION_CODE_VERSION, Campaign
from headrace.generation.campaign_windows import partitions_of_days
from headrace.generation.claim_objects import RUN_PIN, RunPin, mirror_digest, run_pin_key
from headrace.generation.claims import Claims
from headrace.generation.review_content import RowParts, parts_of, references_of, rules_digest, verdicts_of
from headrace.generation.sealed_tables import MIRRORED, version_read
from headrace.generation.sealing import MirrorStopped, void_error
from headrace.generation.step_work import OpenMedia, OpenRows
from headrace.handoff.layout import asset_prefix
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.schemas import VARIATION, schema_named
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition, partition_from_path
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState, fold
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, create_object, read_object
from headrace.version_sets.sets import VersionSets

if TYPE_CHECKING:
    from headrace.generation.media_review.references import References

COMPARISON = "mirror_comparison"

__all__ = ["COMPARISON", "MIRRORED", "Mirror", "MirrorStopped", "mirror_partition"]

# Rows compared at once.
_SLICE_ROWS = 2048
# Standard normal: two-sided, 95%.
_Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A sealed mirror and its comparison with what was published."""

    outcome: Outcome
    published: Handoff
    comparison: Handoff
    num_same_output: int
    num_only_published_kept: int
    num_only_mirrored_kept: int
    # Kept (1) or not (0) on the mirrored set, minus the same on the published one, over pairs of rows, so that a
    # prompt's difficulty cancels out; a prompt's variations are one value, their mean.
    differences: Sample

    @property
    def content(self) -> Handoff:
        return self.outcome.content

    def figures(self) -> dict[str, int | float | str | bool]:
        """A run's figures, by name and unit."""
        low, high = kept_difference_interval(self.differences)
        return self.outcome.figures() | {
            "published_version": self.published.version,
            "published_set": self.published.attributes.get("version_set", ""),
            "comparison_version": self.comparison.version,
            "num_rows_compared": self.comparison.num_rows,
            "num_same_output": self.num_same_output,
            "num_only_stable_kept": self.num_only_published_kept,
            "num_only_candidate_kept": self.num_only_mirrored_kept,
            "kept_difference": self.differences.mean,
            "kept_difference_low": low,
            "kept_difference_high": high,
        }


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A mirror to make. `published`: the digest of the content to compare it with."""

    partition: str
    version_set: str
    published: str


def mirror_partition(
    partition: ContentPartition,
    wanted: str,
    *,
    root_run_id: str,
    campaign: Campaign,
    claims: Claims,
    handoffs: HandoffStore,
    open_engine: OpenRows,
    worker: Worker,
    open_media: OpenMedia | None = None,
    home: Path = Path(),
    progress: Progress | None = None,
    **timing: Any,
) -> Mirror:
    """Makes a sealed partition again on another version set, and compares.

    Reuses what is sealed: the same mirror, so that only its comparison is made for newer content or rules.

    Args:
        wanted: `candidate` (on trial, or proposed), `stable`, a version set's id or a prefix of one.
        root_run_id: a retry mirrors the same set as its run, whoever is the candidate by then.
        home: where the globs of a campaign's true pictures start.

    Raises:
        HandoffMissing: the partition was never sealed, or its prompts or what is painted and spoken of it are gone.
        InvalidInput: `wanted` names no set, or more than one.
        MirrorStopped: the set was rolled back.
        HandoffCorrupt, EngineUnavailable: as `generate_partition`.
    """
    pin = _pin(partition, wanted, root_run_id, claims, handoffs)
    if pin.version_set is None or pin.inputs.keys() != {CONTENT, "prompts"}:
        key = run_pin_key(partition.key, root_run_id, "mirror")
        raise HandoffCorrupt(f"Run pin {key} is none of a mirror: it was moved. {RUN_PIN.remedy}", key=key)
    published = handoffs.open(CONTENT, partition.key, pin.inputs[CONTENT])
    prompts = handoffs.open("prompts", partition.key, pin.inputs["prompts"])
    claim = claims.open_mirror(campaign, partition, prompts, pin.version_set, root_run_id=root_run_id)
    settlement = claims.settlement(claim)
    if settlement is not None and settlement.outcome == "void":
        claims.drop_batches(claim)
        raise void_error(claim, settlement.reason)
    outcome = generate_partition(
        claim,
        campaign=campaign,
        claims=claims,
        handoffs=handoffs,
        open_engine=open_engine,
        open_media=open_media,
        worker=worker,
        progress=progress,
        **timing,
    )
    comparison = compare(published, outcome.content, campaign, handoffs, home=home, run_id=worker.run_id)
    return _mirror(outcome, published, comparison)


def compare(
    published: Handoff,
    mirrored: Handoff,
    campaign: Campaign,
    handoffs: HandoffStore,
    *,
    run_id: str,
    home: Path = Path(),
) -> Handoff:
    """The comparison of one published version with one mirror of it, sealed once for each set of review rules.

    Of rows that have pictures or recordings, all parts are judged, and all must be the same.

    Raises:
        HandoffCorrupt: the two answer different prompts.
        HandoffMissing: the pictures or recordings of one are gone.
    """
    references = references_of(campaign, handoffs, home)
    once = {
        "claim": mirrored.attributes["claim"],
        "published": published.content_digest,
        "review": rules_digest(campaign, references),
    }
    found = handoffs.find(COMPARISON, published.partition, **once)
    if found is not None and handoffs.is_intact(found):
        return found
    sides = (published, mirrored)
    return handoffs.publish(
        COMPARISON,
        published.partition,
        _compared(*(_Judged.of(one, campaign, handoffs, references) for one in sides)),
        schema=_comparison_schema(published),
        code_version=GENERATION_CODE_VERSION,
        run_id=run_id,
        input_versions={f"{one.asset}[{one.partition}]": f"v{one.version} {one.content_digest}" for one in sides},
        attributes={
            "version_set": mirrored.attributes["version_set"],
            "published_set": published.attributes.get("version_set", ""),
        },
        once=once,
    )


def mirrored_differences(
    handoffs: HandoffStore,
    campaign: str,
    candidate: str,
    stable: str,
    *,
    num_days: int | None = None,
    damaged: Damaged | None = None,
) -> Sample:
    """The mirrors' evidence on two sets, from the newest comparison of each partition that was published on `stable`.

    Reads two columns of bits for each partition.

    Args:
        num_days: only the newest mirrored days; None: all.
        damaged: called for unreadable comparisons, which are left out.

    Raises:
        HandoffCorrupt: a comparison cannot be read, and `damaged` is None.
    """
    partitions = _partitions(handoffs, COMPARISON, campaign)
    days = sorted({partition.day for partition in partitions})
    counted = days if num_days is None else days[-num_days:]
    total = Sample()
    for partition in partitions:
        if partition.day in counted:
            found = handoffs.find(COMPARISON, partition.key, version_set=candidate, published_set=stable)
            try:
                total += _differences(found) if found else Sample()
            except HandoffCorrupt as error:
                if damaged is None:
                    raise
                damaged(error)
    return total


def partitions_to_mirror(
    handoffs: HandoffStore, campaign: Campaign, state: RolloutState | None, days: Sequence[str]
) -> list[Wanted]:
    """The mirrors that the plan's `mirror_partitions` asks for and that are not compared yet, newest first.

    Args:
        days: oldest first; only the plan's `evidence_days` newest are searched.
    """
    wanted = (state.candidate or state.proposed) if state else None
    if state is None or wanted is None:
        return []
    num_left = campaign.plan.mirror_partitions
    found: list[Wanted] = []
    partitions = partitions_of_days(campaign, days[-campaign.plan.evidence_days :], handoffs.objects)
    for keys in reversed(partitions.values()):
        for key in keys:
            if num_left == 0:
                return found
            content = handoffs.newest(CONTENT, key)
            if content is None or content.attributes.get("version_set") != state.stable:
                continue
            num_left -= 1
            if handoffs.find(COMPARISON, key, version_set=wanted, published=content.content_digest) is None:
                found.append(Wanted(partition=key, version_set=wanted, published=content.content_digest))
    return found


def kept_difference_interval(differences: Sample) -> tuple[float, float]:
    """95% interval of the difference of the kept shares, for one look planned beforehand; a gate's is wider.

    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data": one pair is added to each way of differing. Without pairs: the whole possible range.
    """
    better = (differences.total_squares + differences.total) / 2 + 1
    worse = (differences.total_squares - differences.total) / 2 + 1
    num = differences.num + 2
    mean = (better - worse) / num
    width = _Z * math.sqrt(max(0.0, (better + worse) / num - mean**2) / num)
    return max(-1.0, mean - width), min(1.0, mean + width)


def _wanted_set(objects: ObjectStore, state: RolloutState | None, wanted: str) -> str:
    """The id of the set that `wanted` names.

    Raises:
        InvalidInput, ObjectMissing: it names no set, or more than one.
    """
    if wanted not in ("candidate", "stable"):
        return VersionSets(objects).find(wanted, besides=", or candidate, or stable")
    named = None if state is None else state.stable if wanted == "stable" else state.candidate or state.proposed
    if named is None:
        raise InvalidInput(f"There is no {wanted} set now: name a version set by its id, or by its beginning.")
    return named


def _pin(partition: ContentPartition, wanted: str, root_run_id: str, claims: Claims, handoffs: HandoffStore) -> RunPin:
    """Decides once what a run and its retries mirror, by what is newest when the run begins."""
    key = run_pin_key(partition.key, root_run_id, "mirror")
    try:
        return read_object(claims.objects, key, RUN_PIN)
    except ObjectMissing:
        pass
    published = handoffs.open(CONTENT, partition.key)
    prompts = handoffs.open("prompts", partition.key, version_read(published, "prompts"))
    state = fold(claims.journal.entries())
    version_set = _wanted_set(claims.objects, state, wanted)
    if state is not None and version_set in state.aborted:
        raise MirrorStopped(f"Version set {version_set[:12]} was rolled back: nothing is mirrored on it any more.")
    pin = RunPin(
        version_set=version_set,
        inputs={"prompts": prompts.version, CONTENT: published.version},
        inputs_digest=mirror_digest(prompts, version_set),
    )
    return create_object(claims.objects, key, RUN_PIN, pin).value


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """One side's rows, with their verdicts and what they are made of beside the text."""

    content: Handoff
    broken: list[list[str]]
    parts: RowParts | None

    @classmethod
    def of(
        cls, content: Handoff, campaign: Campaign, handoffs: HandoffStore, references: "References | None"
    ) -> "_Judged":
        parts = parts_of(content, handoffs)
        found = verdicts_of(content, handoffs, campaign, references, parts=parts)
        return cls(content=content, broken=found.broken, parts=parts)

    def made(self, rows: pa.Table) -> list[dict[str, Any]]:
        """What each row is made of: its text, and the digests of its pictures and recordings by role."""
        items = self.parts.items if self.parts else {}
        texts = zip(rows["row_id"].to_pylist(), rows["output"].to_pylist(), strict=True)
        return [
            {"": text, **{role: item["xxh3_128"] for role, item in items.get(row, {}).items()}} for row, text in texts
        ]


def _compared(before_all: _Judged, after_all: _Judged) -> Iterator[pa.RecordBatch]:
    published, mirrored = before_all.content, after_all.content
    if published.num_rows != mirrored.num_rows:
        raise _other_prompts(published, mirrored)
    for start in range(0, published.num_rows, _SLICE_ROWS):
        rows = range(start, min(start + _SLICE_ROWS, published.num_rows))
        before, after = published.table(rows=rows), mirrored.table(rows=rows)
        answered = _answered(before)
        if answered != _answered(after):
            raise _other_prompts(published, mirrored)
        old, new = before_all.broken[rows.start : rows.stop], after_all.broken[rows.start : rows.stop]
        made = zip(before_all.made(before), after_all.made(after), strict=True)
        columns = {
            **answered,
            "position": before["position"].to_pylist(),
            "published_row_id": before["row_id"].to_pylist(),
            "mirrored_row_id": after["row_id"].to_pylist(),
            "published_kept": [not broken for broken in old],
            "mirrored_kept": [not broken for broken in new],
            "published_rejected_by": old,
            "mirrored_rejected_by": new,
            "same_output": [one == other for one, other in made],
            "published_num_output_tokens": before["num_output_tokens"].to_pylist(),
            "mirrored_num_output_tokens": after["num_output_tokens"].to_pylist(),
        }
        yield from pa.table(columns, schema=_comparison_schema(published)).to_batches()


def _comparison_schema(published: Handoff) -> pa.Schema:
    return schema_named(COMPARISON, published.schema)


def _answered(rows: pa.Table) -> dict[str, list[Any]]:
    """What each row answers: a prompt, and the variation of it if there are several."""
    return {name: rows[name].to_pylist() for name in ("prompt_id", VARIATION.name) if name in rows.column_names}


def _other_prompts(published: Handoff, mirrored: Handoff) -> HandoffCorrupt:
    return HandoffCorrupt(
        f"{published.manifest.label} and its mirror {mirrored.manifest.label} do not answer the same prompts in the "
        "same order: one of them is not what was made. Regenerate the partition, then mirror it again."
    )


def _mirror(outcome: Outcome, published: Handoff, comparison: Handoff) -> Mirror:
    table = comparison.table(["published_kept", "mirrored_kept", "same_output"])
    before, after = table["published_kept"].to_pylist(), table["mirrored_kept"].to_pylist()
    return Mirror(
        outcome=outcome,
        published=published,
        comparison=comparison,
        num_same_output=sum(table["same_output"].to_pylist()),
        num_only_published_kept=sum(old and not new for old, new in zip(before, after, strict=True)),
        num_only_mirrored_kept=sum(new and not old for old, new in zip(before, after, strict=True)),
        differences=_differences(comparison),
    )


def _differences(comparison: Handoff) -> Sample:
    """One value for each prompt, since its variations are alike: the mean of theirs."""
    by_prompt = ["prompt_id"] if VARIATION.name in comparison.schema.names else []
    table = comparison.table(["published_kept", "mirrored_kept", *by_prompt])
    pairs = zip(table["mirrored_kept"].to_pylist(), table["published_kept"].to_pylist(), strict=True)
    values = [float(mirrored) - float(published) for mirrored, published in pairs]
    if not by_prompt:
        return Sample.of_values(values)
    of_prompts: dict[str, list[float]] = {}
    for prompt, value in zip(table["prompt_id"].to_pylist(), values, strict=True):
        of_prompts.setdefault(prompt, []).append(value)
    return Sample.of_values(map(fmean, of_prompts.values()))


def _partitions(handoffs: HandoffStore, asset: str, campaign: str) -> list[ContentPartition]:
    keys = map(partition_from_path, handoffs.objects.children(asset_prefix(asset)))
    partitions = map(ContentPartition.find, sorted(keys))
    return [partition for partition in partitions if partition and partition.campaign == campaign]
