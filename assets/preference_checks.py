"""Checks of preference pairs: columns, the rows behind them, and nothing held out among what trains.

Each checks the newest pairs of one recipe.
"""

import dagster as dg

from assets.partitions import model_recipes
from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.generation.content_checks import Finding
from headrace.generation.pair_checks import check_nothing_heldout_trains, check_rows_of_pairs
from headrace.generation.preference_pairs import CLEAN_DOCUMENTS
from headrace.handoff.schemas import check_schema
from headrace.text.markdown import inline
from headrace.training.recipe import ROW_PAIRS
from headrace_dagster.assets.stages import asset_check
from headrace_dagster.handoff_io import StoreResource


@asset_check(asset=ROW_PAIRS, name="schema", partitions_def=model_recipes)
def pairs_fit(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """The newest pairs have the columns that trainings expect, and their own digests."""
    try:
        pairs = store.handoffs().open(ROW_PAIRS, context.partition_key)
        check_schema(ROW_PAIRS, pairs.table())
    except (HandoffMissing, HandoffCorrupt, InvalidInput) as error:
        return dg.AssetCheckResult(passed=False, description=inline(str(error)))
    return dg.AssetCheckResult(passed=True, metadata={"num_rows": pairs.num_rows, "version": pairs.version})


@asset_check(asset=ROW_PAIRS, partitions_def=model_recipes)
def rows_are_as_told(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Every row that a pair names stands in the reviewed rows that it was made of, kept or rejected, with its text; and
    no row is in two pairs."""
    handoffs = store.handoffs()
    return _result(check_rows_of_pairs(handoffs, handoffs.open(ROW_PAIRS, context.partition_key)))


@asset_check(asset=ROW_PAIRS, partitions_def=model_recipes)
def nothing_held_out_trains(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """No question of a pair that trains is a held-out term or text of any corpus shard, or is asked in a held-out
    pair."""
    handoffs = store.handoffs()
    documents = (handoffs.open(CLEAN_DOCUMENTS, shard) for shard in handoffs.partitions(CLEAN_DOCUMENTS))
    return _result(check_nothing_heldout_trains(handoffs.open(ROW_PAIRS, context.partition_key), documents))


def _result(finding: Finding) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=finding.passed, description=inline(finding.description), metadata=finding.figures)
