"""Which runs of generation a campaign's day, or its inbox, asks for: shared by the sensors that request them."""

import itertools
import time
from collections.abc import Iterable, Mapping

import dagster as dg

from headrace.clock import SystemClock, epoch_seconds
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import inputs_digest
from headrace.generation.claims import Claims
from headrace.generation.dispatch import dispatch
from headrace.generation.under_way import claims_under_way, makes_media, unmade_kinds
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.made import begun_windows, made_windows
from headrace.inbox.sealed import SealedWindow
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState
from headrace.version_sets.media_settings import MemberKind
from headrace_dagster.assets.generation import MEDIA_ASSETS
from pipelines.jobs import ASSETS_OF_JOB, WITH_MEDIA
from pipelines.ticks import RunsUnderWay
from pipelines.window_order import class_tags, known_windows, run_key_of, turn_of

# Kind of part → the job that makes it of texts that are there.
_LATER_JOBS: dict[MemberKind, str] = {"image": "paint", "speech": "speak"}
# What one sensor requests in a tick: Dagster submits a run in some 30 ms, and a tick that lasts keeps its daemon.
REQUESTS_MAX = 100
# Runs of windows that wait in Dagster's queue, a campaign: enough for every place that becomes free until the next
# tick. The others wait in the store, where a window of another tenant can pass them.
QUEUED_MAX = 16
_MAKING = ("generated_content", *MEDIA_ASSETS)


def day_requests(
    under_way: RunsUnderWay, handoffs: HandoffStore, campaign: Campaign, state: RolloutState | None, day: str
) -> tuple[list[dg.RunRequest], str | None]:
    keys = campaign.partition_keys(day)
    prompts = {key: handoff for key in keys if (handoff := handoffs.newest("prompts", key))}
    if not prompts:
        return [], None
    claims = Claims(
        objects=handoffs.objects,
        journal=Journal(handoffs.objects, campaign.name, SystemClock()),
        clock=SystemClock(),
    )
    sealed = {key: handoff for key in keys if (handoff := handoffs.newest("generated_content", key))}
    in_flight = {key for key in prompts if key not in sealed and under_way.make(_MAKING, key)}
    later = _later_steps(under_way, handoffs, campaign, prompts)
    in_flight |= {str(request.partition_key) for request in later}
    ready = dispatch(
        keys,
        state=state,
        plan=campaign.plan,
        sealed={key: handoff.attributes.get("version_set", "") for key, handoff in sealed.items()},
        # Without prompts a partition cannot start, but it counts towards the canaries' share.
        in_flight={*in_flight, *(key for key in keys if key not in prompts and key not in sealed)},
        now=time.time(),
        day_started_at=min(epoch_seconds(handoff.manifest.created_at) for handoff in prompts.values()),
        places=claims.places(state, keys),
    )
    requests = _starts(handoffs, campaign, state, {key: prompts[key] for key in ready.start})
    return [*later, *requests], ready.hold_reason


def window_requests(
    under_way: RunsUnderWay, handoffs: HandoffStore, campaign: Campaign, state: RolloutState | None
) -> tuple[list[dg.RunRequest], str | None]:
    """The windows with prompts and no rows, of any day; as many as let `QUEUED_MAX` wait in Dagster's queue.

    Those with live events go first, then flex, then batch; among equals in the order of their turns, so that tenants
    have fair shares. What is in the queue is not passed by, so little is put there. None waits for a verdict on a
    candidate: more come all the time, and a window's rank decides its set. What was requested and failed for good is
    left out, since Dagster looks for each run key by itself.
    """
    begun = begun_windows(handoffs.objects, campaign.name)
    made = made_windows(handoffs, campaign.name) if begun else {}
    waiting = [key for key in begun if key not in made]
    if not waiting:
        return [], None
    if state is None:
        said = "1 sealed window waits" if len(waiting) == 1 else f"{len(waiting):,} sealed windows wait"
        return [], f"{said}: nothing is rolled out yet"
    under_attempts = claims_under_way(handoffs.objects, campaign.name) if campaign.apart is not None else {}
    later = _later_steps(under_way, handoffs, campaign, _sealed_prompts(handoffs, under_attempts.keys() & {*waiting}))
    in_flight = {str(request.partition_key) for request in later}
    sealed = known_windows(handoffs.objects, {key: begun[key] for key in waiting})
    by_turn = sorted(waiting, key=lambda key: turn_of(sealed.get(key)))
    idle = (key for key in by_turn if key not in in_flight and not under_way.make(_MAKING, key))
    new: list[dg.RunRequest] = []
    room = QUEUED_MAX - under_way.num_queued(_MAKING, waiting)
    while room > 0 and (keys := list(itertools.islice(idle, room))):
        starts = _starts(handoffs, campaign, state, _sealed_prompts(handoffs, keys), sealed)
        new += under_way.without_asked(starts)
        if len(new) >= room:
            break
    return [*later, *new[: max(room, 0)]], None


def _sealed_prompts(handoffs: HandoffStore, keys: Iterable[str]) -> dict[str, Handoff]:
    return {key: found for key in keys if (found := handoffs.newest("prompts", key))}


def _starts(
    handoffs: HandoffStore,
    campaign: Campaign,
    state: RolloutState | None,
    prompts: Mapping[str, Handoff],
    sealed: Mapping[str, SealedWindow] | None = None,
) -> list[dg.RunRequest]:
    """A run for each partition of these prompts: of its texts, or with its media where one run makes both.

    Args: sealed: of partitions that are windows, the windows. What the campaign's file asks for goes before their tags.
    """
    begun = claims_under_way(handoffs.objects, campaign.name) if prompts and campaign.apart is None else {}
    return [
        dg.RunRequest(
            run_key=run_key_of(f"{key}:{inputs_digest(one)[:16]}", (sealed or {}).get(key)),
            partition_key=key,
            tags={**class_tags((sealed or {}).get(key)), **campaign.tags_apart("text")},
            job_name=WITH_MEDIA.name
            if campaign.apart is None and makes_media(handoffs.objects, campaign, state, begun.get(key))
            else "generate",
        )
        for key, one in prompts.items()
    ]


def _later_steps(
    under_way: RunsUnderWay, handoffs: HandoffStore, campaign: Campaign, prompts: Mapping[str, Handoff]
) -> list[dg.RunRequest]:
    """Where the campaign wants its steps apart: runs of what attempts lack whose texts are made."""
    if campaign.apart is None:
        return []
    begun = claims_under_way(handoffs.objects, campaign.name)
    requests: list[dg.RunRequest] = []
    for key in begun.keys() & prompts.keys():
        num_rows = prompts[key].num_rows * campaign.prompts.variations
        for kind in unmade_kinds(handoffs.objects, begun[key], num_rows):
            job = _LATER_JOBS.get(kind)
            if job is None or under_way.make((*ASSETS_OF_JOB[job], *ASSETS_OF_JOB["generate"]), key):
                continue
            run_key = f"{begun[key].id}:{kind}"
            requests.append(
                dg.RunRequest(run_key=run_key, partition_key=key, job_name=job, tags=campaign.tags_apart(kind))
            )
    return requests
