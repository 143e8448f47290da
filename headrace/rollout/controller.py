"""What a rollout does next, and doing it.

`next_action` is pure: it decides on a state, a plan, registered models and review counts. `tick` reads, decides and
appends until there is nothing left to do. Any number of ticks may run at once: each append names the entry it was
decided at, so of two that decided on the same state one wins and the other decides again. A tick killed anywhere
leaves a whole journal, and the next one goes on from its head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from headrace.errors import JournalConflict
from headrace.registry.model_versions import ModelVersion
from headrace.rollout import states
from headrace.rollout.evidence import evidence_for
from headrace.rollout.gates import ReviewCount, decide
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState, fold
from headrace.rollout.version_sets import VersionSet, VersionSets

# The set in which a model version would run as the campaign's file wants it now.
DesiredSet = Callable[[ModelVersion], VersionSet]


class WantsSets(Protocol):
    """What is asked of `headrace.generation.campaign.Campaign`."""

    def version_set(
        self, *, model_version: str, weights_digest: str, weights_uri: str, model_name: str | None = None
    ) -> VersionSet: ...


def desired_set(campaign: WantsSets, model: ModelVersion) -> VersionSet:
    """The set in which `model` runs as `campaign` wants it now."""
    return campaign.version_set(
        model_name=model.model_name,
        model_version=model.version,
        weights_digest=model.weights_digest,
        weights_uri=model.weights_uri,
    )


@dataclass(frozen=True, kw_only=True)
class Action:
    """`none` waits; every other kind is one journal entry with `fields`, after `version_set` was kept."""

    kind: Literal["none", "initialize", "start", "advance", "promote", "abort"]
    reason: str
    version_set: VersionSet | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


_EVENTS = {
    "initialize": states.INITIALIZED,
    "start": states.STARTED,
    "advance": states.ADVANCED,
    "promote": states.PROMOTED,
    "abort": states.ABORTED,
}


def next_action(
    state: RolloutState | None,
    plan: Plan,
    *,
    model_name: str,
    models: Sequence[ModelVersion],
    desired: DesiredSet,
    reviews: Mapping[str, ReviewCount],
) -> Action:
    """Decide one step.

    The base is the first stable set. A campaign file that changed becomes a candidate with the stable model before
    any new model does, so that one switch changes one thing; trained models follow, oldest first, each once.

    Args:
        model_name: the registered model whose versions are candidates.
        models: all known versions, of any model; a version may be there more than once.
        reviews: review counts by version set id.
    """
    versions = sorted((model for model in models if model.model_name == model_name), key=_age)
    if state is None:
        return _initialize(versions, desired, model_name)
    if state.candidate is not None:
        return _judge(state, plan, models, reviews)
    for version in _candidates(state, versions):
        wanted = desired(version)
        if wanted.id != state.stable and wanted.id not in state.aborted:
            return _start(state, plan, version, wanted, reviews)
    return Action(kind="none", reason=f"No version of {model_name} waits to be tried.")


def apply(action: Action, journal: Journal, version_sets: VersionSets, *, expected: int) -> Entry:
    """Write one action down, provided that the journal's head is still `expected`.

    Raises:
        JournalConflict: somebody else wrote first; decide again.
    """
    if action.version_set is not None:
        # Before the journal names it: a reader of the entry must find the set.
        version_sets.put(action.version_set)
    return journal.append(_EVENTS[action.kind], {**action.fields, "reason": action.reason}, expected=expected)


def tick(
    journal: Journal,
    version_sets: VersionSets,
    plan: Plan,
    *,
    model_name: str,
    models: Sequence[ModelVersion],
    desired: DesiredSet,
    reviews: Mapping[str, ReviewCount],
) -> list[Action]:
    """Take the rollout as far as the evidence allows. The last action is the `none` that says what it waits for.

    Ends: each round adds an entry or ends, a step needs rows of its own, and no model is tried twice.
    """
    actions: list[Action] = []
    while True:
        state = fold(journal.entries())
        action = next_action(state, plan, model_name=model_name, models=models, desired=desired, reviews=reviews)
        if action.kind == "none":
            return [*actions, action]
        try:
            apply(action, journal, version_sets, expected=state.head if state else 0)
        except JournalConflict:
            continue
        actions.append(action)


def _initialize(versions: Sequence[ModelVersion], desired: DesiredSet, model_name: str) -> Action:
    base = next((version for version in versions if version.kind == "base"), None)
    if base is None:
        return Action(
            kind="none", reason=f"No base version of {model_name} is registered. Materialize registered_version."
        )
    wanted = desired(base)
    return Action(
        kind="initialize",
        reason=f"the first stable set is the base, {_name(base)}",
        version_set=wanted,
        fields={"version_set": wanted.id, "weights_digest": base.weights_digest},
    )


def _candidates(state: RolloutState, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
    stable = [version for version in versions if version.weights_digest == state.stable_weights]
    trained = [
        version
        for version in versions
        if version.kind == "trained" and version.weights_digest not in state.considered_weights
    ]
    return [*stable[:1], *trained]


def _start(
    state: RolloutState,
    plan: Plan,
    version: ModelVersion,
    wanted: VersionSet,
    reviews: Mapping[str, ReviewCount],
) -> Action:
    changed = version.weights_digest == state.stable_weights
    reason = f"the campaign's settings changed for {_name(version)}" if changed else f"{_name(version)} is new"
    return Action(
        kind="start",
        reason=f"{reason}; it gets {plan.steps[0]:.0%}",
        version_set=wanted,
        fields={
            "version_set": wanted.id,
            "weights_digest": version.weights_digest,
            "step": 0,
            "weight": plan.steps[0],
            # A set that was stable before has rows; none of them speak for this step.
            "num_rows": reviews.get(wanted.id, ReviewCount()).num_rows,
        },
    )


def _judge(
    state: RolloutState, plan: Plan, models: Sequence[ModelVersion], reviews: Mapping[str, ReviewCount]
) -> Action:
    assert state.candidate is not None
    evidence = evidence_for(
        state.candidate,
        state.stable,
        candidate_weights=state.candidate_weights or "",
        stable_weights=state.stable_weights,
        reviews=reviews,
        models=models,
    )
    verdict = decide(evidence, plan.gate, num_rows_at_step=state.num_rows_at_step)
    seen = {"version_set": state.candidate, "num_rows": evidence.candidate.num_rows}
    if verdict.action == "wait":
        return Action(kind="none", reason=f"Candidate {state.candidate[:12]} at {state.weight:.0%}: {verdict.reason}.")
    if verdict.action == "roll_back":
        return Action(kind="abort", reason=verdict.reason, fields=seen)
    # By weight, not by index: a plan that was edited under way goes on at its next higher weight.
    higher = [weight for weight in plan.steps if weight > state.weight]
    if not higher:
        return Action(kind="promote", reason=verdict.reason, fields=seen)
    step = {"step": state.step + 1, "weight": higher[0]}
    return Action(kind="advance", reason=f"{verdict.reason}; it gets {higher[0]:.0%}", fields=seen | step)


def _age(version: ModelVersion) -> int:
    return int(version.version)


def _name(version: ModelVersion) -> str:
    recipe = f" ({version.recipe})" if version.recipe else ""
    return f"{version.model_name} version {version.version}{recipe}"
