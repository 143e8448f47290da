"""Deployment: trained weights become registered versions; a rollout decides which of them generate."""

from functools import partial

import dagster as dg
import pyarrow as pa

from assets.partitions import campaigns as campaign_partitions
from assets.partitions import model_recipes
from headrace.clock import SystemClock
from headrace.handoff.versions import Handoff
from headrace.placement.demand import stage_tags
from headrace.registry.model_versions import from_table, to_table
from headrace.registry.registration import register_model
from headrace.rollout.aliases import project_if_possible
from headrace.rollout.controller import desired_set, tick
from headrace.rollout.evidence import review_counts
from headrace.rollout.journal import Journal
from headrace.rollout.states import fold
from headrace.rollout.tables import journal_markdown, state_table
from headrace.rollout.version_sets import VersionSets
from headrace_dagster.failures import translated_errors
from headrace_dagster.handoff_io import ALLOW_MISSING_PARTITIONS, StoreResource
from resources.campaigns_resource import CampaignsResource
from resources.registry import RegistryResource
from resources.training import TrainingResource

_GROUP = "deployment"
_TAGS = stage_tags(_GROUP)


@dg.asset(
    partitions_def=model_recipes,
    group_name=_GROUP,
    op_tags=_TAGS,
    tags=_TAGS,
    code_version="1",
    # A registry that is down for a minute is no reason to lose a night.
    retry_policy=dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL),
)
def registered_version(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    training: TrainingResource,
    base_model: pa.Table,
    trained_model: Handoff,
    evaluation: pa.Table,
) -> dg.MaterializeResult[pa.Table]:
    """One recipe's weights and the base they came from, as MLflow model versions that point to the sealed bytes.

    Registering the same weights again gives the same version. Read by rollout.
    """
    with translated_errors():
        recipe = training.recipe(context.partition_key)
        rows = register_model(
            registry.models(),
            model_name=recipe.model,
            recipe=recipe.name,
            base=base_model.to_pylist()[0],
            trained=trained_model.table().to_pylist()[0],
            evaluation=evaluation,
            config=recipe.to_body(),
            input_versions=trained_model.manifest.input_versions,
        )
    base, trained = rows
    return dg.MaterializeResult(
        value=to_table(rows),
        metadata={
            "model": trained.model_name,
            "model_version": trained.version,
            "weights_digest": trained.weights_digest,
            "heldout_loss_base": base.heldout_loss,
            "heldout_loss_trained": trained.heldout_loss,
            "mlflow_run_id": trained.mlflow_run_id,
        },
    )


@dg.asset(
    partitions_def=campaign_partitions,
    ins={
        "registered_version": dg.AssetIn(
            partition_mapping=dg.AllPartitionMapping(), metadata={ALLOW_MISSING_PARTITIONS: True}
        )
    },
    group_name=_GROUP,
    op_tags=_TAGS,
    tags=_TAGS,
    code_version="1",
)
def rollout(
    context: dg.AssetExecutionContext,
    campaigns: CampaignsResource,
    registry: RegistryResource,
    store: StoreResource,
    registered_version: dict[str, Handoff],
) -> dg.MaterializeResult[pa.Table]:
    """The version sets one campaign runs on, stable and candidate; a run takes its rollout as far as evidence allows.

    The journal in the store decides and is what generated_content reads; this table and MLflow's aliases follow it.
    """
    objects, name = store.objects(), context.partition_key
    journal, version_sets = Journal(objects, name, SystemClock()), VersionSets(objects)
    with translated_errors():
        campaign = campaigns.campaign(name)
        actions = tick(
            journal,
            version_sets,
            campaign.plan,
            model_name=campaign.model,
            models=[model for handoff in registered_version.values() for model in from_table(handoff.table())],
            desired=partial(desired_set, campaign),
            reviews=review_counts(store.handoffs(), name, num_days=campaign.plan.evidence_days),
        )
        aliases = project_if_possible(
            journal, version_sets, objects, registry.models(), prefix=campaign.plan.alias_prefix
        )
        state = fold(journal.entries())
    return dg.MaterializeResult(
        value=state_table(name, state, version_sets),
        metadata={
            "head": journal.head(),
            "num_entries_added": len(actions) - 1,
            "weight": state.weight if state else 0.0,
            "reason": actions[-1].reason,
            "journal": dg.MetadataValue.md(journal_markdown(journal.entries())),
            "aliases": aliases,
        },
    )
