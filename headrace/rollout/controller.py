"""Decides a rollout's next action, and carries it out.

`next_action` is pure: it decides by a state, a plan and facts. `tick` reads, decides and appends until nothing is left
to do. Any number of ticks may run at once: each append names the entry that it was decided at, so if two decide on the
same state, one wins and the other decides again. A tick that is killed anywhere leaves a whole journal, and the next
tick continues from its head.

A new set is proposed first. It starts once the plan's quorum of nodes has fetched, verified, loaded and tried all of
it. Aborting or promoting a prepared set needs neither the registry nor a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from headrace.clock import Clock
from headrace.errors import JournalConflict
from headrace.rollout import events
from headrace.rollout.candidates import Candidates, Wanted
from headrace.rollout.events import Event
from headrace.rollout.gates import Evidence, Verdict, decide
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.plan import Plan, Step
from headrace.rollout.preparation import PreparationRecord, Prepare, failure_of, prepare_here
from headrace.rollout.states import RolloutState, fold
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import VersionSet, VersionSets


@dataclass(frozen=True, kw_only=True)
class Action:
    """`none` waits; `prepare` is work for this node; every other kind is one journal entry, `event`."""

    kind: Literal["none", "initialize", "propose", "prepare", "withdraw", "start", "advance", "promote", "abort"]
    reason: str
    # The set that must be kept before the journal names it.
    version_set: VersionSet | None = None
    event: Event | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.event.fields if self.event else {}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The inputs of a decision beside journal and plan; callables are called only if their answer matters."""

    candidates: Candidates
    now: float
    # The evidence on candidate and stable set.
    evidence: Callable[[RolloutState], Evidence] = lambda _: Evidence()
    # Proposal → its nodes' records.
    preparations: Callable[[int], Sequence[PreparationRecord]] = lambda _: ()
    # This node's name, if it has to prepare sets; None: gateways prepare by themselves.
    node: str | None = None
    # Why the registry forbids a set now; None: it does not. Never called for a prepared set.
    refusal: Callable[[VersionSet], str | None] = lambda _: None
    # Ends running work on a set right before its rollback, so that the work cannot be sealed afterwards.
    before_abort: Callable[[str], None] = lambda _: None
    # What could not be read, and so did not enter the decision.
    damaged: PassedOver = field(default_factory=PassedOver)


def next_action(state: RolloutState | None, plan: Plan, facts: Facts) -> Action:
    """Decides one step."""
    if state is None:
        return _initialize(facts)
    if state.candidate is not None:
        return _judge(state, plan, facts)
    if state.proposed is not None:
        return _prepared(state, plan, facts)
    wanted = facts.candidates.following(state)
    if wanted is None:
        return Action(kind="none", reason=facts.candidates.missing)
    return _with_set("propose", wanted, facts)


def apply(action: Action, journal: Journal, version_sets: VersionSets, *, expected: int) -> Entry:
    """Appends one action to the journal, if its head is still `expected`.

    Raises:
        JournalConflict: another writer came first; decide again.
    """
    if action.version_set is not None:
        # Before the journal names it, since a reader of the entry must find the set.
        version_sets.put(action.version_set)
    assert action.event is not None
    return journal.append(action.event.name, {**action.event.fields, "reason": action.reason}, expected=expected)


def tick(
    journal: Journal,
    version_sets: VersionSets,
    plan: Plan,
    facts: Facts,
    *,
    store: ObjectStore,
    clock: Clock,
    prepare: Prepare | None = None,
) -> list[Action]:
    """Takes the rollout as far as the evidence allows. The last action is a `none` that says what it waits for.

    It ends, because each round adds an entry, prepares a proposal on this node, or returns; a step needs its own rows,
    and no set is tried twice.

    Args:
        prepare: makes one set ready on `facts.node`; raises if a member is missing, damaged or unusable. Any exception
            is a recorded refusal, and so is taking longer than the plan's `prepare_seconds`.
    """
    actions: list[Action] = []
    while True:
        state = fold(journal.entries())
        action = next_action(state, plan, facts)
        if action.kind == "none":
            return [*actions, action]
        if action.kind == "prepare":
            assert state is not None
            if prepare is None or facts.node is None or state.proposed is None:
                return [*actions, Action(kind="none", reason=action.reason)]
            prepare_here(
                store,
                journal.name,
                state.proposal,
                partial(_make_ready, version_sets, state.proposed, prepare),
                node=facts.node,
                clock=clock,
                seconds_max=plan.prepare_seconds,
            )
            actions.append(action)
            continue
        if action.kind == "initialize" and (failure := _failure(prepare, action.version_set, plan)):
            return [*actions, Action(kind="none", reason=f"The first set cannot be prepared: {failure}")]
        if action.kind == "abort":
            facts.before_abort(action.fields["version_set"])
        try:
            apply(action, journal, version_sets, expected=state.head if state else 0)
        except JournalConflict:
            continue
        actions.append(action)


def verdict_on(state: RolloutState, plan: Plan, evidence: Evidence, *, now: float) -> Verdict:
    """The plan gate's present verdict on the candidate."""
    return decide(
        evidence,
        plan.gate,
        num_rows_at_step=state.num_rows_at_step,
        is_last_step=all(step.weight <= state.weight for step in plan.steps),
        trial_seconds=now - (state.started_at or now),
    )


def _initialize(facts: Facts) -> Action:
    first = facts.candidates.first()
    if first is None:
        return Action(kind="none", reason=facts.candidates.missing)
    return _with_set("initialize", first, facts)


def _with_set(kind: Literal["initialize", "propose"], wanted: Wanted, facts: Facts) -> Action:
    if refusal := facts.refusal(wanted.version_set):
        return Action(kind="none", reason=f"{_capitalized(wanted.reason)}, but is not tried now: {refusal}")
    event = (events.initialized if kind == "initialize" else events.proposed)(wanted.version_set)
    return Action(kind=kind, reason=wanted.reason, version_set=wanted.version_set, event=event)


def _make_ready(version_sets: VersionSets, set_id: str, prepare: Prepare) -> VersionSet:
    version_set = version_sets.get(set_id)
    prepare(version_set)
    return version_set


def _failure(prepare: Prepare | None, version_set: VersionSet | None, plan: Plan) -> str | None:
    if prepare is None or version_set is None:
        return None
    return failure_of(partial(prepare, version_set), seconds_max=plan.prepare_seconds)


def _prepared(state: RolloutState, plan: Plan, facts: Facts) -> Action:
    assert state.proposed is not None
    assert state.proposed_at is not None
    records = facts.preparations(state.proposal)
    ready = [record.node for record in records if record.ok]
    withdrawn = events.withdrawn(state.proposed)
    for record in records:
        if not record.ok:
            return Action(kind="withdraw", reason=f"{record.node} cannot prepare it: {record.error}", event=withdrawn)
    if len(ready) >= plan.quorum:
        first = plan.steps[0]
        # A set that was stable before has rows already; they do not count for this step.
        num_rows = facts.evidence(state).num_seen
        return Action(
            kind="start",
            reason=f"{', '.join(sorted(ready))} prepared it; it gets {first.weight:.0%}",
            event=events.started(state, weight=first.weight, cap=first.cap, num_rows=num_rows, prepared_by=ready),
        )
    waited_seconds = facts.now - state.proposed_at
    waiting = f"{len(ready)} of {plan.quorum} nodes have prepared set {state.proposed[:12]}"
    # Before this node's own try: if each try is killed, no record ever ends them.
    if waited_seconds >= plan.prepare_seconds:
        return Action(kind="withdraw", reason=f"{waiting} after {waited_seconds:.0f} s", event=withdrawn)
    if facts.node is not None and facts.node not in ready:
        return Action(kind="prepare", reason=waiting)
    return Action(kind="none", reason=f"{waiting}; it is withdrawn in {plan.prepare_seconds - waited_seconds:.0f} s.")


def _judge(state: RolloutState, plan: Plan, facts: Facts) -> Action:
    assert state.candidate is not None
    # By weight, not by index: after an edit of the plan the next higher weight follows.
    higher = [step for step in plan.steps if step.weight > state.weight]
    evidence = facts.evidence(state)
    verdict = verdict_on(state, plan, evidence, now=facts.now)
    num_rows = evidence.num_seen
    if verdict.action == "roll_back":
        event = events.aborted(state, num_rows=num_rows, evict=plan.evict_sessions)
        return Action(kind="abort", reason=verdict.reason, event=event)
    waits_for = verdict.reason if verdict.action == "wait" else _held_by(state, plan.step_at(state.weight), facts.now)
    if waits_for is not None:
        return Action(kind="none", reason=f"Candidate {state.candidate[:12]} at {state.weight:.0%}: {waits_for}.")
    if not higher:
        return Action(kind="promote", reason=verdict.reason, event=events.promoted(state, num_rows=num_rows))
    reason = f"{verdict.reason}; it gets {higher[0].weight:.0%}"
    event = events.advanced(state, weight=higher[0].weight, cap=higher[0].cap, num_rows=num_rows)
    return Action(kind="advance", reason=reason, event=event)


def _held_by(state: RolloutState, step: Step, now: float) -> str | None:
    """What keeps a candidate at a step although its evidence would let it leave."""
    if state.paused:
        return "paused; `headrace rollout resume` lets it go on"
    soaked_seconds = now - (state.step_started_at or now)
    if soaked_seconds < step.soak_seconds:
        return f"soaks for {step.soak_seconds - soaked_seconds:.0f} s more"
    if step.approval and not state.approved:
        return "waits for approval; `headrace rollout approve` gives it"
    return None


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
