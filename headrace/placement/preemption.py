"""Chooses which runs are stopped for which: whole runs, the least work lost, and never in a circle.

It ends, because a run is stopped at most `preemptions_max` times, and each time for another run that then starts.
Before that, two runs cannot stop each other in turn: by age, a stopped run may only stop runs that started more than
`min_run_seconds` after its own stop, and the run that it was stopped for started earlier.

A run of one GPU or less that may itself be stopped is promised no place at first: mostly it fits wherever one of its
kind ends, and it may run in a place that drains for another. A promise to each of them would keep every gang waiting.
Once it has waited twice as long as it should, it is promised one, too.
"""

import math
from collections.abc import Sequence

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fleet import Fleet
from headrace.placement.ordering import goes_by_age_at, had_aged, has_aged
from headrace.placement.packing import best_placement
from headrace.placement.placements import Placement
from headrace.placement.queue_policy import Preempting, QueuePolicy
from headrace.placement.reservations import fewest, overlap
from headrace.placement.snapshot import Running, Waiting


def may_be_stopped(run: Running | Waiting, policy: QueuePolicy) -> bool:
    """Whether it may be stopped for any run."""
    return policy.preemption is not None and run.preemptible and run.num_preemptions < policy.preemption.preemptions_max


def needs_promise(run: Waiting, policy: QueuePolicy, now: float) -> bool:
    """Whether a place must be kept for an aged run, or others could pass it over."""
    return now >= needs_promise_from(run, policy)


def needs_promise_from(run: Waiting, policy: QueuePolicy) -> float:
    """Since when, once it has waited too long, in seconds since the epoch; -inf: at once."""
    if is_gang(run.demand) or not run.demand.num_gpus or not may_be_stopped(run, policy):
        return -math.inf
    return goes_by_age_at(run, policy) + policy.patience_of(run.demand) * run.fifo_wait_seconds


def is_gang(demand: Demand) -> bool:
    return demand.num_gpus > 1


def may_stop(victim: Running, run: Waiting, policy: QueuePolicy, now: float) -> bool:
    """Whether `victim` may be stopped for `run`, by priority or because it overtook it. Never true for ending runs."""
    if policy.preemption is None or victim.ending or not may_be_stopped(victim, policy):
        return False
    aged = has_aged(run, policy, now)
    if aged and needs_promise(run, policy, now) and is_fill(victim, run, policy):
        return True
    if now - victim.started < policy.preemption.min_run_seconds:
        return False
    if victim.priority < run.priority:
        return True
    if not aged:
        return False
    if is_gang(run.demand) and not is_gang(victim.demand):
        # Whole nodes of small runs, some of which take a day, would never be free together. Nor can it be a circle:
        # what is stopped here stops no gang.
        return True
    if had_aged(victim, policy):
        return False
    return victim.started > overtaken_since(run, policy.preemption)


def overtaken_since(run: Waiting, preempting: Preempting) -> float:
    """Whoever started later overtook it."""
    return max(run.submitted, run.preempted_at + preempting.min_run_seconds) if run.num_preemptions else run.submitted


def is_fill(victim: Running, run: Waiting, policy: QueuePolicy) -> bool:
    """Whether it started after `run` was due a promised place, in that place or beside it."""
    return victim.started >= fills_from(run, policy)


def fills_from(run: Waiting, policy: QueuePolicy) -> float:
    """Since when runs that start in its promised place may be stopped for it at any moment.

    A run that was stopped may go by age before: then whoever it was stopped for would be one of them.
    """
    since = run.preempted_at if run.num_preemptions else run.submitted + run.ran_seconds
    return since + policy.patience_of(run.demand) * run.fifo_wait_seconds


def lost_gpu_seconds(run: Running, now: float) -> float:
    """The most work that stopping it loses; how much of it the run has saved is unknown here."""
    return max(0.0, now - run.started) * sum(share.milli for share in run.placement.gpus) / WHOLE


def earliest_stop(victim: Running, preempting: Preempting) -> float:
    """Seconds since the epoch."""
    return victim.started + preempting.min_run_seconds


def fewest_stopped(
    fleet: Fleet,
    run: Waiting,
    ending: Sequence[Running],
    stoppable: Sequence[Running],
    policy: QueuePolicy,
    now: float,
) -> tuple[list[Running], Placement] | None:
    """The runs to stop so that `run` fits once they and the `ending` ones are gone, and its place; None: nothing helps.

    The list is empty if the ending runs are enough. Takes the short ones and those first that had not waited too long
    themselves, of them the cheapest; then the ones that had waited least. Then spares those that turn out to be
    unneeded: near the least loss, not always the least.
    """
    base = fleet.copy()
    for gone in ending:
        base.release(gone.run_id)
    placement = best_placement(base, run.demand, policy.packing)
    if placement is not None:
        return [], placement
    by_cost = sorted(stoppable, key=lambda victim: (*_spared(victim, policy, now), victim.run_id))

    def without(victims: Sequence[Running]) -> Placement | None:
        twin = base.copy()
        for victim in victims:
            twin.release(victim.run_id)
        return best_placement(twin, run.demand, policy.packing)

    found = fewest(by_cost, without)
    if found is None:
        return None
    prefix, placement = found
    needed = [victim for victim in prefix if overlap(victim.placement, placement)]
    placement = without(needed) or placement
    for victim in sorted(needed, key=lambda victim: -lost_gpu_seconds(victim, now)):
        rest = [other for other in needed if other is not victim]
        if (other_place := without(rest)) is not None:
            needed, placement = rest, other_place
    return needed, placement


def _spared(victim: Running, policy: QueuePolicy, now: float) -> tuple[bool, float]:
    """The more, the later it is stopped.

    Of those that had waited too long, the ones that had done so for longest are stopped last: mostly they have just
    started, and would be the cheapest.
    """
    if victim.is_short or not had_aged(victim, policy):
        return False, _cost(victim, now)
    return True, victim.waited_seconds


def _cost(victim: Running, now: float) -> float:
    """Lost GPU-seconds for each GPU that it gives back."""
    gpus = sum(share.milli for share in victim.placement.gpus) / WHOLE
    return lost_gpu_seconds(victim, now) / gpus if gpus else now - victim.started
