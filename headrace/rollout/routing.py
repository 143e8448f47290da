"""Which version set a live unit of work gets: pure, and cheap enough for every request.

The rule of `headrace.rollout.assignment` for units that nobody can count beforehand: a unit's salted rank against
weight × 2^64. Raising the weight never takes a key off the candidate; lowering it moves the keys above the new weight
and no others; every process that knows the same journal entry agrees.
"""

from dataclasses import dataclass
from typing import Literal

from headrace.rollout.assignment import salted_rank
from headrace.rollout.states import RolloutState

# Why a unit got its set.
Reason = Literal["weight", "session", "override", "degraded", "capped", "repinned"]
_RANKS = 1 << 64


@dataclass(frozen=True, slots=True)
class Pin:
    """The one version set of one unit of work, and the journal entry at which it was decided."""

    version_set: str
    entry: int
    reason: Reason
    # The trial (`RolloutState.trial`) that the unit belongs to; 0: none is under way.
    trial: int
    # Whether the plan's draw alone chose the set, by a key that nobody knew before the request was complete, while both
    # sets could have been drawn. Any other unit says nothing about one set against the other.
    is_fair: bool = True

    @property
    def is_evidence(self) -> bool:
        """Whether the unit counts at the gate. A session's later turns do not: their client knows their set."""
        return self.is_fair and self.trial > 0 and self.reason == "weight"

    @property
    def is_pinned(self) -> bool | None:
        """Whether the store knows the session's pin; None: the unit has no session."""
        return None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """What routing needs of a journal's state, made once an entry."""

    head: int
    salt: str
    stable: str
    candidate: str | None = None
    # Ranks below it are the candidate's: weight × 2^64.
    threshold: int = 0
    cap: int | None = None
    trial: int = 0
    aborted: frozenset[str] = frozenset()
    evicted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, state: RolloutState, salt: str, *, is_counted: bool = True) -> "RoutingTable":
        """Args:
        is_counted: False: units may have started on the candidate while it had no cap. Nobody knows how many, so a cap
            that comes later lets no further unit start.
        """
        return cls(
            head=state.head,
            salt=salt,
            stable=state.stable,
            candidate=state.candidate,
            threshold=int(state.weight * _RANKS),
            cap=state.cap if is_counted or state.cap is None else 0,
            trial=state.trial,
            aborted=state.aborted,
            evicted=state.evicted,
        )

    def wanted(self, key: str) -> str:
        """The set of a unit without session, override or cap."""
        if self.candidate is not None and salted_rank(self.salt, key) < self.threshold:
            return self.candidate
        return self.stable

    def on_trial(self, version_set: str) -> bool:
        """Whether a unit on this set counts against the candidate's cap."""
        return version_set == self.candidate
