"""How many events each tenant of a campaign may send, and may have waiting. Used from one event loop.

A rate is an average over ten seconds: so much may come at once after a pause. What waits is known as of the last look,
a quarter of a second ago, and what was taken since is added.
"""

from collections import Counter
from collections.abc import Mapping

from headrace.inbox.events import Refused
from headrace.inbox.rules import EVERY_OTHER, Tenant

_BURST_SECONDS = 10.0
_RETRY_SECONDS_MAX = 3_600.0
# While nobody knows how fast events are worked off.
_UNKNOWN_SECONDS = 60.0
# With so many buckets, those of tenants that sent nothing for ten seconds are looked for: they are full, and forgotten.
_NUM_BUCKETS_MAX = 10_000


class Quotas:
    """Of one campaign."""

    def __init__(self, campaign: str, tenants: Mapping[str, Tenant]) -> None:
        self._campaign, self._tenants = campaign, tenants
        # Tenant → events that it may send now, and when that was so.
        self._buckets: dict[str, tuple[float, float]] = {}
        # Twice as many as were left by the last look: each look is paid for by as many new ones.
        self._num_buckets_max = _NUM_BUCKETS_MAX
        self._waiting: Mapping[str, int] = {}
        self._since: Counter[str] = Counter()

    def look(self, waiting: Mapping[str, int]) -> None:
        """Args: waiting: tenant → events that are taken and not worked off. The same object again changes nothing."""
        if waiting is not self._waiting:
            self._waiting, self._since = waiting, Counter()

    def refusal(self, tenant: str, now: float, drain: float | None) -> Refused | None:
        """Why an event of the tenant has to wait; None: it is counted, and may be taken.

        Args:
            now: monotonic seconds.
            drain: events of the campaign that are worked off a second; None: nobody knows.
        """
        said = self._tenants.get(tenant) or self._tenants.get(EVERY_OTHER)
        if said is None:
            return None
        if said.waiting_max is not None:
            waiting = self._waiting.get(tenant, 0) + self._since[tenant]
            if waiting >= said.waiting_max:
                seconds = (waiting + 1 - said.waiting_max) / drain if drain else _UNKNOWN_SECONDS
                return self._refused(f"{waiting:,} events of tenant {tenant!r} wait", f"{said.waiting_max:,}", seconds)
        if said.events_per_second is not None:
            rate = said.events_per_second
            left = self._left(tenant, rate, now)
            if left < 1.0:
                sends = f"tenant {tenant!r} sends more events a second than it may"
                return self._refused(sends, f"{rate:g}", (1.0 - left) / rate)
            self._buckets[tenant] = (left - 1.0, now)
        self._since[tenant] += 1
        return None

    def _left(self, tenant: str, rate: float, now: float) -> float:
        full = max(rate * _BURST_SECONDS, 1.0)
        if tenant not in self._buckets and len(self._buckets) >= self._num_buckets_max:
            self._buckets = {
                name: (left, since) for name, (left, since) in self._buckets.items() if now - since < _BURST_SECONDS
            }
            self._num_buckets_max = max(_NUM_BUCKETS_MAX, 2 * len(self._buckets))
        left, since = self._buckets.get(tenant, (full, now))
        return min(left + (now - since) * rate, full)

    def _refused(self, what: str, limit: str, seconds: float) -> Refused:
        return Refused(
            f"{what} in campaign {self._campaign}, its limit is {limit}", min(max(seconds, 1.0), _RETRY_SECONDS_MAX)
        )
