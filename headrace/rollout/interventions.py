"""A person's acts on a rollout: each call appends one journal entry, or refuses in one sentence.

People decide by what they saw, and somebody else may write meanwhile. So every call accepts the state that was on the
screen: the event is appended at the head, only if the decision still makes sense. Aborting a set still does after it
moved a step; advancing it by hand does not, since it would then move two steps.

No call asks a registry or loads a model. Nothing here skips preparation: a set gets units only after nodes have
fetched, verified, loaded and tried it (`headrace.rollout.preparation`).
"""

from collections.abc import Callable, Sequence

from headrace.errors import IllegalTransition, InvalidInput, JournalConflict
from headrace.rollout import events, states
from headrace.rollout.events import Event
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.plan import Plan
from headrace.rollout.preparation import PreparationRecord
from headrace.rollout.states import RolloutState, fold
from headrace.rollout.status import percent
from headrace.version_sets.sets import VersionSet


def present_state(journal: Journal) -> RolloutState:
    """Raises: IllegalTransition: the rollout has no stable set yet."""
    state = fold(journal.entries())
    if state is None:
        raise IllegalTransition(f"Rollout {journal.name} has no stable set yet: its first tick names one.")
    return state


def pause(journal: Journal, *, by: str, reason: str, seen: RolloutState | None = None) -> Entry:
    """Keeps the candidate's weight, whatever the evidence, until `resume`. An abort is still possible.

    Raises:
        IllegalTransition: there is no candidate, it is paused, or it is not the one that was `seen`.
    """

    def decide(state: RolloutState) -> Event:
        candidate = _candidate(state, "to pause", seen)
        if state.paused:
            raise IllegalTransition(f"Candidate {_short(candidate)} is paused already{_by(journal, states.PAUSED)}.")
        return events.paused(state)

    return _append(journal, decide, by, reason)


def resume(journal: Journal, *, by: str, reason: str, seen: RolloutState | None = None) -> Entry:
    """Raises: IllegalTransition: there is no candidate, it is not paused, or it is not the one that was `seen`."""

    def decide(state: RolloutState) -> Event:
        candidate = _candidate(state, "to resume", seen)
        if not state.paused:
            raise IllegalTransition(f"Candidate {_short(candidate)} is not paused.")
        return events.resumed(state)

    return _append(journal, decide, by, reason)


def approve(journal: Journal, *, by: str, reason: str, seen: RolloutState | None = None) -> Entry:
    """Lets the candidate leave its present step, once soak time and evidence allow.

    Raises:
        IllegalTransition: there is no candidate, its step is approved already, or it has left the step that was `seen`.
    """

    def decide(state: RolloutState) -> Event:
        candidate = _candidate(state, "to approve", seen)
        _check_same_step(state, seen)
        if state.approved:
            raise IllegalTransition(
                f"That candidate {_short(candidate)} leaves its step of {percent(state.weight)} is approved already"
                f"{_by(journal, states.APPROVED)}."
            )
        return events.approved(state)

    return _append(journal, decide, by, reason)


def abort(
    journal: Journal,
    *,
    by: str,
    reason: str,
    evict: bool = True,
    seen: RolloutState | None = None,
    before: Callable[[str], None] = lambda _: None,
) -> Entry:
    """Rolls the candidate back; it is never tried again. A proposal, which has no units yet, is withdrawn instead.

    Args:
        evict: sessions on the candidate move to the stable set at their next turn; false: they keep it to the end of
            their lease.
        before: called with the candidate right before the entry is appended; ends running work on it.

    Raises:
        IllegalTransition: there is neither candidate nor proposal, or the set that was `seen` is neither any more.
    """

    def decide(state: RolloutState) -> Event:
        target = (seen.candidate or seen.proposed) if seen else (state.candidate or state.proposed)
        if target is None:
            raise IllegalTransition(f"There is no candidate to abort{_stable(state)}.")
        if state.candidate == target:
            before(target)
            return events.aborted(state, num_rows=state.num_rows_at_step, evict=evict)
        if state.proposed == target:
            return events.withdrawn(target)
        raise IllegalTransition(_gone(state, target))

    return _append(journal, decide, by, reason)


def advance(
    journal: Journal,
    *,
    by: str,
    reason: str,
    plan: Plan | None = None,
    weight: float | None = None,
    num_rows: int | None = None,
    seen: RolloutState | None = None,
) -> Entry:
    """Moves the candidate to the plan's next step now, or to `weight`, up or down, without soak time or gate.

    Args:
        plan: needed without `weight`; with it, the cap is that of the plan's step at that weight.
        num_rows: the candidate's reviewed rows so far; the next step is judged by later ones.

    Raises:
        IllegalTransition: no candidate, it is paused, it is at the last step, or not at the step that was `seen`.
        InvalidInput: neither plan nor weight, or a weight outside 0 to 1.
    """
    if weight is None and plan is None:
        raise InvalidInput("Without a plan there is no next step: pass --plan FILE, or --weight W.")
    if weight is not None and not 0 <= weight <= 1:
        raise InvalidInput(f"weight is a share of the units, between 0 and 1, got {weight!r}.")

    def decide(state: RolloutState) -> Event:
        candidate = _candidate(state, "to advance", seen)
        _check_same_step(state, seen)
        if weight is not None:
            if weight == state.weight:
                raise IllegalTransition(f"Candidate {_short(candidate)} has {percent(weight)} of the units already.")
            cap = plan.step_at(weight).cap if plan else state.cap
            return events.reweighted(state, weight=weight, cap=cap)
        assert plan is not None
        _check_moving(state, candidate)
        # By weight, like the controller: after an edit of the plan the next higher weight follows.
        higher = [step for step in plan.steps if step.weight > state.weight]
        if not higher:
            raise IllegalTransition(
                f"Candidate {_short(candidate)} is at the plan's last step ({percent(state.weight)}): promote it with "
                "--promote, or set another weight with --weight."
            )
        seen_rows = state.num_rows_at_step if num_rows is None else num_rows
        return events.advanced(state, weight=higher[0].weight, cap=higher[0].cap, num_rows=seen_rows)

    return _append(journal, decide, by, reason)


def promote(
    journal: Journal, *, by: str, reason: str, plan: Plan | None = None, seen: RolloutState | None = None
) -> Entry:
    """Makes the candidate the stable set. It is prepared, so this needs neither registry nor model.

    Args:
        plan: if given, the candidate must be at its last step.

    Raises:
        IllegalTransition: no candidate, it is paused, not at the last step, or not at the step that was `seen`.
    """

    def decide(state: RolloutState) -> Event:
        candidate = _candidate(state, "to promote", seen)
        _check_same_step(state, seen)
        _check_moving(state, candidate)
        higher = [step for step in plan.steps if step.weight > state.weight] if plan else []
        if higher:
            raise IllegalTransition(
                f"Candidate {_short(candidate)} has {percent(state.weight)}, and the plan goes on to "
                f"{percent(higher[0].weight)}: advance it first, or promote without --plan."
            )
        return events.promoted(state, num_rows=state.num_rows_at_step)

    return _append(journal, decide, by, reason)


def propose(
    journal: Journal, version_set: VersionSet, *, by: str, reason: str, seen: RolloutState | None = None
) -> Entry:
    """Asks for preparation of a kept set; once enough nodes are ready, the controller starts it at the first step.

    Raises:
        IllegalTransition: another set is in progress, or this one is stable or was aborted.
    """

    def decide(state: RolloutState) -> Event:
        _check_startable(state, version_set.id, seen)
        if state.proposed:
            raise IllegalTransition(
                f"Set {_short(state.proposed)} is being prepared already; abort it first to try another one."
            )
        return events.proposed(version_set)

    return _append(journal, decide, by, reason)


def start(
    journal: Journal,
    version_set: VersionSet,
    records: Sequence[PreparationRecord],
    *,
    by: str,
    reason: str,
    weight: float,
    cap: int | None = None,
    quorum: int = 1,
    num_rows: int = 0,
    seen: RolloutState | None = None,
) -> Entry:
    """Gives a prepared proposal its first units, at `weight`.

    Args:
        records: the nodes' records on `seen`'s proposal (`headrace.rollout.preparation.preparations`).

    Raises:
        IllegalTransition: the set is not proposed, or too few nodes have prepared it.
        InvalidInput: the weight is not above 0 and at most 1.
    """
    if not 0 < weight <= 1:
        raise InvalidInput(f"weight is the candidate's share of the units, above 0 and at most 1, got {weight!r}.")

    def decide(state: RolloutState) -> Event:
        _check_startable(state, version_set.id, seen)
        if state.proposed is None or (seen is not None and seen.proposal != state.proposal):
            raise IllegalTransition(
                f"Set {_short(version_set.id)} is not proposed{' any more' if seen and seen.proposed else ''}: "
                "it gets units after nodes have prepared it."
            )
        ready = sorted(record.node for record in records if record.ok)
        for record in records:
            if not record.ok:
                raise IllegalTransition(
                    f"{record.node} cannot prepare set {_short(version_set.id)}: {record.error} Nothing was started."
                )
        if len(ready) < quorum:
            raise IllegalTransition(
                f"{len(ready)} of {quorum} nodes have prepared set {_short(version_set.id)}; it gets units after that. "
                "The rollout sensor or a gateway prepares it."
            )
        return events.started(state, weight=weight, cap=cap, num_rows=num_rows, prepared_by=ready)

    return _append(journal, decide, by, reason)


def _append(journal: Journal, decide: Callable[[RolloutState], Event], by: str, reason: str) -> Entry:
    if not by.strip() or not reason.strip():
        raise InvalidInput(f"The journal keeps who did it and why, got by={by!r} and reason={reason!r}.")
    while True:
        state = present_state(journal)
        event = decide(state)
        signed = {**event.fields, "by": by.strip(), "reason": reason.strip()}
        try:
            return journal.append(event.name, signed, expected=state.head)
        except JournalConflict:
            # Another entry came first: decide again on the new state.
            continue


def _candidate(state: RolloutState, what: str, seen: RolloutState | None) -> str:
    if seen is not None and seen.candidate is not None and state.trial != seen.trial:
        raise IllegalTransition(_gone(state, seen.candidate))
    if state.candidate is None:
        proposed = f"; set {_short(state.proposed)} is still being prepared" if state.proposed else _stable(state)
        raise IllegalTransition(f"There is no candidate {what}{proposed}.")
    return state.candidate


def _check_same_step(state: RolloutState, seen: RolloutState | None) -> None:
    if seen is None or seen.candidate is None:
        return
    if (seen.step, seen.weight, seen.paused) != (state.step, state.weight, state.paused):
        raise IllegalTransition(
            f"Candidate {_short(seen.candidate)} was {_stand(seen)} when you looked (entry {seen.head}) and is "
            f"{_stand(state)} now (entry {state.head}): look again, then decide again."
        )


def _check_moving(state: RolloutState, candidate: str) -> None:
    if state.paused:
        raise IllegalTransition(f"Candidate {_short(candidate)} is paused; resume it first.")


def _check_startable(state: RolloutState, version_set: str, seen: RolloutState | None) -> None:
    if seen is not None and seen.candidate is None and state.candidate == version_set:
        raise IllegalTransition(f"Set {_short(version_set)} was started meanwhile: it has {percent(state.weight)}.")
    if state.candidate:
        raise IllegalTransition(
            f"Candidate {_short(state.candidate)} is still on its way at {percent(state.weight)}; promote or abort it "
            "first."
        )
    if version_set == state.stable:
        raise IllegalTransition(f"Set {_short(version_set)} is the stable one already.")
    if version_set in state.aborted:
        raise IllegalTransition(
            f"Set {_short(version_set)} was rolled back before, and no set is tried twice; change a setting or the "
            "model and propose the new set."
        )
    if state.proposed and state.proposed != version_set:
        raise IllegalTransition(f"Set {_short(state.proposed)} is being prepared; abort it first to try another one.")


def _gone(state: RolloutState, target: str) -> str:
    """Says why a set that was seen in progress no longer is."""
    if target == state.stable:
        return (
            f"Set {_short(target)} was promoted meanwhile and is stable: to go back, start the set that was stable "
            "before it."
        )
    fate = "rolled back" if target in state.aborted else "withdrawn" if target in state.withdrawn else "replaced"
    return (
        f"Set {_short(target)} was {fate} meanwhile (entry {state.head} is the newest): look again, then decide again."
    )


def _stand(state: RolloutState) -> str:
    return f"{'paused ' if state.paused else ''}at {percent(state.weight)}"


def _stable(state: RolloutState) -> str:
    return f": set {_short(state.stable)} is stable and gets every unit"


def _by(journal: Journal, event: str) -> str:
    newest = next((entry for entry in reversed(journal.entries()) if entry.event == event), None)
    return f", by {newest.fields.get('by', 'the controller')} in entry {newest.number}" if newest else ""


def _short(version_set: str) -> str:
    return version_set[:12]
