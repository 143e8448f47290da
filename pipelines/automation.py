"""Which assets follow automatically when their inputs change, and which wait for a request.

Conditions depend on changed *data versions*: `eager()` would request everything downstream of a materialization even if
its bytes are the same. Training and the first asset of a stage have no condition: a late corpus shard re-trains only on
request, the schedule requests the night's prompts, the campaign sensor generation, and the rollout's own sensor the
rollout.
"""

import datetime
from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets.partitions import COMPARES_SHARDS, MAKES_PICTURE_EXAMPLES, SEMANTIC_DUPLICATES
from headrace.placement.demand import REQUESTED_BY
from headrace_dagster.assets.generation import MEDIA_ASSETS
from resources.settings import settings_from_environment

# A night's follow-ups are decided within seconds; a tick over this project's graph costs about 0.1 CPU s.
TICK_SECONDS = 5
# Yesterday's partitions may still be in progress after midnight; older days are only made on request.
LOOKBACK_DAYS = 3

# Made in the run that makes their inputs, so one run prepares a changed shard completely; or, where shards are compared
# with each other, up to what is compared, and then from it on.
_AFTER_LABELS = ("document_signatures",) if COMPARES_SHARDS else ("clean_documents",)
IN_ONE_RUN = (*(() if SEMANTIC_DUPLICATES else _AFTER_LABELS), "labels", "training_examples")
# Vectors are made in runs of their own, for which what needs them waits.
_EMBEDDED = ("document_embeddings", *_AFTER_LABELS) if SEMANTIC_DUPLICATES else ()
# Made of other partitions than their inputs, in other runs.
_COMPARED = ("duplicates", "clean_documents") if COMPARES_SHARDS else ()
# A changed shard alone is no reason: its documents are cleaned once its copies are found.
_AFTER = {"clean_documents": dg.AssetSelection.assets("duplicates")} if COMPARES_SHARDS else {}
if SEMANTIC_DUPLICATES:
    # Nor can its copies be found before its documents have their vectors.
    _FINDING = ("document_signatures", "duplicates") if COMPARES_SHARDS else ("clean_documents",)
    _AFTER |= dict.fromkeys(_FINDING, dg.AssetSelection.assets("document_embeddings"))
# A corpus that one run can compare has none; without them that run does their work.
_NOT_WAITED_FOR = dg.AssetSelection.assets("document_signatures", "duplicate_buckets")
# Most campaigns make none; rows that have any are published with the last of them.
_PARTS = dg.AssetSelection.assets(*MEDIA_ASSETS)
# Made of rows with all their parts, in one run.
OF_ROWS = ("reviewed_content", "clips")
# A recipe reads one of them.
_EXAMPLES = dg.AssetSelection.assets("training_examples", "picture_examples", "preference_pairs")
_IF_THERE = dict.fromkeys(OF_ROWS, _PARTS) | {"evaluation": _EXAMPLES}
# A campaign that nobody generates on a day, or whose file is gone, must not keep the others' report waiting.
OF_WHAT_IS_THERE = ("campaign_report",)
FOLLOWERS = (
    *IN_ONE_RUN,
    *_EMBEDDED,
    *_COMPARED,
    "evaluation",
    "registered_version",
    *OF_ROWS,
    "campaign_report",
    "image_verdicts",
    "clean_images",
    *(("picture_examples",) if MAKES_PICTURE_EXAMPLES else ()),
)


def on_changed_inputs(
    *,
    with_requested_inputs: bool = False,
    without_idle_inputs: bool = False,
    without: dg.AssetSelection | None = None,
    if_there: dg.AssetSelection | None = None,
    after: dg.AssetSelection | None = None,
) -> dg.AutomationCondition:
    """Requests a partition that is missing, or has an input with a new data version, once all inputs exist.

    A dependency that was updated by a run which also makes this asset is no reason to request it again.

    Args:
        with_requested_inputs: a missing input that is requested in the same tick counts as existing; Dagster then makes
            both in one run. Not across stages: one run for each stage and partition.
        without_idle_inputs: inputs that nobody has begun are not waited for, if there are others: those whose own
            inputs are missing, too, and not being made.
        without: inputs that are neither waited for nor reasons.
        if_there: inputs that are reasons, but not waited for.
        after: the inputs that are made last, of others of them; only that they were made is a reason.
    """
    condition = dg.AutomationCondition

    def any_input(matching: dg.AutomationCondition, *leaving_out: dg.AssetSelection | None) -> Any:
        found: Any = condition.any_deps_match(matching)
        for left_out in (without, *leaving_out):
            found = found.ignore(left_out) if left_out else found
        return found

    changed = any_input(condition.data_version_changed() & ~condition.executed_with_root_target())
    if after:
        changed = any_input(condition.newly_updated()).allow(after)
    missing = condition.any_deps_missing() if with_requested_inputs else any_input(condition.missing(), if_there)
    if without_idle_inputs:
        is_begun = condition.any_deps_in_progress() | ~condition.any_deps_match(condition.missing())
        has_none = ~condition.any_deps_match(~condition.missing())
        missing = condition.any_deps_match(condition.missing() & is_begun) | has_none
    return (
        condition.in_latest_time_window(datetime.timedelta(days=LOOKBACK_DAYS))
        & (condition.newly_missing() | changed).since_last_handled()
        & ~missing
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("on changed inputs")


def with_conditions(assets: Iterable[object]) -> list[dg.AssetsDefinition]:
    """The same assets, with conditions on those that follow."""

    def conditioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name not in FOLLOWERS:
            return spec
        condition = on_changed_inputs(
            with_requested_inputs=name in IN_ONE_RUN,
            without_idle_inputs=name in OF_WHAT_IS_THERE,
            without=_NOT_WAITED_FOR if name == "duplicates" else None,
            if_there=_IF_THERE.get(name),
            after=_AFTER.get(name),
        )
        return spec.replace_attributes(automation_condition=condition)

    return [each.map_asset_specs(conditioned) for each in assets if isinstance(each, dg.AssetsDefinition)]


def running_when_automated() -> tuple[dg.DefaultSensorStatus, dg.DefaultScheduleStatus]:
    """Running from the start with HEADRACE_AUTOMATION=on; on a developer's machine they wait for a click."""
    if settings_from_environment().automation:
        return dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING
    return dg.DefaultSensorStatus.STOPPED, dg.DefaultScheduleStatus.STOPPED


follow_changed_inputs = dg.AutomationConditionSensorDefinition(
    name="follow_changed_inputs",
    description=(
        "Requests what follows from changed inputs: preparation, evaluation, registration, review, films, report."
    ),
    target=dg.AssetSelection.assets(*FOLLOWERS),
    minimum_interval_seconds=TICK_SECONDS,
    default_status=running_when_automated()[0],
    # One run a partition: then a run's demand is one number, and a failed partition is repeated alone.
    emit_backfills=False,
    run_tags={REQUESTED_BY: "follow_changed_inputs"},
)
