"""Training: a base model and the prepared examples become trained weights, one recipe a partition.

A recipe's objective says which examples it reads: packed texts, preference pairs, or captioned pictures.
"""

from typing import Any

import dagster as dg
import pyarrow as pa

from assets.partitions import model_recipes, refuse_unknown_image_shards, refuse_unknown_shards
from headrace.handoff.versions import Handoff
from headrace.store.sealed_directory import seal_directory
from headrace.training.attempts import read_curve
from headrace.training.curves import loss_sparkline
from headrace.training.heldout import Evaluation
from headrace.training.recipe import ROW_PAIRS, TEXTS, Recipe
from headrace.training.session import request_for
from headrace.training.tables import (
    base_model_table,
    base_recipe_table,
    evaluation_table,
    ranks_markdown,
    samples_markdown,
    trained_model_table,
)
from headrace.training.tracking import TrainingTrack
from headrace_dagster.assets.stages import Stage
from headrace_dagster.handoff_inputs import HandoffsWhenAsked
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.registry import RegistryResource
from headrace_dagster.training_launcher import TrainingLauncher
from headrace_dagster.training_observations import TrainingObservations
from resources.training import TrainingResource

_STAGE = Stage("training")
_EXAMPLES = {
    name: dg.AssetIn(partition_mapping=dg.AllPartitionMapping()) for name in ("training_examples", "picture_examples")
}
# A recipe's own.
_EXAMPLES["preference_pairs"] = dg.AssetIn()


@_STAGE.asset(model_recipes, code_version="1")
def base_model(
    context: dg.AssetExecutionContext, training: TrainingResource, store: StoreResource
) -> dg.MaterializeResult[pa.Table]:
    """The base weights of one recipe, sealed in the store under their digest: a model directory, or what another recipe
    trained last.

    Read by preference_pairs, trained_model, evaluation and registered_version.
    """
    recipe = training.recipe(context.partition_key)
    if recipe.base_recipe:
        table, source = base_recipe_table(store.handoffs(), recipe)
        return dg.MaterializeResult(
            value=table, metadata={"weights_digest": table["weights_digest"][0].as_py(), "source": source}
        )
    directory = training.base_model_directory(recipe)
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
    # A gang of GPUs is admitted whole. How many, and how large, follows from the recipe; these where it cannot be read.
    gpus=1,
    gpu_memory_mib=16_000,
    demand_from="training_recipe",
    ins=_EXAMPLES,
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
    training_examples: HandoffsWhenAsked,
    picture_examples: HandoffsWhenAsked,
    preference_pairs: HandoffsWhenAsked,
) -> dg.MaterializeResult[pa.Table]:
    """Weights that one recipe made from its base model and its examples, sealed under their digest.

    Of a picture model a directory that diffusers opens, with the averaged weights. Trained once for the same weights,
    data and recipe; an interrupted training continues after its last checkpoint. While it runs, observations show its
    curve, speed and remaining time. Read by evaluation and registered_version.
    """
    recipe = training.recipe(context.partition_key)
    request = request_for(
        recipe, base_model, _examples_of(recipe, training_examples, picture_examples, preference_pairs), store.objects()
    )
    tracked = TrainingTrack(
        registry.models(), request.training_id, recipe.to_body(), name=recipe.key, say=context.log.warning
    )
    live = TrainingObservations(context)

    def show(rows: list[dict[str, Any]]) -> None:
        live.add_rows(rows)
        track.add_rows(rows)

    with tracked as track:
        outcome = launcher.train(context, request, on_rows=show)
    rows = read_curve(store.objects(), outcome.result)
    run_id = track.finish(outcome.result, rows)
    table = trained_model_table(store.objects(), outcome.result, mlflow_run_id=run_id)
    return dg.MaterializeResult(
        value=table, metadata=outcome.figures() | {"loss": dg.MetadataValue.md(loss_sparkline(rows))}
    )


@_STAGE.asset(model_recipes, code_version="1", gpus=1, ins=_EXAMPLES)
def evaluation(
    context: dg.AssetExecutionContext,
    training: TrainingResource,
    launcher: TrainingLauncher,
    store: StoreResource,
    base_model: pa.Table,
    trained_model: pa.Table,
    training_examples: HandoffsWhenAsked,
    picture_examples: HandoffsWhenAsked,
    preference_pairs: HandoffsWhenAsked,
) -> dg.MaterializeResult[pa.Table]:
    """Held-out loss of a recipe's base and trained weights on the same tokens, in nats a completion token, and samples;
    of preferences the loss of held-out pairs and the share of them that each wins; of a picture model its error on
    taught captions, and how often their own pictures are found again.

    Measured once for the same weights and examples. Read by registered_version, whose rollout gate needs it.
    """
    recipe = training.recipe(context.partition_key)
    request = request_for(
        recipe, base_model, _examples_of(recipe, training_examples, picture_examples, preference_pairs), store.objects()
    )
    weights = {
        name: table.column("weights_digest")[0].as_py()
        for name, table in (("base", base_model), ("trained", trained_model))
        # A picture model has no base of its kind: what reads its captions is none.
        if name == "trained" or recipe.has_base
    }
    measured = launcher.evaluate(context, request, weights)
    return dg.MaterializeResult(value=evaluation_table(measured), metadata=_evaluation_metadata(measured))


def _examples_of(
    recipe: Recipe, texts: HandoffsWhenAsked, pictures: HandoffsWhenAsked, row_pairs: HandoffsWhenAsked
) -> dict[str, Handoff]:
    if recipe.examples_asset == TEXTS:
        refuse_unknown_shards()
        return texts.open()
    if recipe.examples_asset == ROW_PAIRS:
        return row_pairs.open()
    refuse_unknown_image_shards()
    return pictures.open()


def _evaluation_metadata(measured: dict[str, Evaluation]) -> dict[str, Any]:
    trained = measured["trained"]
    if "base" not in measured:
        return {
            trained.measure: trained.heldout_loss,
            **trained.figures,
            "samples": dg.MetadataValue.md(ranks_markdown(trained)),
        }
    base = measured["base"]
    return {
        f"{base.measure}_base": base.heldout_loss,
        f"{trained.measure}_trained": trained.heldout_loss,
        "nats_better": base.heldout_loss - trained.heldout_loss,
        **{f"{name}_base": value for name, value in base.figures.items()},
        **{f"{name}_trained": value for name, value in trained.figures.items()},
        "heldout_tokens": trained.heldout_tokens,
        "samples": dg.MetadataValue.md(samples_markdown(base, trained)),
    }
