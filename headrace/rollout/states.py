"""Folds a journal's events into the rollout's present state.

| event | fields | from |
|---|---|---|
| initialized | version_set, weights_digest | an empty journal |
| proposed | version_set, weights_digest | no candidate and no proposal; set not stable, not aborted |
| withdrawn | version_set | a proposal that could not be prepared: it never had a unit |
| started | version_set, weights_digest, step, weight, num_rows, cap | no candidate; the proposal, if there is one |
| advanced | version_set, step, weight, num_rows, cap | a candidate that is not paused |
| reweighted | version_set, weight, cap | a candidate: a person set its weight, up or down |
| approved | version_set | a candidate: its present step may be left |
| paused, resumed | version_set | a candidate that is not paused, is paused |
| promoted | version_set, num_rows | a candidate that is not paused: it becomes stable |
| aborted | version_set, num_rows, evict | a candidate: never tried again |

Every event has a `reason`, and a person's event has `by`. `num_rows` counts the candidate's reviewed rows at the
decision, so that each step is judged by its own rows. A paused candidate keeps its weight.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.errors import IllegalTransition
from headrace.rollout.journal import Entry

INITIALIZED = "initialized"
PROPOSED = "proposed"
WITHDRAWN = "withdrawn"
STARTED = "started"
ADVANCED = "advanced"
REWEIGHTED = "reweighted"
APPROVED = "approved"
PAUSED = "paused"
RESUMED = "resumed"
PROMOTED = "promoted"
ABORTED = "aborted"


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """Which sets get units of work after entry `head`. Ids are version set ids."""

    stable: str
    stable_weights: str
    # A set in preparation: it gets no unit yet.
    proposed: str | None = None
    # The entry that proposed it; nodes' preparation records lie under it.
    proposal: int = 0
    proposed_weights: str | None = None
    proposed_at: float | None = None
    candidate: str | None = None
    candidate_weights: str | None = None
    step: int = 0
    weight: float = 0.0
    # Units that may ever start on the candidate; None: no cap.
    cap: int | None = None
    paused: bool = False
    # Whether a person allowed the candidate to leave its present step.
    approved: bool = False
    # The entry that started the candidate: both sets' evidence counts from there.
    trial: int = 0
    started_at: float | None = None
    step_started_at: float | None = None
    # Reviewed rows of the candidate when its present step began.
    num_rows_at_step: int = 0
    aborted: frozenset[str] = frozenset()
    # The aborted sets whose sessions move to the stable set at their next turn.
    evicted: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()
    # Every set that was ever stable, proposed or candidate, and their weights: no model is tried twice.
    considered: frozenset[str] = frozenset()
    considered_weights: frozenset[str] = frozenset()
    head: int


def fold(entries: Iterable[Entry]) -> RolloutState | None:
    """The state after all entries; `None`: not initialized.

    Raises:
        IllegalTransition: an entry is impossible after those before it.
    """
    state = None
    for entry in entries:
        state = after(state, entry)
    return state


def after(state: RolloutState | None, entry: Entry) -> RolloutState:
    """The state after one further entry.

    Raises:
        IllegalTransition: `state` does not allow the event.
    """
    transition = _TRANSITIONS.get(entry.event)
    if transition is None:
        raise _illegal(entry, f"this release knows only {', '.join(_TRANSITIONS)}")
    try:
        return replace(transition(state, entry, entry.fields), head=entry.number)
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


def _proposed(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    proposed = fields["version_set"]
    state = _without_candidate(state, entry, proposed)
    if state.proposed:
        raise _illegal(entry, f"set {state.proposed[:12]} is still being prepared")
    return replace(
        state,
        proposed=proposed,
        proposal=entry.number,
        proposed_weights=fields["weights_digest"],
        proposed_at=entry.at,
        withdrawn=state.withdrawn - {proposed},
        considered=state.considered | {proposed},
        considered_weights=state.considered_weights | {fields["weights_digest"]},
    )


def _withdrawn(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    if state is None or not state.proposed:
        raise _illegal(entry, "no set is being prepared")
    _check_named(entry, fields, state.proposed, "the proposal")
    withdrawn = state.withdrawn | {state.proposed}
    return replace(state, proposed=None, proposal=0, proposed_weights=None, proposed_at=None, withdrawn=withdrawn)


def _started(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    candidate = fields["version_set"]
    state = _without_candidate(state, entry, candidate)
    if state.proposed:
        _check_named(entry, fields, state.proposed, "the proposal")
    return replace(
        state,
        proposed=None,
        proposal=0,
        proposed_weights=None,
        proposed_at=None,
        candidate=candidate,
        candidate_weights=fields["weights_digest"],
        step=_step(entry, fields, wanted=0),
        weight=_weight(entry, fields, above=0.0),
        cap=fields.get("cap"),
        trial=entry.number,
        started_at=entry.at,
        step_started_at=entry.at,
        num_rows_at_step=fields["num_rows"],
        considered=state.considered | {candidate},
        considered_weights=state.considered_weights | {fields["weights_digest"]},
    )


def _advanced(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _moving(state, entry, fields)
    return replace(
        state,
        step=_step(entry, fields, wanted=state.step + 1),
        weight=_weight(entry, fields, above=state.weight),
        cap=fields.get("cap"),
        approved=False,
        step_started_at=entry.at,
        num_rows_at_step=fields["num_rows"],
    )


def _reweighted(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _with_candidate(state, entry, fields)
    weight = _weight(entry, fields, above=-1.0)
    return replace(state, weight=weight, cap=fields.get("cap", state.cap), approved=False, step_started_at=entry.at)


def _approved(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    return replace(_with_candidate(state, entry, fields), approved=True)


def _paused(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    return replace(_moving(state, entry, fields), paused=True)


def _resumed(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _with_candidate(state, entry, fields)
    if not state.paused:
        raise _illegal(entry, "the candidate is not paused")
    return replace(state, paused=False)


def _promoted(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _moving(state, entry, fields)
    assert state.candidate_weights is not None
    return _settled(replace(state, stable=fields["version_set"], stable_weights=state.candidate_weights))


def _aborted(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _with_candidate(state, entry, fields)
    bad = frozenset({fields["version_set"]})
    evicted = state.evicted | bad if fields.get("evict", True) else state.evicted
    return _settled(replace(state, aborted=state.aborted | bad, evicted=evicted))


_TRANSITIONS = {
    INITIALIZED: _initialized,
    PROPOSED: _proposed,
    WITHDRAWN: _withdrawn,
    STARTED: _started,
    ADVANCED: _advanced,
    REWEIGHTED: _reweighted,
    APPROVED: _approved,
    PAUSED: _paused,
    RESUMED: _resumed,
    PROMOTED: _promoted,
    ABORTED: _aborted,
}


def _settled(state: RolloutState) -> RolloutState:
    return replace(
        state,
        candidate=None,
        candidate_weights=None,
        step=0,
        weight=0.0,
        cap=None,
        paused=False,
        approved=False,
        trial=0,
        started_at=None,
        step_started_at=None,
        num_rows_at_step=0,
    )


def _without_candidate(state: RolloutState | None, entry: Entry, candidate: str) -> RolloutState:
    if state is None:
        raise _illegal(entry, "no stable set was ever named")
    if state.candidate:
        raise _illegal(entry, f"candidate {state.candidate[:12]} is still on its way")
    if candidate == state.stable or candidate in state.aborted:
        raise _illegal(entry, f"set {candidate[:12]} is the stable one, or was aborted before")
    return state


def _with_candidate(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    if state is None or not state.candidate:
        raise _illegal(entry, "there is no candidate")
    _check_named(entry, fields, state.candidate, "the candidate")
    return state


def _moving(state: RolloutState | None, entry: Entry, fields: Mapping[str, Any]) -> RolloutState:
    state = _with_candidate(state, entry, fields)
    if state.paused:
        raise _illegal(entry, "the candidate is paused; resume it first")
    return state


def _check_named(entry: Entry, fields: Mapping[str, Any], wanted: str, what: str) -> None:
    if fields["version_set"] != wanted:
        raise _illegal(entry, f"it names set {fields['version_set'][:12]}, {what} is {wanted[:12]}")


def _step(entry: Entry, fields: Mapping[str, Any], *, wanted: int) -> int:
    if fields["step"] != wanted:
        raise _illegal(entry, f"it names step {fields['step']}, the next one is {wanted}")
    return wanted


def _weight(entry: Entry, fields: Mapping[str, Any], *, above: float) -> float:
    weight = float(fields["weight"])
    if not (above < weight <= 1 and weight >= 0):
        raise _illegal(entry, f"its weight {weight:g} is not above {above:g} and at most 1")
    return weight


def _illegal(entry: Entry, reason: str) -> IllegalTransition:
    return IllegalTransition(f"Entry {entry.number} ({entry.event}) is not possible: {reason}.")
