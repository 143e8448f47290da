"""Watches the store and requests runs: partition keys, rollout ticks, generation, mirrors, rollbacks, alerts.

Each sensor decides by the store and by runs under way, never by what it did before, so a repeated, lost or late tick
requests the same. A run key names the decision that starts the run, so one decision starts one run, even if that run
fails for good. Rollouts are the exception: a rollback must not be lost with its run.

What asks for runs of sealed windows is in `pipelines.window_sensor`.
"""

import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.file_checks import file_findings
from assets.partitions import days
from headrace.clock import SystemClock
from headrace.errors import reason_of
from headrace.generation.mirroring import partitions_to_mirror
from headrace.generation.rolled_back import aborted_sets, partitions_to_regenerate, sets_digest
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import digest_text
from headrace.placement.demand import REASON
from headrace.registry.bases import has_unregistered_bases
from headrace.registry.model_versions import ModelVersion
from headrace.registry.registered import registered_models
from headrace.rollout.controller import next_action
from headrace.rollout.journal import Journal
from headrace.rollout.states import fold
from headrace.rollout.subject import Subject
from headrace.rollout.ticking import Rollout
from headrace.serving.service import Service, load_services
from headrace.store.small_objects import PassedOver
from headrace.user_files.directory import Described
from headrace.voice.mirroring import hours_to_mirror
from headrace_dagster.partition_keys import unknown_keys
from headrace_dagster.resources.campaigns import campaigns_resource
from headrace_dagster.resources.rollouts import rollouts_resource
from pipelines.alerts import post_alert
from pipelines.automation import LOOKBACK_DAYS, TICK_SECONDS, running_when_automated
from pipelines.generation_requests import day_requests, window_requests
from pipelines.jobs import ASSETS_OF_JOB, GENERATION_WITH_MEDIA, JOBS, REGENERATION
from pipelines.ticks import RunsUnderWay, tick_result, warn
from pipelines.window_sensor import sealed_windows
from resources.partition_keys import keys_of_files
from resources.settings import settings_from_environment
from resources.user_files import file_problems

# How often a rollout run is requested again if it has not recorded its decision: the registry refused it, or it died.
ASK_AGAIN_SECONDS = 600
# How often all partitions are examined again after a rollback with nothing left to do.
LOOK_AGAIN_SECONDS = 3600


# Runs in development too: without its keys, no click could materialize a model or campaign.
@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def partition_keys(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Adds the keys of each new recipe, campaign and service file; keys of deleted files stay, for their history.

    Reports broken files as failed checks of the assets that read them, whenever that changes.
    """
    settings = settings_from_environment()
    found = rollouts_resource(settings).subjects(HandoffStore(settings.open_store()))
    by_kind = file_problems(settings)
    problems = list(dict.fromkeys([*found.problems, *itertools.chain.from_iterable(by_kind.values())]))
    warn(context, problems)
    new = unknown_keys(context.instance, keys_of_files(settings))
    requests = [dg.DynamicPartitionsDefinition(name=name).build_add_request(keys) for name, keys in new.items()]
    seen = digest_text("files", *problems)
    findings = file_findings(by_kind) if seen != context.cursor else []
    result = dg.SensorResult(dynamic_partitions_requests=requests, asset_events=findings, cursor=seen)
    reason = "; ".join(problems) or "Every recipe, campaign and service file has its partition keys."
    return result if requests else result._replace(skip_reason=dg.SkipReason(reason))


@dg.sensor(job=JOBS["roll_out"], minimum_interval_seconds=TICK_SECONDS, default_status=running_when_automated()[0])
def rollout_ticks(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Requests a rollout run for each journal with something to decide: a new model, a verdict.

    A file or journal that cannot be read stops only its own rollout.
    """
    settings = settings_from_environment()
    handoffs = HandoffStore(settings.open_store())
    passed_over = PassedOver()
    models = registered_models(handoffs, damaged=passed_over)
    requests: list[dg.RunRequest] = []
    under_way = RunsUnderWay(context)
    rollouts = rollouts_resource(settings)
    found = rollouts.subjects(handoffs)
    problems, reasons = [*found.problems, *passed_over.sentences], []
    for name, subject in found.by_name.items():
        try:
            wanted = _rollout_request(under_way, subject, handoffs, models)
        except Exception as error:  # noqa: BLE001 (whatever its files and objects hold, it is this rollout's alone)
            problems.append(f"{name}: {reason_of(error)}")
            continue
        if isinstance(wanted, str):
            reasons.append(f"{name}: {wanted}")
        else:
            requests.append(wanted)
    warn(context, problems)
    return tick_result(context, requests, [*problems, *reasons])


def _rollout_request(
    under_way: RunsUnderWay,
    subject: Subject,
    handoffs: HandoffStore,
    models: Sequence[ModelVersion],
) -> dg.RunRequest | str:
    """The run that a rollout needs now, or why it needs none."""
    rollout = Rollout(handoffs.objects, subject.name, SystemClock())
    state = rollout.state()
    is_new = has_unregistered_bases(handoffs, subject.name, subject.roles, settings_from_environment().home)
    action = next_action(state, subject.plan, rollout.facts(subject, models))
    if action.kind == "none" and not is_new:
        return action.reason
    if under_way.make(("rollout",), subject.name):
        return "a rollout run is under way."
    head = state.head if state else 0
    # By head and decision: a new fact at the same head (another model or verdict) gives another key. By time: a run
    # that died, or could not reach the store, has recorded nothing, and its decision needs a new key.
    version_set, again = action.fields.get("version_set", "")[:12], int(time.time() // ASK_AGAIN_SECONDS)
    return dg.RunRequest(
        run_key=f"{subject.name}:{head}:{action.kind}:{version_set}:{again}", partition_key=subject.name
    )


@dg.sensor(
    jobs=[JOBS["generate"], GENERATION_WITH_MEDIA, JOBS["paint"], JOBS["speak"]],
    minimum_interval_seconds=TICK_SECONDS,
    default_status=running_when_automated()[0],
)
def campaign_generation(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Starts generation of partitions that have prompts: first canaries, and the rest after their verdict.

    Windows of an inbox start in the order of their classes and turns, so that at most 16 a campaign wait in the queue.
    """
    settings = settings_from_environment()
    objects = settings.open_store()
    handoffs = HandoffStore(objects)
    recent = days.get_partition_keys()[-LOOKBACK_DAYS:]
    requests: list[dg.RunRequest] = []
    campaigns = campaigns_resource(settings).campaigns()
    reasons = list(campaigns.problems)
    warn(context, reasons)
    under_way = RunsUnderWay(context)
    for campaign in campaigns:
        state = fold(Journal(objects, campaign.name, SystemClock()).entries())
        if campaign.takes_events:
            wanted, hold_reason = window_requests(under_way, handoffs, campaign, state)
            requests += wanted
            reasons += [f"{campaign.name}: {hold_reason}"] if hold_reason else []
            continue
        for day in recent:
            wanted, hold_reason = day_requests(under_way, handoffs, campaign, state, day)
            requests += wanted
            if hold_reason:
                reasons.append(f"{campaign.name} {day}: {hold_reason}")
    return tick_result(context, requests, reasons)


@dg.sensor(
    jobs=[JOBS["mirror"], JOBS["mirror_calls"]],
    minimum_interval_seconds=30,
    default_status=running_when_automated()[0],
)
def candidate_mirrors(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Mirrors the stable set's newest partitions on a proposed set or one on trial, as many as the plan says.

    Of services those are hours of recorded calls.
    """
    settings = settings_from_environment()
    objects = settings.open_store()
    requests: list[dg.RunRequest] = []
    campaigns = campaigns_resource(settings).campaigns()
    warn(context, campaigns.problems)
    for campaign in campaigns:
        if campaign.plan.mirror_partitions == 0:
            continue
        state = fold(Journal(objects, campaign.name, SystemClock()).entries())
        found = partitions_to_mirror(HandoffStore(objects), campaign, state, days.get_partition_keys())
        requests += [_mirror("mirror", one.partition, one.version_set, one.published) for one in found]
    of_calls, problems = _call_mirrors(HandoffStore(objects), load_services(settings.services))
    warn(context, problems)
    reasons = [*campaigns.problems, *problems, "No plan asks for a mirror that is not made."]
    return tick_result(context, [*requests, *of_calls], reasons)


def _mirror(job: str, partition: str, version_set: str, content: str) -> dg.RunRequest:
    """Args: content: digest of what is mirrored."""
    # By its id, since another set may be the candidate when the run starts.
    (asset,) = ASSETS_OF_JOB[job]
    return dg.RunRequest(
        run_key=f"{partition}:mirror:{version_set[:16]}:{content[:16]}",
        partition_key=partition,
        job_name=JOBS[job].name,
        run_config=dg.RunConfig(ops={asset: {"config": {"version_set": version_set}}}),
    )


def _call_mirrors(handoffs: HandoffStore, services: Described[Service]) -> tuple[list[dg.RunRequest], list[str]]:
    """The hours of services' calls to mirror, and what could not be read. A broken file costs its own service alone."""
    requests, passed_over = list[dg.RunRequest](), PassedOver()
    for service in services:
        num = service.plan.mirror_partitions
        if num == 0:
            continue
        state = fold(Journal(handoffs.objects, service.name, SystemClock()).entries())
        found = hours_to_mirror(handoffs, service.name, state, num=num, damaged=passed_over)
        requests += [_mirror("mirror_calls", one.partition, one.version_set, one.calls) for one in found]
    return requests, passed_over.sentences


@dg.sensor(
    jobs=[JOBS["list_rolled_back"], REGENERATION],
    minimum_interval_seconds=30,
    default_status=running_when_automated()[0],
)
def after_rollbacks(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """After a rollback requests the list of the set's rows, then exactly their partitions again, then a new list.

    Examines all days. The cursor only avoids that while nothing is wrong.
    """
    settings = settings_from_environment()
    objects = settings.open_store()
    seen: dict[str, list[Any]] = json.loads(context.cursor or "{}")
    requests: list[dg.RunRequest] = []
    campaigns = campaigns_resource(settings).campaigns()
    warn(context, campaigns.problems)
    for campaign in campaigns:
        aborted = aborted_sets(fold(Journal(objects, campaign.name, SystemClock()).entries()))
        digest = sets_digest(aborted)
        known, clean_at = seen.get(campaign.name, ["", 0.0])
        if not aborted or (known == digest and time.time() - clean_at < LOOK_AGAIN_SECONDS):
            continue
        bad = partitions_to_regenerate(HandoffStore(objects), aborted, campaign=campaign.name)
        requests += _rollback_requests(campaign.name, digest, bad)
        if not bad:
            seen[campaign.name] = [digest, time.time()]
    result = tick_result(context, requests, [*campaigns.problems, "No published row is of a set that was rolled back."])
    return result._replace(cursor=json.dumps(seen))


def _rollback_requests(campaign: str, digest: str, bad: dict[str, Handoff]) -> list[dg.RunRequest]:
    """The list first, since it names rows while the store still has their versions."""
    state = "open" if bad else "regenerated"
    requests = [
        dg.RunRequest(
            run_key=f"{campaign}:rolled-back:{digest[:16]}:{state}",
            job_name=JOBS["list_rolled_back"].name,
            partition_key=campaign,
        )
    ]
    for key, content in bad.items():
        version_set = content.attributes["version_set"]
        again = dg.RunRequest(
            run_key=f"{key}:after-rollback:{version_set[:16]}:v{content.version}",
            job_name=REGENERATION.name,
            partition_key=key,
            run_config=dg.RunConfig(ops={"generated_content": {"config": {"regenerate": "rolled_back"}}}),
            tags={REASON: f"version set {version_set[:12]} was rolled back"},
        )
        requests.append(again)
    return requests


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


SENSORS = [
    partition_keys,
    rollout_ticks,
    sealed_windows,
    campaign_generation,
    candidate_mirrors,
    after_rollbacks,
    failed_runs_alert,
]
