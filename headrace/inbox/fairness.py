"""In which order a campaign's windows are worked off: who asks for much does not delay who asks for little. Pure.

The fair turns of `headrace.fairness` over windows, which are worked off whole. Virtual time counts events, divided by
their tenant's weight. A window's *turn* is the latest start among its tenants, so that nobody has events early because
they share a window; now is the highest turn that was worked off. Windows go in the order of their turns.

A tenant of which as many events wait as a window may have is *heavy*: its further events go to windows of its own. So
whoever shares a window is light, and its companions' events start within one window's worth of now. Before the window
of a tenant without other events that wait, at most one such worth and one window of each other tenant are worked off,
beside those that are under way, however many events the others have.
"""

from collections.abc import Mapping

from headrace.inbox.rules import EVERY_OTHER, Tenant


def weight_of(tenants: Mapping[str, Tenant], tenant: str) -> float:
    """Its share, beside others'; what the campaign's file says of it, or of every other one."""
    said = tenants.get(tenant) or tenants.get(EVERY_OTHER)
    return said.weight if said else 1.0


def costs_of(tenants: Mapping[str, Tenant], counts: Mapping[str, float]) -> dict[str, float]:
    """What a fair clock counts for so many events of each tenant."""
    return {tenant: num_events / weight_of(tenants, tenant) for tenant, num_events in counts.items()}


def is_heavy(num_waiting: int, rows_max: int) -> bool:
    """Whether a tenant's further events go to windows of its own. Args: num_waiting: of its events, before these."""
    return num_waiting >= rows_max
