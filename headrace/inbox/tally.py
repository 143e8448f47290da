"""How many unsealed events each tenant has, by part and by campaign. Used from the log's thread."""

from collections import Counter, defaultdict


class TenantTally:
    def __init__(self) -> None:
        self._parts: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        self._campaigns: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, campaign: str, part: int, tenant: str, num_events: int = 1) -> None:
        self._parts[campaign, part][tenant] += num_events
        self._campaigns[campaign][tenant] += num_events

    def drop(self, campaign: str, part: int) -> None:
        """Its events are sealed."""
        self._campaigns[campaign] -= self._parts.pop((campaign, part), Counter())

    def of(self, campaign: str) -> Counter[str]:
        return self._campaigns[campaign]

    def clear(self) -> None:
        self._parts.clear()
        self._campaigns.clear()
