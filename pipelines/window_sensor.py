"""Requests the prompts of sealed windows; reviews those whose day is over, and retires their keys.

The cursor holds, for each campaign, the number of the last window in its chain that was asked for, so a tick reads what
is new and nothing else. Dagster saves it together with the requests of its tick, before any of them becomes a run:
a tick that was killed before is evaluated again from the old cursor, and one that was killed after is submitted again
under the run ids that it had reserved. Should a window be asked for twice nevertheless (a cursor that somebody set
back), then under the same run key: its partition and the content of its events.

A key of a dynamic partition costs every tick of the automation, which lists it for every day since the first: 1,000
keys and 31 days are some 1.3 s a tick, 10,000 are 13 s and more, and 1.4 GB. So a window's key is deleted from Dagster
once its rows are reviewed and the automation does not look at its day any more. Keys times days are kept below 30,000:
beyond half of that the oldest reviewed keys are deleted at once, and while all of it is not reviewed, no further window
is asked for. Runs and events of a deleted key stay, as does everything in the store, and whoever asks for it again
registers it again.

A tick asks for no more than Dagster makes of it in some seconds, by how long its last ones took; the rest waits for the
next one. Windows of services' calls are put together by hours (`pipelines.call_hours`).
"""

import json
import math
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.partitions import campaign_shards, days
from headrace.clock import epoch_seconds
from headrace.errors import HandoffCorrupt, HandoffMissing
from headrace.generation.campaign import Campaign
from headrace.generation.window_prompts import content_partition
from headrace.handoff.manifests import newest_manifest
from headrace.handoff.row_tables import CONTENT, REVIEWED
from headrace.handoff.versions import HandoffStore
from headrace.inbox.made import begun_windows, made_windows
from headrace.inbox.sealed import windows_following
from headrace.keys import CAMPAIGN_SHARDS, ContentPartition, window_of_key
from headrace.serving.service import load_services
from headrace.store.objects import ObjectStore
from headrace_dagster.resources.campaigns import campaigns_resource
from pipelines.automation import LOOKBACK_DAYS, TICK_SECONDS, running_when_automated
from pipelines.call_hours import CallHours
from pipelines.generation_requests import REQUESTS_MAX
from pipelines.jobs import JOBS
from pipelines.ticks import RunsUnderWay, num_runs_in_time, tick_result, warn
from pipelines.window_order import class_tags, known_windows, run_key_of
from resources.settings import settings_from_environment

# How often windows of days that are over are looked at: that lists the campaigns' partitions.
LOOK_BACK_SECONDS = 60
# Windows' keys times days that the automation may list; see above. Few keys are always there, however old a project is.
PARTITIONS_MAX = 30_000
KEYS_MAX_MIN = 100
# Dagster deletes one key after the other, in some milliseconds each.
_RETIRED_MAX = 500


@dataclass(kw_only=True)
class _Tick:
    """What one tick asks for, and why it asks for nothing."""

    requests: list[dg.RunRequest] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)


@dg.sensor(
    jobs=[JOBS["list_prompts"], JOBS["review"], JOBS["seal_calls"]],
    minimum_interval_seconds=TICK_SECONDS,
    default_status=running_when_automated()[0],
)
def sealed_windows(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Requests prompts for each newly sealed window of a campaign that takes events, as many as a tick makes in time.

    Reviews windows of earlier days, and deletes the partition keys of those that are done. Requests each hour of a
    service's recorded calls, and what came late of it.
    """
    began = time.monotonic()
    settings = settings_from_environment()
    handoffs = HandoffStore(settings.open_store())
    cursor: dict[str, Any] = {"asked": {}, "next": "", "looked_at": 0.0, **json.loads(context.cursor or "{}")}
    described = campaigns_resource(settings).campaigns()
    campaigns = [one for one in described if one.takes_events]
    tick = _Tick(problems=[*described.problems])
    known = {key for key in context.instance.get_dynamic_partitions(CAMPAIGN_SHARDS) if window_of_key(key)}
    keys_max = max(KEYS_MAX_MIN, PARTITIONS_MAX // max(1, len(days.get_partition_keys())))
    if len(known) > keys_max // 2 or time.time() - cursor["looked_at"] >= LOOK_BACK_SECONDS:
        _look_back(tick, context, handoffs, campaigns, known, keys_max // 2)
        cursor["looked_at"] = time.time()
    room = keys_max - len(known) + len(tick.retired)
    if room <= 0:
        tick.reasons.append(f"{len(known):,} windows are not made and reviewed yet: no further one is asked for.")
    hours = CallHours(handoffs.objects, load_services(settings.services).by_name, RunsUnderWay(context))
    if of_calls := hours.look(cursor.get("calls", {}), now=time.time()):
        cursor["calls"] = of_calls
    is_asking = campaigns or hours.requests
    num_in_time = min(REQUESTS_MAX, num_runs_in_time(context, time.monotonic() - began)) if is_asking else 0
    # An hour is asked for again at the next tick. There are few, so windows wait for them, and not they for windows.
    of_hours = hours.requests[: math.ceil(num_in_time / 2)]
    if len(tick.requests) > num_in_time - len(of_hours):
        # The others are found again by the next tick.
        tick.requests, cursor["looked_at"] = tick.requests[: num_in_time - len(of_hours)], 0.0
    tick.requests = [*of_hours, *tick.requests]
    cursor["next"] = _ask_all(
        tick, handoffs.objects, campaigns, cursor["asked"], cursor["next"], min(num_in_time - len(tick.requests), room)
    )
    tick.problems += hours.problems
    tick.reasons += hours.reasons
    warn(context, tick.problems)
    reasons = tick.reasons or [
        "No window was sealed since the last tick." if campaigns else "No campaign takes events."
    ]
    result = tick_result(context, tick.requests, [*tick.problems, *reasons])
    if tick.retired:
        result = result._replace(dynamic_partitions_requests=[campaign_shards.build_delete_request(tick.retired)])
    return result._replace(cursor=json.dumps(cursor))


def _ask_all(
    tick: _Tick, objects: ObjectStore, campaigns: Sequence[Campaign], asked: dict[str, int], first: str, room: int
) -> str:
    """Shares `room` among the campaigns with new windows, beginning with `first`; returns who begins next time.

    Args: asked: campaign → the last window that was asked for; goes on.
    """
    at = next((number for number, campaign in enumerate(campaigns) if campaign.name == first), 0)
    in_turn = [*campaigns[at:], *campaigns[:at]]
    for number, campaign in enumerate(in_turn):
        if room <= 0:
            return campaign.name
        num_before = len(tick.requests)
        share = math.ceil(room / (len(in_turn) - number))
        asked[campaign.name] = _ask(tick, objects, campaign, asked.get(campaign.name, 0), share)
        room -= len(tick.requests) - num_before
    return first


def _ask(tick: _Tick, objects: ObjectStore, campaign: Campaign, seen: int, num_max: int) -> int:
    """Requests at most so many of the windows after `seen`; returns the last one that needs no further look."""
    first, last = days.get_first_partition_key() or "", days.get_last_partition_key() or ""
    windows, seen = windows_following(objects, campaign.name, seen)
    num_after = len(tick.requests) + num_max
    for _ in range(REQUESTS_MAX):
        try:
            window = next(windows, None) if len(tick.requests) < num_after else None
        except HandoffCorrupt as error:
            # Later windows wait for it, so that a campaign's windows stay in order.
            tick.problems.append(f"{campaign.name}: {error}")
            break
        if window is None:
            break
        partition = content_partition(window)
        if window.day > last:
            tick.reasons.append(f"{partition.key} waits for its day, which is tomorrow or later.")
            break
        if window.day < first:
            tick.problems.append(
                f"{partition.key}, with {window.num_events:,} events, is of a day before HEADRACE_FIRST_DAY ({first}), "
                "and no run can make it: set an earlier first day, and this sensor's cursor back to {}."
            )
        elif not (window.is_late and campaign.keeps_late):
            run_key = run_key_of(f"window:{partition.key}:{window.content[:16]}", window)
            request = dg.RunRequest(
                run_key=run_key,
                partition_key=partition.key,
                job_name=JOBS["list_prompts"].name,
                tags=class_tags(window),
            )
            tick.requests.append(request)
        seen = window.number
    return seen


def _look_back(
    tick: _Tick,
    context: dg.SensorEvaluationContext,
    handoffs: HandoffStore,
    campaigns: Sequence[Campaign],
    known: Collection[str],
    num_kept: int,
) -> None:
    """Requests reviews of days that the automation does not look at any more, and retires keys of what is done.

    Args:
        known: the windows' keys that Dagster has.
        num_kept: of more keys than these the oldest reviewed ones retire, whatever their day.
    """
    oldest = (days.get_partition_keys()[-LOOKBACK_DAYS:] or [""])[0]
    under_way = RunsUnderWay(context)
    asks = list[dg.RunRequest]()
    for campaign in campaigns:
        reviewed = begun_windows(handoffs.objects, campaign.name, REVIEWED)
        for key, part in made_windows(handoffs, campaign.name).items():
            is_over = part.day < oldest
            if is_over and key not in reviewed and not under_way.make((REVIEWED,), key):
                asks += _review(tick, handoffs, key, part)
            if part.campaign_shard not in known or len(tick.retired) >= _RETIRED_MAX:
                continue
            is_wanted_away = is_over or len(known) - len(tick.retired) > num_kept
            if is_wanted_away and _was_reviewed(handoffs, key) and not under_way.are_of(key):
                tick.retired.append(part.campaign_shard)
    tick.requests += under_way.without_asked(asks)


def _was_reviewed(handoffs: HandoffStore, key: str) -> bool:
    """Long enough ago for the automation to have seen it, and asked for the day's report."""
    with suppress(HandoffCorrupt):
        review = newest_manifest(handoffs.objects, REVIEWED, key)
        return review is not None and time.time() - epoch_seconds(review.created_at) >= LOOK_BACK_SECONDS
    return False


def _review(tick: _Tick, handoffs: HandoffStore, key: str, part: ContentPartition) -> list[dg.RunRequest]:
    try:
        content = handoffs.open(CONTENT, key)
    except (HandoffCorrupt, HandoffMissing) as error:
        tick.problems.append(str(error))
        return []
    window = known_windows(handoffs.objects, {key: part}).get(key)
    run_key = run_key_of(f"{key}:review:{content.content_digest[:16]}", window)
    return [dg.RunRequest(run_key=run_key, partition_key=key, job_name=JOBS["review"].name)]
