"""Which models are to come, and in which order. Pure: looks, and changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.engines.host.copies import Model
from headrace.engines.host.holdings import Holdings
from headrace.engines.host.work import Kind, Ticket


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A model that somebody waits for where no copy could serve it. `ticket`: the longest waiting."""

    model: Model
    only_at: str | None
    ticket: Ticket
    rank: tuple[bool, float, int]

    def waited_seconds(self, now: float) -> float:
        return now - self.ticket.entered_at


def demands(holdings: Holdings) -> list[Demand]:
    """The first to be brought in front: what work needs that has begun to gather its parts; then the longest awaited,
    where live work counts as if it had come earlier, so that it is before bulk work but not forever."""
    return sorted((one for model in holdings.absent for one in _demands_for(model, holdings)), key=lambda one: one.rank)


def _demands_for(model: Model, holdings: Holdings) -> Iterator[Demand]:
    for only_at in model.waiting.targets():
        if holdings.is_served(model, only_at):
            continue
        for kind in Kind:
            ticket = model.waiting.oldest(only_at, kind)
            if ticket is None:
                continue
            ahead = (model.bring_seconds or 0.0) + ticket.expected_seconds if kind is Kind.LIVE else 0.0
            since = ticket.entered_at - ahead * holdings.rules.live_factor
            yield Demand(
                model=model,
                only_at=only_at,
                ticket=ticket,
                rank=(kind is not Kind.PART, since, ticket.number),
            )


def longest_queues(holdings: Holdings, num_coming: dict[Model, int]) -> list[Model]:
    """Models that one more copy is worth its bringing, the most pressing first.

    Args:
        num_coming: copies that room is being made for.
    """
    found: list[tuple[float, Model]] = []
    now = holdings.clock()
    for model in holdings.awaited:
        waiting_seconds = model.waiting.open_seconds
        if model.num_at_once is None or not waiting_seconds or model.bring_seconds is None:
            continue
        copies = [copy for copy in model.copies.values() if copy.could_serve]
        if not copies:
            continue
        rest = sum(
            max(0.0, one.expected_seconds - (now - one.begun_at))
            for copy in copies
            for one in copy.at_work
            if one.is_at_work
        )
        queue_seconds = (waiting_seconds + rest) / (len(copies) + num_coming.get(model, 0))
        if queue_seconds > holdings.rules.copy_factor * model.bring_seconds:
            found.append((queue_seconds / max(model.bring_seconds, 1e-3), model))
    return [model for _, model in sorted(found, key=lambda pair: -pair[0])]
