"""The events of a rollout as they are written, each made in one place for the controller, people and gateways.

The table of `headrace.rollout.states` gives each event's meaning, and what may precede it. Reasons and their authors
are added when the event is appended.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.rollout import states
from headrace.version_sets.sets import VersionSet


@dataclass(frozen=True)
class Event:
    name: str
    fields: Mapping[str, Any]


def initialized(version_set: VersionSet) -> Event:
    return Event(states.INITIALIZED, _with_weights(version_set))


def proposed(version_set: VersionSet) -> Event:
    return Event(states.PROPOSED, _with_weights(version_set))


def withdrawn(proposal: str) -> Event:
    return Event(states.WITHDRAWN, {"version_set": proposal})


def started(
    state: states.RolloutState, *, weight: float, cap: int | None, num_rows: int, prepared_by: Collection[str]
) -> Event:
    """The state's proposal gets its first units, at `weight`."""
    return Event(
        states.STARTED,
        {
            "version_set": state.proposed,
            "weights_digest": state.proposed_weights,
            "step": 0,
            "weight": weight,
            "cap": cap,
            "num_rows": num_rows,
            "prepared_by": sorted(prepared_by),
        },
    )


def advanced(state: states.RolloutState, *, weight: float, cap: int | None, num_rows: int) -> Event:
    fields = {"step": state.step + 1, "weight": weight, "cap": cap}
    return Event(states.ADVANCED, {"version_set": state.candidate, "num_rows": num_rows, **fields})


def reweighted(state: states.RolloutState, *, weight: float, cap: int | None) -> Event:
    return Event(states.REWEIGHTED, {"version_set": state.candidate, "weight": weight, "cap": cap})


def approved(state: states.RolloutState) -> Event:
    return Event(states.APPROVED, {"version_set": state.candidate})


def paused(state: states.RolloutState) -> Event:
    return Event(states.PAUSED, {"version_set": state.candidate})


def resumed(state: states.RolloutState) -> Event:
    return Event(states.RESUMED, {"version_set": state.candidate})


def promoted(state: states.RolloutState, *, num_rows: int) -> Event:
    return Event(states.PROMOTED, {"version_set": state.candidate, "num_rows": num_rows})


def aborted(state: states.RolloutState, *, num_rows: int, evict: bool) -> Event:
    return Event(states.ABORTED, {"version_set": state.candidate, "num_rows": num_rows, "evict": evict})


def _with_weights(version_set: VersionSet) -> dict[str, Any]:
    return {"version_set": version_set.id, "weights_digest": version_set.weights_digest}
