"""A rough forecast for people: when waiting runs start if every estimate is right. No decision uses it.

Counts the whole fleet's GPUs as if every run could use any of them, one run after the other in the queue's order.
Ignores nodes, models and future runs; runs without a GPU are not forecast.
"""

import heapq
from collections.abc import Sequence

from headrace.placement.snapshot import Snapshot, Waiting


def expected_starts(snapshot: Snapshot, in_order: Sequence[Waiting], now: float) -> dict[str, float]:
    """Seconds since the epoch, by run. A run past its own estimate counts as ending now."""
    if not in_order:
        return {}
    ends: dict[tuple[str, str], float] = {
        (node.name, gpu.device): now for node in snapshot.inventory.nodes for gpu in node.gpus if gpu.healthy
    }
    for run in snapshot.running:
        end = max(now, run.started + run.expected_seconds)
        for share in run.placement.gpus:
            device = (share.node, share.device)
            if device in ends:
                ends[device] = max(ends[device], end)
    free_at = list(ends.values())
    heapq.heapify(free_at)
    starts = {}
    for run in in_order:
        num_gpus = run.demand.num_gpus
        if not 0 < num_gpus <= len(free_at):
            continue
        taken = [heapq.heappop(free_at) for _ in range(num_gpus)]
        starts[run.run_id] = taken[-1]
        for _ in taken:
            heapq.heappush(free_at, taken[-1] + run.expected_seconds)
    return starts
