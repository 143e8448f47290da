"""Which models are to come, and in which order. Pure: looks, and changes nothing."""

from headrace.engines.host.copies import Model
from headrace.engines.host.holdings import Demand, Holdings


def demands(holdings: Holdings) -> list[Demand]:
    """The first to be brought in front: what work needs that has begun to gather its parts; then the longest awaited,
    where live work counts as if it had come earlier, so that it is before bulk work but not forever."""
    return sorted((one for found in holdings.absent.values() for one in found), key=lambda one: one.rank)


def longest_queues(holdings: Holdings, num_coming: dict[Model, int]) -> list[Model]:
    """Models that one more copy is worth its bringing, the most pressing first.

    Args:
        num_coming: copies that room is being made for.
    """
    found: list[tuple[float, Model]] = []
    now = holdings.clock()
    for model in holdings.awaited:
        waiting_seconds = model.waiting.open_turn_seconds
        if model.num_at_once is None or not waiting_seconds or model.bring_seconds is None:
            continue
        copies = [copy for copy in model.copies.values() if copy.could_serve]
        if not copies:
            continue
        rest = sum(
            max(0.0, one.expected_seconds - (now - one.begun_at)) * one.size
            for copy in copies
            for one in copy.at_work
            if one.is_at_work
        )
        # What a full copy does in a second is what it does at once, by what a piece takes then.
        num_at_once = model.num_at_once * (len(copies) + num_coming.get(model, 0))
        queue_seconds = (waiting_seconds + rest) / num_at_once
        if queue_seconds > holdings.rules.copy_factor * model.bring_seconds:
            found.append((queue_seconds / max(model.bring_seconds, 1e-3), model))
    return [model for _, model in sorted(found, key=lambda pair: -pair[0])]
