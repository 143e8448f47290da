"""What watches the store and asks for runs: partition keys, rollout ticks, the night's generation, alerts.

Each sensor decides from the store and from runs under way, never from what it did before: a tick that is repeated, lost
or late asks for the same. What a decision starts is asked for under a run key that names the decision, so one decision
starts one run, even if that run fails for good.
"""

import time
from functools import partial

import dagster as dg

from assets.partitions import days
from headrace.clock import SystemClock, epoch_seconds
from headrace.generation.campaign import Campaign
from headrace.generation.claims import inputs_digest
from headrace.generation.dispatch import dispatch
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, from_table
from headrace.rollout.controller import desired_set, next_action
from headrace.rollout.evidence import review_counts
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.training.recipe import load_recipes
from pipelines.alerts import post_alert
from pipelines.automation import LOOKBACK_DAYS, TICK_SECONDS, running_when_automated
from pipelines.jobs import JOBS, run_assets
from resources.campaigns_resource import campaigns_resource
from resources.settings import settings_from_environment

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


# Runs in development too: without its keys, no model or campaign could be materialized by a click.
@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def partition_keys(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Adds a key for each new recipe and campaign file; keys whose file went stay, for their history."""
    settings = settings_from_environment()
    wanted = {
        "model_recipe": list(load_recipes(settings.recipes)),
        "campaign": [campaign.name for campaign in campaigns_resource(settings).campaigns()],
    }
    requests = []
    for name, keys in wanted.items():
        new = sorted(set(keys) - set(context.instance.get_dynamic_partitions(name)))
        if new:
            requests.append(dg.DynamicPartitionsDefinition(name=name).build_add_request(new))
    if not requests:
        return dg.SkipReason("Every recipe and campaign file has its partition key.")
    return dg.SensorResult(dynamic_partitions_requests=requests)


@dg.sensor(job=JOBS["roll_out"], minimum_interval_seconds=TICK_SECONDS, default_status=running_when_automated()[0])
def rollout_ticks(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for a rollout run wherever the journal has something to decide: a new model, a verdict."""
    settings = settings_from_environment()
    objects = settings.open_store()
    handoffs = HandoffStore(objects)
    models = registered_models(handoffs)
    requests: list[dg.RunRequest] = []
    reasons: list[str] = []
    for campaign in campaigns_resource(settings).campaigns():
        state = fold(Journal(objects, campaign.name, SystemClock()).entries())
        action = next_action(
            state,
            campaign.plan,
            model_name=campaign.model,
            models=models,
            desired=partial(desired_set, campaign),
            # Counted only while a candidate is on trial: the count reads every reviewed partition of some weeks.
            reviews=review_counts(handoffs, campaign.name, num_days=campaign.plan.evidence_days)
            if state and state.candidate
            else {},
        )
        if action.kind == "none":
            reasons.append(f"{campaign.name}: {action.reason}")
        elif _under_way(context.instance, "rollout", campaign.name):
            reasons.append(f"{campaign.name}: a rollout run is under way.")
        else:
            head = state.head if state else 0
            # By head and decision: a new fact at the same head (another model, another verdict) is another key.
            subject = action.fields.get("version_set", "")[:12]
            key = f"{campaign.name}:{head}:{action.kind}:{subject}"
            requests.append(dg.RunRequest(run_key=key, partition_key=campaign.name))
    return _result(requests, reasons)


@dg.sensor(job=JOBS["generate"], minimum_interval_seconds=TICK_SECONDS, default_status=running_when_automated()[0])
def campaign_generation(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Starts generation of the partitions whose prompts are there: canaries first, the rest after their verdict.

    A sealed partition whose version set was rolled back since is made again on the stable set.
    """
    settings = settings_from_environment()
    objects = settings.open_store()
    handoffs = HandoffStore(objects)
    recent = days.get_partition_keys()[-LOOKBACK_DAYS:]
    requests: list[dg.RunRequest] = []
    reasons: list[str] = []
    for campaign in campaigns_resource(settings).campaigns():
        state = fold(Journal(objects, campaign.name, SystemClock()).entries())
        for day in recent:
            wanted, hold_reason = _day_requests(context.instance, handoffs, campaign, state, day)
            requests += wanted
            if hold_reason:
                reasons.append(f"{campaign.name} {day}: {hold_reason}")
    return _result(requests, reasons)


def _day_requests(
    instance: dg.DagsterInstance, handoffs: HandoffStore, campaign: Campaign, state: RolloutState | None, day: str
) -> tuple[list[dg.RunRequest], str | None]:
    keys = campaign.partition_keys(day)
    prompts = {key: handoff for key in keys if (handoff := handoffs.newest("prompts", key))}
    if not prompts:
        return [], None
    sealed = {key: handoff for key in keys if (handoff := handoffs.newest("generated_content", key))}
    in_flight = {key for key in prompts if key not in sealed and _under_way(instance, "generated_content", key)}
    ready = dispatch(
        keys,
        state=state,
        plan=campaign.plan,
        sealed={key: handoff.attributes.get("version_set", "") for key, handoff in sealed.items()},
        # Without prompts a partition cannot start, but counts towards the canaries' share all the same.
        in_flight={*in_flight, *(key for key in keys if key not in prompts and key not in sealed)},
        now=time.time(),
        day_started_at=min(epoch_seconds(handoff.manifest.created_at) for handoff in prompts.values()),
    )
    requests = [
        dg.RunRequest(run_key=f"{key}:{inputs_digest(prompts[key])[:16]}", partition_key=key) for key in ready.start
    ]
    for key, handoff in sealed.items():
        version_set = handoff.attributes.get("version_set", "")
        if state and version_set in state.aborted:
            again = dg.RunRequest(
                run_key=f"{key}:after-rollback:{version_set[:16]}",
                partition_key=key,
                run_config=dg.RunConfig(ops={"generated_content": {"config": {"regenerate": "current_set"}}}),
                tags={"headrace/reason": f"version set {version_set[:12]} was rolled back"},
            )
            requests.append(again)
    return requests, ready.hold_reason


def _result(requests: list[dg.RunRequest], reasons: list[str]) -> dg.SensorResult:
    """Dagster shows a reason only for a tick that asks for nothing."""
    reason = dg.SkipReason("; ".join(reasons) or "Nothing to do.")
    return dg.SensorResult(run_requests=requests) if requests else dg.SensorResult(skip_reason=reason)


def registered_models(handoffs: HandoffStore) -> list[ModelVersion]:
    """Every registered version, from sealed registrations: a rollout is decided without MLflow."""
    found = []
    for key in handoffs.partitions("registered_version"):
        newest = handoffs.newest("registered_version", key)
        found += from_table(newest.table()) if newest else []
    return found


def _under_way(instance: dg.DagsterInstance, asset: str, partition: str) -> bool:
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY, tags={"dagster/partition": partition}))
    return any(asset in run_assets(run) for run in runs)


@dg.run_failure_sensor(
    minimum_interval_seconds=30, default_status=running_when_automated()[0], monitor_all_code_locations=False
)
def failed_runs_alert(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Posts failed runs to HEADRACE_ALERT_WEBHOOK, once each; a run that Dagster retries is not reported."""
    webhook = settings_from_environment().alert_webhook
    if webhook is None:
        return dg.SkipReason("HEADRACE_ALERT_WEBHOOK is not set.")
    run = context.dagster_run
    if run.tags.get("dagster/will_retry") == "true":
        return dg.SkipReason("Dagster retries this run.")
    post_alert(
        webhook,
        run_id=run.run_id,
        job=run.job_name,
        partition=run.tags.get("dagster/partition"),
        error=context.failure_event.message or "no reason recorded",
    )
    return None


SENSORS = [partition_keys, rollout_ticks, campaign_generation, failed_runs_alert]
