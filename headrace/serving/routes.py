"""A router's answers under one plan: pins that are built once, and places under the candidate's cap."""

from collections import deque
from collections.abc import Callable

from headrace.rollout.assignment import ranking
from headrace.rollout.caps import CapLeases
from headrace.rollout.routing import Pin, RoutingTable

# Places leased at once: at first, and at most; and the part of the remaining places that one gateway takes.
_CHUNK_MIN, _CHUNK_MAX, _CHUNK_SHARE = 32, 4096, 16
# A chunk that was used up faster was too small.
_CHUNK_SECONDS = 2.0


class Places:
    """Leased and unused places under one trial's cap."""

    __slots__ = ("_leased_at", "_wake", "cap", "is_exhausted", "low", "num_chunk", "trial", "units")

    def __init__(self, trial: int, cap: int, before: "Places | None", wake: Callable[[], None]) -> None:
        self.trial = trial
        self.cap = cap
        self.num_chunk = _CHUNK_MIN
        self.low = 0
        self.is_exhausted = False
        self._leased_at = float("-inf")
        self._wake = wake
        # Places leased under a higher cap are dropped: other gateways' units may fill the lower cap.
        is_kept = before is not None and before.trial == trial and before.cap <= cap
        self.units: deque[None] = before.units if before is not None and is_kept else deque()

    @property
    def are_few(self) -> bool:
        return len(self.units) <= self.low and not self.is_exhausted

    def take(self) -> bool:
        """Takes one place; False: none is available. Popping is atomic, so no place goes to two units."""
        units = self.units
        try:
            units.pop()
        except IndexError:
            if not self.is_exhausted:
                self._wake()
            return False
        if len(units) <= self.low and not self.is_exhausted:
            self._wake()
        return True

    def lease(self, caps: CapLeases, *, by: str, now: float) -> None:
        lasted = now - self._leased_at
        self.num_chunk = min(_CHUNK_MAX, self.num_chunk * 2) if lasted < _CHUNK_SECONDS else _CHUNK_MIN
        fair = (self.cap - caps.num_leased(self.trial)) // _CHUNK_SHARE
        granted = caps.take(self.trial, self.cap, count=max(1, min(self.num_chunk, fair)), by=by)
        self._leased_at = now
        self.low = granted // 2
        # Leased places never return, so a reached cap stays reached.
        self.is_exhausted = granted == 0
        self.units.extend([None] * granted)


class Routes:
    """A plan's answers, built once; `resolve` picks one."""

    __slots__ = (
        "candidate",
        "candidate_asked_for",
        "candidate_named",
        "capped",
        "degraded",
        "places",
        "rank",
        "stable",
        "stable_alone",
        "stable_asked_for",
        "table",
        "threshold",
    )

    def __init__(self, table: RoutingTable, before: "Routes | None", wake: Callable[[], None]) -> None:
        self.table = table
        self.rank = ranking(table.salt)
        self.threshold = table.threshold if table.candidate is not None else 0
        stable, candidate = table.stable, table.candidate or table.stable
        self.stable = Pin(stable, table.head, "weight", table.trial)
        self.candidate = Pin(candidate, table.head, "weight", table.trial)
        # For names that the client chose, and for times when the candidate could not have been drawn.
        self.candidate_named = Pin(candidate, table.head, "weight", table.trial, is_fair=False)
        self.stable_alone = Pin(stable, table.head, "weight", table.trial, is_fair=False)
        self.stable_asked_for = Pin(stable, table.head, "override", table.trial, is_fair=False)
        self.candidate_asked_for = Pin(candidate, table.head, "override", table.trial, is_fair=False)
        self.capped = Pin(stable, table.head, "capped", table.trial, is_fair=False)
        self.degraded = Pin(stable, table.head, "degraded", 0, is_fair=False)
        places = before.places if before else None
        if table.candidate is None or table.cap is None:
            self.places = None
        elif places is not None and (places.trial, places.cap) == (table.trial, table.cap):
            self.places = places
        else:
            self.places = Places(table.trial, table.cap, places, wake)
