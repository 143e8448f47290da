"""What a journal says: the events of a rollout, folded into its present state.

| event | fields | from |
|---|---|---|
| initialized | version_set, weights_digest, reason | an empty journal |
| started | version_set, weights_digest, step, weight, num_rows, reason | no candidate; set neither stable nor aborted |
| advanced | version_set, step, weight, num_rows, reason | a candidate |
| promoted | version_set, num_rows, reason | a candidate: it becomes stable |
| aborted | version_set, num_rows, reason | a candidate: never tried again |

`num_rows` is how many reviewed rows of the candidate the decision had seen, so that each step is judged on rows of
its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.errors import IllegalTransition
from headrace.rollout.journal import Entry

INITIALIZED = "initialized"
STARTED = "started"
ADVANCED = "advanced"
PROMOTED = "promoted"
ABORTED = "aborted"


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """Who gets units of work after entry `head`. Ids are version set ids."""

    stable: str
    stable_weights: str
    candidate: str | None = None
    candidate_weights: str | None = None
    step: int = 0
    weight: float = 0.0
    started_at: float | None = None
    step_started_at: float | None = None
    # Reviewed rows of the candidate when its present step began.
    num_rows_at_step: int = 0
    aborted: frozenset[str] = frozenset()
    # Every set that was ever stable or candidate, and the weights in them: no model is tried twice.
    considered: frozenset[str] = frozenset()
    considered_weights: frozenset[str] = frozenset()
    head: int


def fold(entries: Iterable[Entry]) -> RolloutState | None:
    """The state after all entries; `None`: not initialized.

    Raises:
        IllegalTransition: an entry makes no sense after those before it.
    """
    state = None
    for entry in entries:
        state = after(state, entry)
    return state


def after(state: RolloutState | None, entry: Entry) -> RolloutState:
    """One entry further.

    Raises:
        IllegalTransition: `state` does not allow the event.
    """
    transition = _TRANSITIONS.get(entry.event)
    if transition is None:
        raise _illegal(entry, f"this release knows only {', '.join(_TRANSITIONS)}")
    try:
        return transition(state, entry, entry.fields)
    except KeyError as error:
        raise _illegal(entry, f"it lacks the field {error}") from error


def _initialized(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    if state is not None:
        raise _illegal(entry, f"the rollout already has the stable set {state.stable[:12]}")
    return RolloutState(
        stable=fields["version_set"],
        stable_weights=fields["weights_digest"],
        considered=frozenset({fields["version_set"]}),
        considered_weights=frozenset({fields["weights_digest"]}),
        head=entry.number,
    )


def _started(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    candidate = fields["version_set"]
    if state is None:
        raise _illegal(entry, "no stable set was ever named")
    if state.candidate:
        raise _illegal(entry, f"candidate {state.candidate[:12]} is still on its way")
    if candidate == state.stable or candidate in state.aborted:
        raise _illegal(entry, f"set {candidate[:12]} is the stable one, or was aborted before")
    return replace(
        state,
        candidate=candidate,
        candidate_weights=fields["weights_digest"],
        step=_step(entry, fields, wanted=0),
        weight=_weight(entry, fields, above=0.0),
        started_at=entry.at,
        step_started_at=entry.at,
        num_rows_at_step=fields["num_rows"],
        considered=state.considered | {candidate},
        considered_weights=state.considered_weights | {fields["weights_digest"]},
        head=entry.number,
    )


def _advanced(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _with_candidate(state, entry, fields)
    return replace(
        state,
        step=_step(entry, fields, wanted=state.step + 1),
        weight=_weight(entry, fields, above=state.weight),
        step_started_at=entry.at,
        num_rows_at_step=fields["num_rows"],
        head=entry.number,
    )


def _promoted(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _with_candidate(state, entry, fields)
    assert state.candidate_weights is not None
    return _settled(replace(state, stable=fields["version_set"], stable_weights=state.candidate_weights), entry)


def _aborted(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _with_candidate(state, entry, fields)
    return _settled(replace(state, aborted=state.aborted | {fields["version_set"]}), entry)


_TRANSITIONS = {
    INITIALIZED: _initialized,
    STARTED: _started,
    ADVANCED: _advanced,
    PROMOTED: _promoted,
    ABORTED: _aborted,
}


def _settled(state: RolloutState, entry: Entry) -> RolloutState:
    return replace(
        state,
        candidate=None,
        candidate_weights=None,
        step=0,
        weight=0.0,
        started_at=None,
        step_started_at=None,
        num_rows_at_step=0,
        head=entry.number,
    )


def _with_candidate(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    if state is None or not state.candidate:
        raise _illegal(entry, "there is no candidate")
    if fields["version_set"] != state.candidate:
        raise _illegal(entry, f"it names set {fields['version_set'][:12]}, the candidate is {state.candidate[:12]}")
    return state


def _step(entry: Entry, fields: Mapping[str, Any], *, wanted: int) -> int:
    if fields["step"] != wanted:
        raise _illegal(entry, f"it names step {fields['step']}, the next one is {wanted}")
    return wanted


def _weight(entry: Entry, fields: Mapping[str, Any], *, above: float) -> float:
    weight = float(fields["weight"])
    if not above < weight <= 1:
        raise _illegal(entry, f"its weight {weight:g} is not above {above:g} and at most 1")
    return weight


def _illegal(entry: Entry, reason: str) -> IllegalTransition:
    return IllegalTransition(f"Entry {entry.number} ({entry.event}) is not possible: {reason}.")
