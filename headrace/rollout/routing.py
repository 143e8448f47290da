"""Chooses the version set of a live unit of work: pure, and cheap enough for every request.

Applies the rule of `headrace.rollout.assignment` to units that cannot be counted beforehand: it compares a unit's
salted rank with weight × 2^64. Raising the weight never takes a key off the candidate; lowering it moves only the keys
above the new weight; all processes with the same journal entry agree.
"""

from dataclasses import dataclass
from typing import Literal

from headrace.rollout.assignment import rank_threshold, salted_rank
from headrace.rollout.states import RolloutState

# How a unit got its set.
Reason = Literal["weight", "session", "override", "degraded", "capped", "repinned"]


@dataclass(frozen=True, slots=True)
class Pin:
    """One unit's version set, and the journal entry at which it was chosen."""

    version_set: str
    entry: int
    reason: Reason
    # The unit's trial (`RolloutState.trial`); 0: none is under way.
    trial: int
    # Whether the plan's draw alone chose the set, between both sets, by a key that nobody knew before the request was
    # complete. Other units prove nothing about one set against the other.
    is_fair: bool = True

    @property
    def is_evidence(self) -> bool:
        """Whether the gate counts the unit. A session's later turns do not count: their client knows their set."""
        return self.is_fair and self.trial > 0 and self.reason == "weight"

    @property
    def is_pinned(self) -> bool | None:
        """Whether the store has the session's pin; None: the unit has no session."""
        return None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """The part of a journal's state that routing needs, built once for each entry."""

    head: int
    salt: str
    stable: str
    candidate: str | None = None
    # Lower ranks belong to the candidate: weight × 2^64.
    threshold: int = 0
    cap: int | None = None
    trial: int = 0
    aborted: frozenset[str] = frozenset()
    evicted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, state: RolloutState, salt: str, *, is_counted: bool = True) -> "RoutingTable":
        """Args:
        is_counted: False: an unknown number of units may have started on the candidate while it had no cap, so under a
        later cap no further unit may start.
        """
        return cls(
            head=state.head,
            salt=salt,
            stable=state.stable,
            candidate=state.candidate,
            threshold=rank_threshold(state.weight),
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
