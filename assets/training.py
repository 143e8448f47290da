"""Training: a base model and the prepared examples become trained weights, one recipe a partition."""

import dagster as dg
import pyarrow as pa

from assets.partitions import model_recipes, refuse_unknown_shards
from headrace.handoff.versions import Handoff
from headrace.store.sealed_directory import seal_directory
from headrace.training.attempts import read_curve
from headrace.training.curves import loss_sparkline
from headrace.training.session import request_for
from headrace.training.tables import base_model_table, evaluation_table, samples_markdown, trained_model_table
from headrace.training.tracking import TrainingTrack
from headrace_dagster.assets.stages import Stage
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.registry import RegistryResource
from headrace_dagster.training_launcher import TrainingLauncher
from resources.training import TrainingResource

_STAGE = Stage("training")
_all_shards = dg.AssetIn(partition_mapping=dg.AllPartitionMapping())


@_STAGE.asset(model_recipes, code_version="1")
def base_model(
    context: dg.AssetExecutionContext, training: TrainingResource, store: StoreResource
) -> dg.MaterializeResult[pa.Table]:
    """The base weights of one recipe, sealed in the store under their digest.

    Read by trained_model, evaluation and registered_version.
    """
    directory = training.base_model_directory(training.recipe(context.partition_key))
    weights = seal_directory(store.objects(), directory)
    return dg.MaterializeResult(
        value=base_model_table(weights),
        metadata={
            "weights_digest": weights.digest,
            "weights_uri": weights.uri,
            "weights_bytes": weights.num_bytes,
            "source": str(directory),
        },
    )


@_STAGE.asset(
    model_recipes,
    code_version="1",
    # A gang of GPUs is admitted whole; recipes with their own `ranks` request GPUs in the run's tags.
    gpus=1,
    gpu_memory_mib=16_000,
    ins={"training_examples": _all_shards},
    pool="training",
    # A gang that lost a rank resumes from its last checkpoint; for a lost worker Dagster retries the run.
    retry_policy=dg.RetryPolicy(max_retries=2, delay=5),
)
def trained_model(
    context: dg.AssetExecutionContext,
    training: TrainingResource,
    launcher: TrainingLauncher,
    registry: RegistryResource,
    store: StoreResource,
    base_model: pa.Table,
    training_examples: dict[str, Handoff],
) -> dg.MaterializeResult[pa.Table]:
    """Weights that one recipe made from its base model and all corpus shards, sealed under their digest.

    Trained once for the same weights, data and recipe; an interrupted training continues after its last checkpoint.
    Read by evaluation and registered_version.
    """
    refuse_unknown_shards()
    recipe = training.recipe(context.partition_key)
    request = request_for(recipe, base_model, training_examples)
    tracked = TrainingTrack(
        registry.models(), request.training_id, recipe.to_body(), name=recipe.key, say=context.log.warning
    )
    with tracked as track:
        outcome = launcher.train(context, request, on_rows=track.add_rows)
    rows = read_curve(store.objects(), outcome.result)
    run_id = track.finish(outcome.result, rows)
    table = trained_model_table(store.objects(), outcome.result, mlflow_run_id=run_id)
    return dg.MaterializeResult(
        value=table, metadata=outcome.figures() | {"loss": dg.MetadataValue.md(loss_sparkline(rows))}
    )


@_STAGE.asset(model_recipes, code_version="1", gpus=1, ins={"training_examples": _all_shards})
def evaluation(
    context: dg.AssetExecutionContext,
    training: TrainingResource,
    launcher: TrainingLauncher,
    base_model: pa.Table,
    trained_model: pa.Table,
    training_examples: dict[str, Handoff],
) -> dg.MaterializeResult[pa.Table]:
    """Held-out loss of a recipe's base and trained weights on the same tokens, in nats a completion token, and samples.

    Measured once for the same weights and held-out examples. Read by registered_version, whose rollout gate needs it.
    """
    refuse_unknown_shards()
    request = request_for(training.recipe(context.partition_key), base_model, training_examples)
    weights = {
        name: table.column("weights_digest")[0].as_py()
        for name, table in (("base", base_model), ("trained", trained_model))
    }
    measured = launcher.evaluate(context, request, weights)
    base, trained = measured["base"], measured["trained"]
    return dg.MaterializeResult(
        value=evaluation_table(measured),
        metadata={
            "heldout_loss_base": base.heldout_loss,
            "heldout_loss_trained": trained.heldout_loss,
            "nats_better": base.heldout_loss - trained.heldout_loss,
            "heldout_tokens": trained.heldout_tokens,
            "samples": dg.MetadataValue.md(samples_markdown(base, trained)),
        },
    )
