"""The gate's evidence: reviewed rows by version set, and held-out losses measured on the same tokens."""

from collections.abc import Iterable, Mapping

from headrace.errors import HandoffCorrupt
from headrace.handoff.schemas import VARIATION
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.gates import PASS_RATE, Evidence
from headrace.rollout.sequential.samples import Sample
from headrace.store.small_objects import Damaged

REVIEWED_CONTENT = "reviewed_content"


def review_counts(
    handoffs: HandoffStore, campaign: str, *, num_days: int, damaged: Damaged | None = None
) -> dict[str, Sample]:
    """Reviewed and kept rows of a campaign by version set id, over the newest version of each sealed partition.

    A prompt's variations count as one row, by the share of them that was kept: they are alike, and a gate that took
    them for as many prompts would be surer than it may be.

    Args:
        num_days: how many of the campaign's newest reviewed days count; limits what a tick reads.
        damaged: called for unreadable partitions, which are left out.

    Raises:
        HandoffCorrupt: a partition cannot be read, and `damaged` is None.
    """
    partitions = [partition for key in handoffs.partitions(REVIEWED_CONTENT) if (partition := _of(campaign, key))]
    days = sorted({partition.day for partition in partitions})[-num_days:]
    counts: dict[str, Sample] = {}
    for partition in partitions:
        try:
            handoff = handoffs.newest(REVIEWED_CONTENT, partition.key) if partition.day in days else None
            by_prompt = ["prompt_id"] if handoff and VARIATION.name in handoff.schema.names else []
            table = handoff.table(columns=["version_set", "kept", *by_prompt], plain=True) if handoff else None
        except HandoffCorrupt as error:
            if damaged is None:
                raise
            damaged(error)
            continue
        if table is None:
            continue
        counted = table.group_by(["version_set", *by_prompt]).aggregate([("kept", "count"), ("kept", "sum")])
        for row in counted.to_pylist():
            num, kept = row["kept_count"], row["kept_sum"]
            more = Sample.of_values([kept / num]) if by_prompt else Sample.of_counts(num, kept)
            counts[row["version_set"]] = counts.get(row["version_set"], Sample()) + more
    return counts


def evidence_for(
    candidate: str,
    stable: str,
    *,
    candidate_weights: str,
    stable_weights: str,
    reviews: Mapping[str, Sample],
    models: Iterable[ModelVersion],
) -> Evidence:
    """Combines the evidence on two version sets and the weights in them."""
    losses = heldout_losses(models, candidate_weights, stable_weights)
    return Evidence(
        metrics={PASS_RATE: (reviews.get(candidate, Sample()), reviews.get(stable, Sample()))},
        heldout_candidate=losses[0] if losses else None,
        heldout_stable=losses[1] if losses else None,
    )


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
