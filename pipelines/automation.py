"""What follows by itself when its inputs change, and what waits to be told.

Conditions rest on changed *data versions*: `eager()` would ask for everything downstream of a materialization even when
its bytes are the same. Training and the first asset of a stage have no condition: a late corpus shard re-trains only
when told, the night's prompts come from the schedule, generation from the campaign sensor, rollout from its own sensor.
"""

import datetime
from collections.abc import Iterable

import dagster as dg

from resources.settings import settings_from_environment

# A night's follow-ups are decided within seconds; a tick over this project's graph costs about 0.1 CPU s.
TICK_SECONDS = 5
# Yesterday's partitions may still be under way after midnight; older days are only made when told.
LOOKBACK_DAYS = 3

# Made in the run that makes their inputs: a changed shard is prepared to its end in one run.
IN_ONE_RUN = ("clean_documents", "labels", "training_examples", "cards")
FOLLOWERS = (
    *IN_ONE_RUN,
    "evaluation",
    "registered_version",
    "reviewed_content",
    "campaign_report",
)


def on_changed_inputs(*, with_requested_inputs: bool = False) -> dg.AutomationCondition:
    """Request a partition that is missing, or one of whose inputs has a new data version, once all inputs are there.

    A dependency that was updated by a run which makes this asset as well is no reason to ask again.

    Args:
        with_requested_inputs: an input that is missing but requested in the same tick counts as there; Dagster then
            makes both in one run. Not across stages: one run a stage and partition.
    """
    condition = dg.AutomationCondition
    changed = condition.any_deps_match(condition.data_version_changed() & ~condition.executed_with_root_target())
    missing = condition.any_deps_missing() if with_requested_inputs else condition.any_deps_match(condition.missing())
    return (
        condition.in_latest_time_window(datetime.timedelta(days=LOOKBACK_DAYS))
        & (condition.newly_missing() | changed).since_last_handled()
        & ~missing
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("on changed inputs")


def with_conditions(assets: Iterable[object]) -> list[dg.AssetsDefinition]:
    """The same assets, each follower with its condition."""

    def conditioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name not in FOLLOWERS:
            return spec
        condition = on_changed_inputs(with_requested_inputs=name in IN_ONE_RUN)
        return spec.replace_attributes(automation_condition=condition)

    return [each.map_asset_specs(conditioned) for each in assets if isinstance(each, dg.AssetsDefinition)]


def running_when_automated() -> tuple[dg.DefaultSensorStatus, dg.DefaultScheduleStatus]:
    """Running from the start with HEADRACE_AUTOMATION=on; on a developer's machine they wait for a click."""
    if settings_from_environment().automation:
        return dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING
    return dg.DefaultSensorStatus.STOPPED, dg.DefaultScheduleStatus.STOPPED


follow_changed_inputs = dg.AutomationConditionSensorDefinition(
    name="follow_changed_inputs",
    description="Requests what follows from changed inputs: preparation, evaluation, registration, review, report.",
    target=dg.AssetSelection.assets(*FOLLOWERS),
    minimum_interval_seconds=TICK_SECONDS,
    default_status=running_when_automated()[0],
    # One run a partition: a run's demand is then one number, and a failed partition is redone alone.
    emit_backfills=False,
    run_tags={"headrace/requested_by": "follow_changed_inputs"},
)
