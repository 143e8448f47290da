"""Training: a base model and the prepared examples become trained weights, one recipe a partition."""

import dagster as dg
import pyarrow as pa

from assets.partitions import corpus_shards, model_recipes
from headrace.handoff.versions import Handoff
from headrace.placement.demand import stage_tags
from headrace.store.sealed_directory import find_directory, seal_directory
from headrace.training.attempts import read_curve
from headrace.training.curves import loss_sparkline
from headrace.training.session import TrainingRequest, request_for
from headrace.training.tables import base_model_table, evaluation_table, trained_model_table
from headrace.training.tracking import TrainingTrack
from headrace_dagster.failures import translated_errors
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.training_launcher import TrainingLauncher
from resources.registry import RegistryResource
from resources.training import TrainingResource

_GROUP = "training"
_TAGS = stage_tags(_GROUP)
# A gang of GPUs is admitted whole; recipes with `ranks` of their own ask for them in the run's tags.
_GANG_TAGS = stage_tags(_GROUP, gpus=1, gpu_memory_mib=16_000)

_all_shards = dg.AssetIn(partition_mapping=dg.AllPartitionMapping())


@dg.asset(partitions_def=model_recipes, group_name=_GROUP, op_tags=_TAGS, tags=_TAGS, code_version="1")
def base_model(
    context: dg.AssetExecutionContext, training: TrainingResource, store: StoreResource
) -> dg.MaterializeResult[pa.Table]:
    """The weights that one recipe starts from, sealed in the store under their digest. Read by trained_model, evaluation
    and registered_version."""
    with translated_errors():
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
