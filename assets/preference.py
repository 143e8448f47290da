"""From the review to the next candidate: reviewed rows become the preference pairs of a recipe."""

from typing import Any

import dagster as dg
import pyarrow as pa

from assets.generation import SITE
from assets.partitions import model_recipes
from headrace.errors import InvalidTrainingRun
from headrace.generation.preference_pairs import Tokenizers, build_pairs, open_sources
from headrace.store.sealed_directory import open_directory
from headrace.training.preference_examples import TOKENIZER
from headrace_dagster.assets.stages import Stage
from headrace_dagster.handoff_io import ATTRIBUTES, StoreResource
from headrace_dagster.handoff_lineage import lineage_of, sealed_already
from resources.corpus_resource import CorpusResource
from resources.training import TrainingResource

_STAGE = Stage("training")


@_STAGE.asset(
    model_recipes,
    code_version="1",
    # Which of their partitions it reads, the recipe says; and what is not sealed yet holds nothing out.
    deps=[
        dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping())
        for asset in (SITE.key("reviewed_content"), "clean_documents")
    ],
    metadata={ATTRIBUTES: (TOKENIZER,)},
)
def preference_pairs(
    context: dg.AssetExecutionContext,
    training: TrainingResource,
    corpus: CorpusResource,
    store: StoreResource,
    base_model: pa.Table,
) -> dg.MaterializeResult[Any]:
    """Pairs of one recipe: of each question that its campaigns asked, rows that the review kept against rows that it
    rejected, with the ids of both and as tokens of the base model.

    Over all days and campaigns that the recipe names, as old as its last run. Pairs of questions that are held out
    measure, and never train. Made once for the same rows, documents, settings and tokenizer. Read by trained_model and
    evaluation of recipes with `objective: preference`.
    """
    recipe, handoffs = training.recipe(context.partition_key), store.handoffs()
    if (settings := recipe.row_pairs) is None:
        raise InvalidTrainingRun(
            f"Recipe {recipe.key} reads {recipe.examples_asset}, and no pairs of reviewed rows: none need be made. Set "
            "objective: preference with preference.rows, or leave this partition out."
        )
    sources = open_sources(handoffs, settings, corpus_heldout_share=corpus.corpus().heldout_share)
    lineage_of(context.get_step_execution_context()).loaded.update(sources.made_of)
    tokenizers = Tokenizers(open_directory(store.objects(), base_model["weights_digest"][0].as_py()))
    made_by = {TOKENIZER: tokenizers.digest}
    if sealed := sealed_already(context, handoffs, **sources.made_by, **made_by):
        return dg.MaterializeResult(value=sealed, metadata=made_by)
    pairs = build_pairs(sources, tokenizers)
    return dg.MaterializeResult(value=pairs.table, metadata={**made_by, **pairs.figures})
