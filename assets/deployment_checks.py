"""Checks of deployment: registered rows fit, journals are whole, and MLflow's aliases agree with the journals.

Each checks all existing partitions, of which there are few, so it can be run alone at any time.
"""

import dagster as dg

from assets.generation import SITE
from headrace.errors import HandoffCorrupt, InvalidInput
from headrace.handoff.schemas import check_schema
from headrace_dagster.assets.rollout_checks import findings_result, rollout_checks
from headrace_dagster.assets.stages import asset_check
from headrace_dagster.handoff_io import StoreResource


@asset_check(asset="registered_version", name="schema")
def registered_versions_fit(store: StoreResource) -> dg.AssetCheckResult:
    """Every recipe's registered versions are the row of its base, if it has one, and the trained one, in the rollout's
    columns."""
    handoffs, wrong = store.handoffs(), {}
    keys = handoffs.partitions("registered_version")
    for key in keys:
        try:
            table = handoffs.open("registered_version", key).table()
            check_schema("model_versions", table)
            # A base may be a trained version itself; a picture model has none.
            if (kinds := table["kind"].to_pylist())[-1:] != ["trained"] or len(kinds) > 2:
                wrong[key] = f"rows are of kind {kinds}, wanted the base's, if it has one, and trained"
        except (HandoffCorrupt, InvalidInput) as error:
            wrong[key] = str(error)
    return findings_result(len(keys), wrong)


_made = rollout_checks(SITE)
journals_are_whole = _made["journals_are_whole"]
has_a_version_set = _made["has_a_version_set"]
gate_verdicts = _made["gate_verdicts"]
aliases_follow_the_journals = _made["aliases_follow_the_journals"]
