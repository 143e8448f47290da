"""In which order a campaign's windows are worked off: who asks for much does not delay who asks for little. Pure.

Start-time fair queueing (Goyal, Vin, Cheng 1996) over windows, which are worked off whole. Virtual time counts events,
divided by their tenant's weight. A window's events of one tenant start when that tenant's earlier events end, or now,
if that is later; the window's *turn* is the latest start among its tenants, so that nobody has events early because
they share a window. Now is the highest turn that was worked off. Windows go in the order of their turns.

A tenant of which as many events wait as a window may have is *heavy*: its further events go to windows of its own. So
whoever shares a window is light, and its companions' events start within one window's worth of now. Before the window
of a tenant without other events that wait, at most one such worth and one window of each other tenant are worked off,
beside those that are under way, however many events the others have. Who had nothing to do saves nothing up.
"""

from collections.abc import Iterable, Mapping

from headrace.inbox.rules import EVERY_OTHER, Tenant


def weight_of(tenants: Mapping[str, Tenant], tenant: str) -> float:
    """Its share, beside others'; what the campaign's file says of it, or of every other one."""
    said = tenants.get(tenant) or tenants.get(EVERY_OTHER)
    return said.weight if said else 1.0


def is_heavy(num_waiting: int, rows_max: int) -> bool:
    """Whether a tenant's further events go to windows of its own. Args: num_waiting: of its events, before these."""
    return num_waiting >= rows_max


class FairClock:
    """One campaign's virtual time. Used from one thread."""

    def __init__(self, tenants: Mapping[str, Tenant] | None = None) -> None:
        self._tenants = tenants or {}
        self._ends: dict[str, float] = {}

    def resume(self, windows: Iterable[tuple[float, Mapping[str, int]]]) -> None:
        """Takes up the turns and tenants of the last windows, oldest first, as this clock or another gave them."""
        for turn, counts in windows:
            self._add(counts, turn)

    def turn(self, counts: Mapping[str, int], now: float) -> float:
        """The turn of the next window. Args: counts: its events, by tenant. now: the highest turn that was worked off.

        Forgets tenants whose events all ended before now.
        """
        self._ends = {tenant: end for tenant, end in self._ends.items() if end > now}
        turn = max((self._ends.get(tenant, now) for tenant in counts), default=now)
        self._add(counts, turn)
        return turn

    def _add(self, counts: Mapping[str, int], turn: float) -> None:
        for tenant, num_events in counts.items():
            self._ends[tenant] = max(self._ends.get(tenant, 0.0), turn) + num_events / weight_of(self._tenants, tenant)
