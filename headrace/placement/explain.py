"""Why a run is held, in one or two sentences for people.

A sentence is written into a run's tags when it changes, so it contains nothing that changes by itself: times of day,
not countdowns, and far back in the queue only a rough count of the runs ahead. Times are UTC.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from headrace.placement.demand import WHOLE, Demand
from headrace.placement.fleet import Fleet
from headrace.placement.largest import demand_text, num_gpus_text
from headrace.placement.snapshot import Eviction, Waiting
from headrace.placement.stage_policy import StageLimit

# Larger counts are rounded down, so that a long queue is not rewritten whenever one run starts.
_EXACT_MAX = 10
# Runs that are named where several are meant.
SHOWN_MAX = 3
WAITS_FOR_REPAIR = "What is healthy now does not suffice even when every run has ended: sick GPUs must come back."
# A UUID is shortened, as in the commands' tables.
_DEVICE_CHARS = 12
_STEPS = (3000, 1000, 300, 100, 30, 10)


def short(run_id: str) -> str:
    return run_id[:8]


def runs_text(run_ids: Sequence[str], count: int | None = None) -> str:
    """`run 1c07ab12`, `runs 1c07ab12 and 88e2ff00`, `runs … and 4 more`.

    Args:
        count: how many there are, where `run_ids` are only the first `SHOWN_MAX`.
    """
    shown = [short(run_id) for run_id in run_ids[:SHOWN_MAX]]
    more = (len(run_ids) if count is None else count) - len(shown)
    if more:
        shown.append(f"{more} more")
    noun = "run" if len(shown) == 1 else "runs"
    return f"{noun} {' and '.join([', '.join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)}"


def clock(at: float, now: float) -> str:
    """`02:40`, with the date if it is not today's."""
    moment, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    return moment.strftime("%H:%M" if moment.date() == today.date() else "%Y-%m-%d %H:%M")


class FreeBlocks:
    """The largest free block for a demand; examines each device with room once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._rooms = {
            name: [(gpu, free) for gpu in node.gpus if (free := fleet.free_milli(name, gpu.device))]
            for name, node in fleet.nodes.items()
        }
        self._rooms = {name: rooms for name, rooms in self._rooms.items() if rooms}
        self._answers: dict[Demand, str] = {}

    def lack(self, demand: Demand) -> str:
        """`Needs 8 GPUs on one node; the largest free block is 5 (node-b).`"""
        if demand not in self._answers:
            self._answers[demand] = f"Needs {demand_text(demand)}; {self._lack(demand)}."
        return self._answers[demand]

    def _lack(self, demand: Demand) -> str:
        if not demand.num_gpus:
            return "no node has that free"
        blocks = {}
        for name, rooms in self._rooms.items():
            count = sum(
                (not demand.gpu_models or gpu.model in demand.gpu_models) and demand.milli_on(gpu.memory_mib) <= free
                for gpu, free in rooms
            )
            if count:
                blocks[name] = count
        if not blocks:
            return "no such part of a GPU is free" if demand.is_shared else "no such GPU is free"
        if demand.gang == "any" and demand.num_gpus > 1:
            total = sum(blocks.values())
            return f"{total} are free" if total < demand.num_gpus else "the free ones lack CPUs or memory beside them"
        largest = min(blocks, key=lambda name: (-blocks[name], name))
        if blocks[largest] >= demand.num_gpus:
            return f"the nodes with free GPUs (such as {largest}) lack CPUs or memory"
        return f"the largest free block is {blocks[largest]} ({largest})"


def no_slot(num_running: int) -> str:
    return f"max_concurrent_runs is reached: {num_running} runs are in progress."


def at_ceiling(run: Waiting, limit: StageLimit, held_milli: int, now: float) -> str:
    until = f" until {clock(limit.until, now)}" if limit.until is not None else ""
    asks = f"; this run needs {num_gpus_text(run.demand.num_gpus)}" if run.demand.num_gpus > 1 else ""
    return (
        f"Stage {run.stage} may hold {num_gpus_text(limit.ceiling or 0)}{until} and holds {held_milli / WHOLE:g}{asks}."
    )


def behind_in_stage(run: Waiting, first: str) -> str:
    return f"Stage {run.stage} is at its ceiling, and run {short(first)} of that stage has waited longer."


def kept_for_floors(demand: Demand, free_milli: int, kept: dict[str, int]) -> str:
    """`kept`: kept GPUs by stage."""
    stages = ", ".join(f"{count} for stage {stage}" for stage, count in sorted(kept.items()))
    return f"Needs {demand_text(demand)}; of {num_gpus_text(free_milli / WHOLE)} free, kept: {stages}."


def kept_for_older(run_id: str) -> str:
    return f"What is free is kept for run {short(run_id)}, which has waited too long."


def reserved(devices: Sequence[tuple[str, str]], waits_for: Sequence[str], latest: float | None, now: float) -> str:
    """`Reserved 8 GPUs of node-b: starts when runs … have ended, by 02:40 at the latest by their estimates.`"""
    nodes = sorted({node for node, _ in devices})
    where = f"{num_gpus_text(len(devices))} of {', '.join(nodes[:3])}" if devices else "a place"
    if len(nodes) > 3:
        where += f" and {len(nodes) - 3} more nodes"
    if not waits_for:
        return f"Reserved {where}."
    ended = "has ended" if len(waits_for) == 1 else "have ended"
    by = (
        f", by {clock(latest, now)} at the latest by their estimates"
        if latest is not None
        else "; by their estimates they should have"
    )
    return f"Reserved {where}: starts when {runs_text(waits_for)} {ended}{by}."


def waits_for_model(there: tuple[str, str], here: tuple[str, str], models: Sequence[str], seconds: float) -> str:
    """`Waits for GPU 1, where painter 3 is loaded: about 40 s sooner than loading it on GPU 0.`"""
    same_node = there[0] == here[0]
    there_text, here_text = (_gpu_text(device, with_node=not same_node) for device in (there, here))
    verb, them = ("is", "it") if len(models) == 1 else ("are", "them")
    return (
        f"Waits for {there_text}, where {' and '.join(models)} {verb} loaded: about {_rounded(seconds)} s sooner than "
        f"loading {them} on {here_text}."
    )


def being_emptied(leaving: Sequence[Eviction]) -> str:
    """`Starts on GPU 0 of node-a as soon as painter 3 has left it: this run computes by itself, and needs the room.`"""
    places = " and ".join(_gpu_text((one.node, one.device)) for one in leaving)
    models = list(dict.fromkeys(model for one in leaving for model in one.models))
    left = "has left it" if len(models) == 1 else "have left it"
    return (
        f"Starts on {places} as soon as {' and '.join(models)} {left}: the run computes by itself, and needs the room."
    )


def _gpu_text(device: tuple[str, str], *, with_node: bool = True) -> str:
    name = device[1] if len(device[1]) <= _DEVICE_CHARS else f"{device[1][: _DEVICE_CHARS - 1]}…"
    return f"GPU {name} of {device[0]}" if with_node else f"GPU {name}"


def _rounded(seconds: float) -> int:
    """Coarse, since a sentence is written anew whenever it changes."""
    step = 10 if seconds >= 10 else 1
    return max(1, math.ceil(seconds / step) * step)


def leaving(run_ids: Sequence[str]) -> str:
    """For a run whose place is complete once ending runs are gone."""
    return f"Starts as soon as {runs_text(run_ids)} {'is' if len(run_ids) == 1 else 'are'} gone."


def stopped_for(run: Waiting, *, aged: bool) -> str:
    """The message for the run that is stopped."""
    why = "which has waited too long" if aged else f"of priority {run.priority}"
    return f"Stopped for run {short(run.run_id)} ({demand_text(run.demand)}), {why}; it is queued again by itself."


def ends_the_wait(run_ids: Sequence[str]) -> str:
    return f"It can start when {runs_text(run_ids)} {'has' if len(run_ids) == 1 else 'have'} ended." if run_ids else ""


def over_share(queue: str, gpu_milli: int, num_gpus: int, weight: float, weights: float, ahead: str) -> str:
    return (
        f"Queue {queue!r} has its share ({gpu_milli / WHOLE:g} of {num_gpus_text(num_gpus)}, "
        f"weight {weight:g} of {weights:g}) and {ahead!r} is waiting."
    )


def ahead_text(first: Sequence[str], num_ahead: int) -> str:
    if not num_ahead:
        return ""
    if num_ahead <= _EXACT_MAX:
        return f"Ahead of it: {runs_text(first, num_ahead)}."
    return f"More than {next(step for step in _STEPS if num_ahead > step):,} runs are ahead of it."


def goes_first(at: float, now: float) -> str:
    return f"From {clock(at, now)} on, or later if the backlog grows, it goes by age, ahead of priority and share."
