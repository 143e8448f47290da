"""Deployment: trained weights become registered versions; a rollout decides which of them generate."""

import dagster as dg
import pyarrow as pa

from assets.generation import SITE
from assets.partitions import model_recipes
from headrace.handoff.versions import Handoff
from headrace.registry.model_versions import to_table
from headrace.registry.registration import index_weights, register_model
from headrace_dagster.assets.rollout import rollout_asset
from headrace_dagster.assets.stages import DEPLOYMENT
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.registry import RegistryResource
from resources.training import TrainingResource


@DEPLOYMENT.asset(model_recipes, code_version="1")
def registered_version(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    store: StoreResource,
    training: TrainingResource,
    base_model: pa.Table,
    trained_model: Handoff,
    evaluation: pa.Table,
) -> dg.MaterializeResult[pa.Table]:
    """One recipe's weights and their base, as MLflow model versions that point to the sealed bytes; a picture model has
    no base.

    Registering the same weights again gives the same version. Read by rollout.
    """
    recipe = training.recipe(context.partition_key)
    rows = register_model(
        registry.models(),
        model_name=recipe.model,
        recipe=recipe.name,
        base=base_model.to_pylist()[0] if recipe.has_base else None,
        base_recipe=recipe.base_recipe or "",
        trained=trained_model.table().to_pylist()[0],
        evaluation=evaluation,
        config=recipe.to_body(),
        input_versions=trained_model.manifest.input_versions,
    )
    index_weights(store.objects(), rows)
    *bases, trained = rows
    return dg.MaterializeResult(
        value=to_table(rows),
        metadata={
            "model": trained.model_name,
            "model_version": trained.version,
            "weights_digest": trained.weights_digest,
            **{f"{base.measure}_base": base.heldout_loss for base in bases},
            f"{trained.measure}_trained": trained.heldout_loss,
            "mlflow_run_id": trained.mlflow_run_id,
        },
    )


rollout = rollout_asset(
    SITE,
    # Read by the body, not by the IO manager: a damaged registration must not prevent an abort.
    deps=[dg.AssetDep(registered_version, partition_mapping=dg.AllPartitionMapping())],
)
