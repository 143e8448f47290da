"""The ideal of fair sharing, independent of the library: work that flows like water to all who have any, by weight.

Generalized processor sharing (Parekh and Gallager 1993), followed from event to event; times and amounts are exact up
to floating point.
"""

from collections.abc import Mapping, Sequence


def fluid_service(
    arrivals: Sequence[tuple[float, Mapping[str, int]]], weights: Mapping[str, float], times: Sequence[float]
) -> list[dict[str, float]]:
    """How much of each tenant's work is done at each of the times, at one unit of work a unit of time.

    Args:
        arrivals: when, and how much work of which tenants; ascending.
        times: ascending.
    """
    done = dict.fromkeys(weights, 0.0)
    left = dict.fromkeys(weights, 0.0)
    at, following = 0.0, 0
    found: list[dict[str, float]] = []
    for until in times:
        while at < until:
            while following < len(arrivals) and arrivals[following][0] <= at:
                for tenant, amount in arrivals[following][1].items():
                    left[tenant] += amount
                following += 1
            busy = {tenant: weights[tenant] for tenant, amount in left.items() if amount > 1e-9}
            end = min(until, arrivals[following][0]) if following < len(arrivals) else until
            if busy:
                total = sum(busy.values())
                end = min(end, at + min(left[tenant] * total / weight for tenant, weight in busy.items()))
                for tenant, weight in busy.items():
                    flowed = min((end - at) * weight / total, left[tenant])
                    left[tenant] -= flowed
                    done[tenant] += flowed
            if end <= at:  # what is left is less than a float can tell
                end = until if following >= len(arrivals) else min(until, max(arrivals[following][0], at + 1e-9))
            at = end
        found.append(dict(done))
    return found
