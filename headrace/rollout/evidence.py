"""The gate's evidence: reviewed rows by version set, and held-out losses measured on the same tokens."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from headrace.errors import HandoffCorrupt
from headrace.handoff.schemas import MEDIA, VARIATION
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import HELDOUT_LOSS, PREFERENCE_LOSS, ContentPartition
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.gates import PASS_RATE, ROLE_METRICS, Evidence, TaughtErrors, role_metric
from headrace.rollout.sequential.samples import Sample
from headrace.store.small_objects import Damaged

REVIEWED_CONTENT = "reviewed_content"


def review_counts(
    handoffs: HandoffStore, campaign: str, *, num_days: int, damaged: Damaged | None = None
) -> dict[str, Sample]:
    """Reviewed and kept rows by version set id. Args, Raises: as `review_metrics`."""
    found = review_metrics(handoffs, campaign, num_days=num_days, damaged=damaged)
    return {version_set: metrics[PASS_RATE] for version_set, metrics in found.items()}


def review_metrics(
    handoffs: HandoffStore,
    campaign: str,
    *,
    num_days: int,
    writer: str = "",
    damaged: Damaged | None = None,
) -> dict[str, dict[str, Sample]]:
    """A campaign's rows by version set id and metric, over the newest version of each sealed partition.

    Roles that paint or speak have metrics of their own: of a row that has no part of a role for want of a text, nothing
    counts for that role. A prompt's variations count as one row, by the share of them that was kept: they are alike,
    and a gate that took them for as many prompts would be surer than it may be.

    Args:
        num_days: how many of the campaign's newest reviewed days count; limits what a tick reads.
        writer: the role whose rules have no role in their names, in campaigns that also paint or speak.
        damaged: called for unreadable partitions, which are left out.

    Raises:
        HandoffCorrupt: a partition cannot be read, and `damaged` is None.
    """
    partitions = [partition for key in handoffs.partitions(REVIEWED_CONTENT) if (partition := _of(campaign, key))]
    days = sorted({partition.day for partition in partitions})[-num_days:]
    counts: dict[str, dict[str, Sample]] = {}
    for partition in partitions:
        try:
            handoff = handoffs.newest(REVIEWED_CONTENT, partition.key) if partition.day in days else None
            found = _of_partition(handoff, writer) if handoff else []
        except HandoffCorrupt as error:
            if damaged is None:
                raise
            damaged(error)
            continue
        for version_set, metric, sample in found:
            of_set = counts.setdefault(version_set, {})
            of_set[metric] = of_set.get(metric, Sample()) + sample
    return counts


def _of_partition(handoff: Handoff, writer: str) -> list[tuple[str, str, Sample]]:
    """Version set, metric and sample of one reviewed partition."""
    names = handoff.schema.names
    by_prompt = ["prompt_id"] if VARIATION.name in names else []
    has_media = MEDIA.name in names
    columns = ["version_set", "kept", *by_prompt, *(["rejected_by", MEDIA.name] if has_media else [])]
    table = handoff.table(columns=columns, plain=True)
    found = _samples(table, "kept", PASS_RATE, by_prompt)
    if has_media:
        for metric, values in role_values(table["rejected_by"].to_pylist(), table[MEDIA.name].to_pylist(), writer):
            found += _samples(table.append_column("value", pa.array(values, pa.float64())), "value", metric, by_prompt)
    return found


def _samples(table: pa.Table, column: str, metric: str, by_prompt: list[str]) -> list[tuple[str, str, Sample]]:
    """Of rows with a value; of a prompt's variations their mean."""
    asked = [(column, "count"), (column, "sum")]
    counted = table.group_by(["version_set", *by_prompt]).aggregate(asked).to_pylist()
    found = []
    for row in counted:
        num, total = row[f"{column}_count"], row[f"{column}_sum"]
        if num:
            sample = Sample.of_values([total / num]) if by_prompt else Sample.of_counts(num, total)
            found.append((row["version_set"], metric, sample))
    return found


def role_values(
    rejected_by: Sequence[Sequence[str]], media: Sequence[Sequence[Mapping[str, Any]]], writer: str
) -> Iterator[tuple[str, list[float | None]]]:
    """Each metric of a role with its value in each row; None: the row says nothing about it.

    Args:
        rejected_by, media: of the same rows of REVIEWED_CONTENT.
    """
    if writer:
        yield role_metric(writer, PASS_RATE), [float(all("." in rule for rule in broken)) for broken in rejected_by]
    items = [{one["role"]: one for one in row} for row in media]
    faulty = [{rule.rpartition(".")[0] for rule in broken} - {""} for broken in rejected_by]
    for role in sorted({role for row in (*items, *faulty) for role in row}):
        yield (
            role_metric(role, PASS_RATE),
            [
                float(role not in broken) if role in row or role in broken else None
                for row, broken in zip(items, faulty, strict=True)
            ],
        )
        figures = [json.loads(row[role].get("figures") or "{}") if role in row else {} for row in items]
        for name in ROLE_METRICS:
            if any(name in one for one in figures):
                yield role_metric(role, name), [one.get(name) for one in figures]


def evidence_for(
    candidate: str,
    stable: str,
    *,
    candidate_weights: str,
    stable_weights: str,
    reviews: Mapping[str, Mapping[str, Sample]],
    models: Sequence[ModelVersion],
    members: Mapping[str, tuple[str, str]] | None = None,
) -> Evidence:
    """Combines the evidence on two version sets and the weights in them.

    Args:
        reviews: as `review_metrics` finds them.
        members: of sets with several roles: each one's weights in the candidate and in the stable set.
    """
    losses = heldout_losses(models, candidate_weights, stable_weights)
    preferred = heldout_losses(
        [model for model in models if model.measure == PREFERENCE_LOSS], candidate_weights, stable_weights
    )
    ours, theirs = reviews.get(candidate, {}), reviews.get(stable, {})
    return Evidence(
        metrics={
            metric: (ours.get(metric, Sample()), theirs.get(metric, Sample()))
            for metric in dict.fromkeys([PASS_RATE, *ours, *theirs])
        },
        heldout_candidate=losses[0] if losses else None,
        heldout_stable=losses[1] if losses else None,
        heldout_unit="pair" if losses and losses == preferred else "token",
        taught=taught_errors(models, members or {}),
    )


def taught_errors(models: Iterable[ModelVersion], members: Mapping[str, tuple[str, str]]) -> tuple[TaughtErrors, ...]:
    """Of each role whose weights differ and are picture models that were measured alike."""
    painters = [model for model in models if model.measure not in (HELDOUT_LOSS, PREFERENCE_LOSS)]
    found = []
    for role, (candidate, stable) in members.items():
        errors = heldout_losses(painters, candidate, stable) if candidate != stable else None
        if errors:
            found.append(TaughtErrors(role=role, candidate=errors[0], stable=errors[1]))
    return tuple(found)


def heldout_losses(models: Iterable[ModelVersion], candidate: str, stable: str) -> tuple[float, float] | None:
    """Held-out losses of two weights on the same tokens; `None`: they share none.

    Two recipes may have been evaluated on different held-out sets, and the base on each of them, so losses are compared
    under one held-out digest only: the newest that both have.
    """
    losses: dict[str, dict[str, float]] = {}
    for model in sorted(models, key=lambda model: model.registered_at):
        if model.heldout_loss is not None:
            losses.setdefault(model.heldout_digest, {})[model.weights_digest] = model.heldout_loss
    shared = [by_weights for by_weights in losses.values() if candidate in by_weights and stable in by_weights]
    return (shared[-1][candidate], shared[-1][stable]) if shared else None


def _of(campaign: str, partition_key: str) -> ContentPartition | None:
    partition = ContentPartition.find(partition_key)
    return partition if partition and partition.campaign == campaign else None
