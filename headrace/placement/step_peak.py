"""The most that steps of one run can hold at the same time.

Knows the steps' order and how many may run at once, but not how long they take. So it is an upper bound, which some
order of events reaches unless `steps_at_once` limits it.
"""

from collections import deque
from collections.abc import Mapping, Set

# The exact bound compares every pair of steps with a weight, and this runs at submission.
_NUM_STEPS_EXACT_MAX = 200


def ancestors(upstream: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """For each step, all steps that must end before it begins; `upstream` has the direct ones."""
    waiting = {step: {other for other in direct if other in upstream} for step, direct in upstream.items()}
    downstream: dict[str, list[str]] = {step: [] for step in upstream}
    for step, direct in waiting.items():
        for other in direct:
            downstream[other].append(step)
    found: dict[str, set[str]] = {step: set() for step in upstream}
    num_open = {step: len(direct) for step, direct in waiting.items()}
    ready = deque(step for step, count in num_open.items() if count == 0)
    while ready:
        step = ready.popleft()
        for later in downstream[step]:
            found[later] |= found[step] | {step}
            num_open[later] -= 1
            if num_open[later] == 0:
                ready.append(later)
    return found


def peak(
    weights: Mapping[str, int],
    before: Mapping[str, Set[str]],
    steps_at_once: int | None,
    copies: Mapping[str, int] | None = None,
) -> int:
    """Upper bound of what steps hold together.

    The smaller of two bounds: the `steps_at_once` heaviest steps, and the heaviest set of steps of which none waits for
    another (Dilworth: the total less the most that can be handed on along the order, a maximum flow). With more than
    200 weighted steps the flow is a greedy one, and the bound may be too high.

    Args:
        weights: by step.
        before: all ancestors, by step.
        steps_at_once: None for any number.
        copies: how many instances of a step may run together; 1 if not named.
    """
    counts = {step: (copies or {}).get(step, 1) for step, weight in weights.items() if weight > 0}
    heaviest, num_left = 0, steps_at_once
    for step in sorted(counts, key=lambda step: -weights[step]):
        num = counts[step] if num_left is None else min(counts[step], num_left)
        heaviest += num * weights[step]
        num_left = None if num_left is None else num_left - num
    if steps_at_once == 1 or len(counts) < 2:
        return heaviest
    totals = {step: count * weights[step] for step, count in counts.items()}
    return min(heaviest, sum(totals.values()) - _handed_on(totals, before))


def _handed_on(weights: Mapping[str, int], before: Mapping[str, Set[str]]) -> int:
    """The most of earlier steps' weight that later steps can take over, each up to its own weight."""
    earlier = {step: [other for other in before.get(step, ()) if other in weights] for step in weights}
    to_give, to_get = dict(weights), dict(weights)
    flow: dict[str, dict[str, int]] = {step: {} for step in weights}  # from a giver, by its taker
    total = 0
    for taker, givers in earlier.items():
        for giver in givers:
            amount = min(to_give[giver], to_get[taker])
            if amount:
                flow[giver][taker] = amount
                to_give[giver] -= amount
                to_get[taker] -= amount
                total += amount
    if len(weights) > _NUM_STEPS_EXACT_MAX:
        return total
    while amount := _augment(earlier, to_give, to_get, flow):
        total += amount
    return total


def _augment(
    earlier: Mapping[str, list[str]], to_give: dict[str, int], to_get: dict[str, int], flow: dict[str, dict[str, int]]
) -> int:
    """Sends one shortest augmenting path, searched from takers that need more; returns 0 if there is none."""
    came_from: dict[str, tuple[str, str | None]] = {}  # giver: the taker that asked it, and who asked that taker
    asked: dict[str, str | None] = {step: None for step, amount in to_get.items() if amount}
    queue = deque(asked)
    while queue:
        taker = queue.popleft()
        for giver in earlier[taker]:
            if giver in came_from:
                continue
            came_from[giver] = (taker, asked[taker])
            if to_give[giver]:
                return _shift(giver, came_from, to_give, to_get, flow)
            for other, amount in flow[giver].items():
                if amount and other not in asked:
                    asked[other] = giver
                    queue.append(other)
    return 0


def _shift(
    giver: str,
    came_from: Mapping[str, tuple[str, str | None]],
    to_give: dict[str, int],
    to_get: dict[str, int],
    flow: dict[str, dict[str, int]],
) -> int:
    path: list[tuple[str, str]] = []  # (giver, taker) that gains, from the one with something left
    last: str = giver
    amount = to_give[giver]
    while True:
        taker, via = came_from[last]
        path.append((last, taker))
        if via is None:
            amount = min(amount, to_get[taker])
            break
        amount = min(amount, flow[via][taker])
        last = via
    to_give[giver] -= amount
    to_get[path[-1][1]] -= amount
    for index, (source, taker) in enumerate(path):
        flow[source][taker] = flow[source].get(taker, 0) + amount
        if index + 1 < len(path):
            flow[path[index + 1][0]][taker] -= amount
    return amount
