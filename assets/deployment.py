"""Deployment: trained weights become registered versions; a rollout decides which of them generate."""

from typing import Literal

import dagster as dg
import pyarrow as pa
from pydantic import Field

from assets.partitions import campaigns as campaign_partitions
from assets.partitions import model_recipes
from assets.stages import Stage
from headrace.errors import InvalidInput
from headrace.handoff.versions import Handoff
from headrace.registry.model_versions import to_table
from headrace.registry.registration import register_model
from headrace.rollout import interventions
from headrace.rollout.ticking import Intervention
from headrace_dagster.handoff_io import StoreResource
from resources.registry import RegistryResource
from resources.rollouts import RolloutsResource
from resources.training import TrainingResource

_STAGE = Stage("deployment")


@_STAGE.asset(model_recipes, code_version="1")
def registered_version(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    training: TrainingResource,
    base_model: pa.Table,
    trained_model: Handoff,
    evaluation: pa.Table,
) -> dg.MaterializeResult[pa.Table]:
    """One recipe's weights and their base, as MLflow model versions that point to the sealed bytes.

    Registering the same weights again gives the same version. Read by rollout.
    """
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


class RolloutConfig(dg.Config):
    """A person's act on a rollout, from the launchpad. By default a run only ticks."""

    action: Literal["tick", "pause", "resume", "approve", "advance", "promote", "abort"] = Field(
        default="tick", description="What to do before the rollout goes on by itself."
    )
    weight: float | None = Field(
        default=None, description="For advance: the candidate's share, up or down; none: next step."
    )
    keep_sessions: bool = Field(
        default=False, description="For abort: sessions keep the set to the end of their lease."
    )
    reason: str = Field(default="", description="Why; required for everything but tick, and kept in the journal.")

    def intervention(self, *, by: str) -> Intervention | None:
        """Raises: InvalidInput: a person's action has no reason."""
        if self.action == "tick":
            return None
        if not self.reason:
            raise InvalidInput(f"{self.action} needs a reason, which the journal keeps; got none.")
        if self.action == "advance":
            return lambda journal, plan, _: interventions.advance(
                journal, by=by, reason=self.reason, plan=plan, weight=self.weight
            )
        if self.action == "abort":
            return lambda journal, _, before: interventions.abort(
                journal, by=by, reason=self.reason, evict=not self.keep_sessions, before=before
            )
        act = {
            "pause": interventions.pause,
            "resume": interventions.resume,
            "approve": interventions.approve,
            "promote": interventions.promote,
        }
        return lambda journal, *_: act[self.action](journal, by=by, reason=self.reason)


@_STAGE.asset(
    campaign_partitions,
    code_version="2",
    # Read here, not by the IO manager: a damaged registration must not prevent an abort.
    deps=[dg.AssetDep(registered_version, partition_mapping=dg.AllPartitionMapping())],
)
def rollout(
    context: dg.AssetExecutionContext,
    config: RolloutConfig,
    rollouts: RolloutsResource,
    registry: RegistryResource,
    store: StoreResource,
) -> dg.MaterializeResult[pa.Table]:
    """The version sets of one campaign or service; a run takes its rollout as far as the evidence allows.

    Its log says what it did and what it waits for. The journal in the store decides, and generated_content and the
    gateways read it; this table and MLflow's aliases follow it.
    """
    ticked = rollouts.tick(
        context.partition_key,
        store.handoffs(),
        registry.models(),
        run_id=context.run.run_id,
        intervention=config.intervention(by=context.run.tags.get("user", "Dagster")),
    )
    *done, waits = ticked.actions
    for action in done:
        context.log.info(f"{action.kind}: {action.reason}")
    if ticked.state is None:
        context.log.warning(f"Nothing was rolled out, so {context.partition_key} has no version set: {waits.reason}")
    else:
        context.log.info(f"Waits: {waits.reason}")
    return dg.MaterializeResult(value=ticked.table, metadata=ticked.metadata())
