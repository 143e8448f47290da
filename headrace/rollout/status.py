"""One rollout for people: what is stable, what is on trial, how far, why, and what happened before.

A view that reads journal, sets, caps and preparation records at one moment. It decides nothing and knows no Dagster,
terminal or HTML; the commands, the page and the asset's metadata show it. An unreadable set is shown with its error,
beside the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.rollout import states
from headrace.rollout.caps import num_places
from headrace.rollout.gates import Evidence, Verdict
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.plan import Plan
from headrace.rollout.preparation import PreparationRecord, preparations
from headrace.rollout.states import RolloutState, after
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, PassedOver
from headrace.version_sets.sets import Difference, VersionSet, VersionSets, diff, models_by_role

SHORT = 12
# Author of an entry that names none.
CONTROLLER = "controller"


@dataclass(frozen=True, kw_only=True)
class SetView:
    """One set of the journal. `standing`: stable, candidate, proposed, rolled back, withdrawn or retired."""

    id: str
    standing: str
    version_set: VersionSet | None
    # Why it cannot be read; None: it can be.
    error: str | None = None

    @property
    def short(self) -> str:
        return self.id[:SHORT]

    @property
    def label(self) -> str:
        """Its models by role: `writer=glossary:3, judge=referee:1`."""
        return self.version_set.label if self.version_set else "cannot be read"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The state right after one entry, for the chart of weights."""

    entry: Entry
    stable: str
    candidate: str | None
    weight: float


@dataclass(frozen=True, kw_only=True)
class BadRows:
    """A rolled-back set's rows in one sealed version. `is_published`: readers still get them."""

    version_set: str
    partition: str
    version: int
    num_rows: int
    is_published: bool


@dataclass(frozen=True, kw_only=True)
class RolloutStatus:
    """The rollout at time `now` (seconds since the epoch). `state` None: no set is stable yet."""

    name: str
    now: float
    entries: tuple[Entry, ...]
    state: RolloutState | None
    sets: Mapping[str, SetView]
    history: tuple[Moment, ...]
    # Differences between the sets of `compared`, by setting: from the stable set to the one in progress or the last one
    # that went; after a promotion, from the previous set to the stable one.
    changes: tuple[Difference, ...] = ()
    compared: tuple[str, str] | None = None
    # For the proposal, or for the proposal of the present candidate.
    preparations: tuple[PreparationRecord, ...] = ()
    # Units leased to the candidate; None: there is no candidate, it has no cap, or the number is unknown.
    num_units: int | None = None
    plan: Plan | None = None
    # The state in which a candidate is or was last on trial (`last_trial`), and the evidence on its two sets.
    trial: RolloutState | None = None
    evidence: Evidence | None = None
    # The gate's verdict, or its last one on a finished trial.
    verdict: Verdict | None = None
    # Aliases that differ from the journal; None: MLflow was not asked.
    drift: tuple[str, ...] | None = None
    # Rows that rolled-back sets made; None: not looked for.
    bad_rows: tuple[BadRows, ...] | None = None
    # What could not be read, what that means and what to do, in one or more sentences each.
    damaged: tuple[str, ...] = ()

    @property
    def last(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    @property
    def since(self) -> float | None:
        """When units' assignment last changed: the newest entry that moved a weight or a set."""
        if self.state and self.state.step_started_at is not None:
            return self.state.step_started_at
        moved = [entry for entry in self.entries if entry.event not in _MOVES_NOTHING]
        return moved[-1].at if moved else None

    @property
    def step_words(self) -> str:
        """`2 of 3` with a plan, `2` without one; empty without a candidate."""
        if self.state is None or self.state.candidate is None:
            return ""
        if self.plan is None:
            return str(self.state.step + 1)
        weight = self.state.weight
        number = sum(1 for step in self.plan.steps if step.weight <= weight)
        return f"{max(number, 1)} of {len(self.plan.steps)}"

    @property
    def headline(self) -> str:
        """The rollout's standing in one sentence."""
        state = self.state
        if state is None:
            return "Nothing is stable yet: the first tick names a set."
        if state.candidate:
            paused = ", paused" if state.paused else ""
            return (
                f"{self._named(state.candidate)} gets {percent(state.weight)} of the units beside "
                f"{self._named(state.stable)}{paused}."
            )
        if state.proposed:
            ready = sum(1 for record in self.preparations if record.ok)
            quorum = f" of {self.plan.quorum}" if self.plan else ""
            return (
                f"{self._named(state.proposed)} is being prepared: {ready}{quorum} "
                f"{'node has' if ready == 1 and not quorum else 'nodes have'} it; {self._named(state.stable)} gets "
                "every unit."
            )
        settled = next((entry for entry in reversed(self.entries) if entry.event in _SETTLES), None)
        if settled is not None and settled.event != states.PROMOTED:
            gone = self._named(settled.fields["version_set"])
            fate = "was rolled back" if settled.event == states.ABORTED else "was withdrawn"
            return f"{gone} {fate}; {self._named(state.stable)} gets every unit."
        return f"{self._named(state.stable)} is stable and gets every unit."

    def models_of(self, version_set: str) -> str:
        """The models in which the two compared sets differ; shared ones would tell nothing."""
        view = self.sets[version_set]
        if view.version_set is None:
            return view.label
        others = [self.sets[one].version_set for one in self.compared or ()]
        shared = [set(one.members) for one in others if one is not None]
        common = set.intersection(*shared) if len(shared) == 2 else set()
        own = tuple(member for member in view.version_set.members if member not in common)
        return models_by_role(own or view.version_set.members)

    def _named(self, version_set: str) -> str:
        view = self.sets[version_set]
        return f"set {view.short}" if view.error else f"{self.models_of(version_set)} ({view.short[:8]})"


# Entries that do not change which set units get.
_MOVES_NOTHING = {states.PROPOSED, states.WITHDRAWN, states.APPROVED, states.PAUSED, states.RESUMED}
_SETTLES = {states.PROMOTED, states.ABORTED, states.WITHDRAWN}


def read_status(
    store: ObjectStore,
    name: str,
    clock: Clock,
    *,
    entries: tuple[Entry, ...] | None = None,
    version_sets: VersionSets | None = None,
    plan: Plan | None = None,
    evidence: Evidence | None = None,
    verdict: Verdict | None = None,
    drift: Sequence[str] | None = None,
    bad_rows: Sequence[BadRows] | None = None,
    damaged: PassedOver | None = None,
) -> RolloutStatus:
    """Reads one rollout. The caller provides what costs more than journal and sets: evidence, rows, MLflow's drift.

    Args:
        entries, version_sets: if the caller has read them already.
        damaged: what the caller could not read; this adds what it cannot read itself.

    Raises:
        JournalCorrupt: an entry was changed. IllegalTransition: the entries are impossible in their order.
    """
    if entries is None:
        entries = Journal(store, name, clock).entries()
    state: RolloutState | None = None
    history: list[Moment] = []
    for entry in entries:
        state = after(state, entry)
        history.append(Moment(entry=entry, stable=state.stable, candidate=state.candidate, weight=state.weight))
    sets = _read_sets(version_sets or VersionSets(store), entries, state)
    compared = _compared(entries, state)
    damaged = damaged or PassedOver()
    num_units = _units_leased(store, name, state, damaged)
    return RolloutStatus(
        name=name,
        now=clock.now(),
        entries=entries,
        state=state,
        sets=sets,
        history=tuple(history),
        changes=_changes(sets, compared),
        compared=compared,
        preparations=_preparations(store, name, entries, state),
        num_units=num_units,
        plan=plan,
        trial=last_trial(entries),
        evidence=evidence,
        verdict=verdict,
        drift=None if drift is None else tuple(drift),
        bad_rows=None if bad_rows is None else tuple(bad_rows),
        damaged=tuple(damaged.sentences),
    )


def by_whom(entry: Entry) -> str:
    return str(entry.fields.get("by") or CONTROLLER)


def percent(share: float) -> str:
    """`10%`, or `0.5%` where whole percents would hide it."""
    return f"{share * 100:.4g}%"


def standing_of(version_set: str, state: RolloutState | None) -> str:
    if state is None:
        return "unknown"
    places = {state.stable: "stable", state.candidate: "candidate", state.proposed: "proposed"}
    if version_set in places:
        return places[version_set]
    if version_set in state.aborted:
        return "rolled back"
    return "withdrawn" if version_set in state.withdrawn else "retired"


def _read_sets(version_sets: VersionSets, entries: Sequence[Entry], state: RolloutState | None) -> dict[str, SetView]:
    views: dict[str, SetView] = {}
    for named in dict.fromkeys(entry.fields["version_set"] for entry in entries if "version_set" in entry.fields):
        found, error = None, None
        try:
            found = version_sets.get(named)
        except (ObjectMissing, HandoffCorrupt) as failure:
            error = str(failure)
        views[named] = SetView(id=named, standing=standing_of(named, state), version_set=found, error=error)
    return views


def _changes(sets: Mapping[str, SetView], compared: tuple[str, str] | None) -> tuple[Difference, ...]:
    before, behind = (sets[one].version_set for one in compared) if compared else (None, None)
    return diff(before, behind) if before and behind else ()


def _compared(entries: Sequence[Entry], state: RolloutState | None) -> tuple[str, str] | None:
    if state is None:
        return None
    if on_its_way := state.candidate or state.proposed:
        return state.stable, on_its_way
    settled = next((entry for entry in reversed(entries) if entry.event in _SETTLES), None)
    if settled is None:
        return None
    if settled.event != states.PROMOTED:
        return state.stable, settled.fields["version_set"]
    before = previous_stable(entries)
    return (before, state.stable) if before else None


def last_trial(entries: Sequence[Entry]) -> RolloutState | None:
    """The state in which a candidate is or was last on trial, right before its promotion or abort; None: never.

    The knowledge at that time explains a decision afterwards.
    """
    found: RolloutState | None = None
    state: RolloutState | None = None
    for entry in entries:
        state = after(state, entry)
        if state.candidate is not None:
            found = state
    return found


def previous_stable(entries: Sequence[Entry]) -> str | None:
    """The set that was stable before the present one; None: there was none."""
    stables = [entry.fields["version_set"] for entry in entries if entry.event in (states.INITIALIZED, states.PROMOTED)]
    return stables[-2] if len(stables) > 1 else None


def _preparations(
    store: ObjectStore, name: str, entries: Sequence[Entry], state: RolloutState | None
) -> tuple[PreparationRecord, ...]:
    proposals = [entry.number for entry in entries if entry.event == states.PROPOSED]
    if state is None or not proposals:
        return ()
    return tuple(preparations(store, name, state.proposal or proposals[-1]))


def _units_leased(store: ObjectStore, name: str, state: RolloutState | None, damaged: Damaged) -> int | None:
    if state is None or state.candidate is None or state.cap is None:
        return None
    try:
        return num_places(store, name, state.trial)
    except HandoffCorrupt as error:
        damaged(error)
        return None
