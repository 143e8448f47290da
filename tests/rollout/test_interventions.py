"""What people do to a rollout, alone and against each other."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import IllegalTransition, InvalidInput
from headrace.rollout import interventions
from headrace.rollout.interventions import present_state
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.plan import Plan, Step
from headrace.rollout.preparation import PreparationRecord
from headrace.rollout.states import RolloutState, fold
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSet
from tests.rollout.builders import desired, make_model, steps

STABLE, NEW, OTHER = (desired(make_model(version)) for version in (1, 2, 3))
PLAN = Plan(steps=steps(0.1, 0.5), salt="glossary")
ANA: dict[str, Any] = {"by": "ana", "reason": "a look at it"}
READY = (PreparationRecord(node="node-a", ok=True, seconds=1.0, members=("writer",), at=0.0),)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return begin(tmp_path)


def begin(directory: Path) -> Journal:
    journal = Journal(LocalStore(directory), "glossary", FixedClock())
    journal.append("initialized", {"version_set": STABLE.id, "weights_digest": "weights-1", "reason": "b"}, expected=0)
    return journal


def another_reader(journal: Journal) -> Journal:
    """As a second person's process has it."""
    return Journal(journal._store, journal.name, FixedClock())


def start(journal: Journal, version_set: VersionSet = NEW, **changes: Any) -> Entry:
    interventions.propose(journal, version_set, **ANA)
    return interventions.start(journal, version_set, READY, **{"weight": 0.1, **ANA, **changes})


def state_of(journal: Journal) -> RolloutState:
    return present_state(journal)


def test_a_set_is_proposed_prepared_started_and_promoted_by_hand(journal: Journal) -> None:
    start(journal, cap=100)
    interventions.advance(journal, plan=PLAN, num_rows=30, **ANA)
    interventions.promote(journal, plan=PLAN, **ANA)
    assert [entry.event for entry in journal.entries()][1:] == ["proposed", "started", "advanced", "promoted"]
    assert [entry.fields["by"] for entry in journal.entries()[1:]] == ["ana"] * 4
    assert journal.entries()[2].fields["prepared_by"] == ["node-a"]
    assert journal.entries()[3].fields["num_rows"] == 30
    assert (state_of(journal).stable, state_of(journal).weight) == (NEW.id, 0.0)


def test_a_set_that_was_stable_before_can_be_started_again(journal: Journal) -> None:
    start(journal)
    interventions.promote(journal, **ANA)
    start(journal, STABLE)
    assert state_of(journal).candidate == STABLE.id


def test_a_weight_set_by_hand_may_go_up_and_down_and_takes_the_steps_cap(journal: Journal) -> None:
    plan = Plan(steps=(Step(weight=0.1, cap=50), Step(weight=0.5, cap=500)), salt="glossary")
    start(journal, cap=50)
    interventions.advance(journal, weight=0.6, plan=plan, **ANA)
    assert (state_of(journal).weight, state_of(journal).cap) == (0.6, 500)
    interventions.advance(journal, weight=0.05, **ANA)
    assert (state_of(journal).weight, state_of(journal).cap) == (0.05, 500)
    assert state_of(journal).step == 0


def test_a_paused_candidate_can_be_aborted_and_lowered_and_nothing_else(journal: Journal) -> None:
    start(journal)
    interventions.pause(journal, **ANA)
    for refused in (interventions.promote, lambda *a, **k: interventions.advance(*a, plan=PLAN, **k)):
        with pytest.raises(IllegalTransition, match="is paused; resume it first"):
            refused(journal, **ANA)
    interventions.advance(journal, weight=0.01, **ANA)
    interventions.abort(journal, evict=False, **ANA)
    assert state_of(journal).aborted == {NEW.id}
    assert state_of(journal).evicted == frozenset()


def test_an_abort_moves_sessions_unless_they_are_kept(journal: Journal) -> None:
    start(journal)
    interventions.abort(journal, **ANA)
    assert state_of(journal).evicted == {NEW.id}


def test_aborting_a_proposal_withdraws_it_and_it_may_be_proposed_again(journal: Journal) -> None:
    interventions.propose(journal, NEW, **ANA)
    assert interventions.abort(journal, **ANA).event == "withdrawn"
    interventions.propose(journal, NEW, **ANA)
    assert state_of(journal).proposed == NEW.id


def test_a_proposal_by_hand_names_the_weights_as_the_controller_does(journal: Journal) -> None:
    """So a campaign's model that was tried by hand is not tried again."""
    assert interventions.propose(journal, NEW, **ANA).fields["weights_digest"] == NEW.weights_digest


Arrange = Callable[[Journal], object]
REFUSALS: dict[str, tuple[Arrange, Arrange, str]] = {
    "pausing nothing": (
        lambda j: None,
        lambda j: interventions.pause(j, **ANA),
        f"no candidate to pause: set {STABLE.id[:12]} is stable and gets every unit",
    ),
    "pausing a proposal": (
        lambda j: interventions.propose(j, NEW, **ANA),
        lambda j: interventions.pause(j, **ANA),
        f"no candidate to pause; set {NEW.id[:12]} is still being prepared",
    ),
    "pausing twice": (
        lambda j: (start(j), interventions.pause(j, by="mika", reason="lunch")),
        lambda j: interventions.pause(j, **ANA),
        "is paused already, by mika in entry 4",
    ),
    "resuming what runs": (start, lambda j: interventions.resume(j, **ANA), "is not paused"),
    "approving twice": (
        lambda j: (start(j), interventions.approve(j, **ANA)),
        lambda j: interventions.approve(j, **ANA),
        "leaves its step of 10% is approved already, by ana in entry 4",
    ),
    "aborting nothing": (lambda j: None, lambda j: interventions.abort(j, **ANA), "There is no candidate to abort"),
    "advancing nowhere": (
        start,
        lambda j: interventions.advance(j, **ANA),
        "Without a plan there is no next step: pass --plan FILE, or --weight W",
    ),
    "advancing past the last step": (
        lambda j: start(j, weight=0.5),
        lambda j: interventions.advance(j, plan=PLAN, **ANA),
        r"at the plan's last step \(50%\): promote it with --promote",
    ),
    "a weight above all": (start, lambda j: interventions.advance(j, weight=1.5, **ANA), "between 0 and 1, got 1.5"),
    "a weight that is none": (
        start,
        lambda j: interventions.advance(j, weight=float("nan"), **ANA),
        "between 0 and 1, got nan",
    ),
    "the same weight": (start, lambda j: interventions.advance(j, weight=0.1, **ANA), "has 10% of the units already"),
    "promoting before the last step": (
        start,
        lambda j: interventions.promote(j, plan=PLAN, **ANA),
        "has 10%, and the plan goes on to 50%: advance it first, or promote without --plan",
    ),
    "proposing the stable set": (
        lambda j: None,
        lambda j: interventions.propose(j, STABLE, **ANA),
        "is the stable one already",
    ),
    "proposing beside a candidate": (
        start,
        lambda j: interventions.propose(j, OTHER, **ANA),
        "is still on its way at 10%; promote or abort it first",
    ),
    "proposing beside a proposal": (
        lambda j: interventions.propose(j, NEW, **ANA),
        lambda j: interventions.propose(j, OTHER, **ANA),
        "is being prepared; abort it first",
    ),
    "proposing what went back": (
        lambda j: (start(j), interventions.abort(j, **ANA)),
        lambda j: interventions.propose(j, NEW, **ANA),
        "was rolled back before, and no set is tried twice",
    ),
    "starting without a proposal": (
        lambda j: None,
        lambda j: interventions.start(j, NEW, READY, weight=0.1, **ANA),
        "is not proposed: it gets units after nodes have prepared it",
    ),
    "starting what nobody prepared": (
        lambda j: interventions.propose(j, NEW, **ANA),
        lambda j: interventions.start(j, NEW, (), weight=0.1, **ANA),
        "0 of 1 nodes have prepared set",
    ),
    "starting what one node cannot load": (
        lambda j: interventions.propose(j, NEW, **ANA),
        lambda j: interventions.start(
            j,
            NEW,
            (*READY, PreparationRecord(node="node-b", ok=False, error="Part torn.", seconds=1.0, at=0.0)),
            weight=0.1,
            **ANA,
        ),
        "node-b cannot prepare set .*: Part torn. Nothing was started",
    ),
    "starting at no weight": (
        lambda j: interventions.propose(j, NEW, **ANA),
        lambda j: interventions.start(j, NEW, READY, weight=0.0, **ANA),
        "above 0 and at most 1, got 0.0",
    ),
    "nobody": (start, lambda j: interventions.pause(j, by=" ", reason="r"), "keeps who did it and why, got by=' '"),
    "no reason": (start, lambda j: interventions.abort(j, by="ana", reason=""), "got by='ana' and reason=''"),
}


@pytest.mark.parametrize("mistake", REFUSALS)
def test_a_refusal_says_why_and_changes_nothing(mistake: str, journal: Journal) -> None:
    arrange, act, message = REFUSALS[mistake]
    arrange(journal)
    before = journal.head()
    with pytest.raises((IllegalTransition, InvalidInput), match=message):
        act(journal)
    assert another_reader(journal).head() == before


def test_a_rollout_without_a_stable_set_can_not_be_changed(tmp_path: Path) -> None:
    with pytest.raises(IllegalTransition, match="has no stable set yet"):
        interventions.pause(Journal(LocalStore(tmp_path), "glossary", FixedClock()), **ANA)


def test_an_abort_still_holds_after_the_candidate_moved_a_step(journal: Journal) -> None:
    start(journal)
    seen = state_of(journal)
    interventions.advance(another_reader(journal), plan=PLAN, by="controller", reason="well")
    interventions.abort(journal, seen=seen, **ANA)
    assert state_of(journal).aborted == {NEW.id}


def test_an_abort_of_a_proposal_holds_after_it_was_started(journal: Journal) -> None:
    interventions.propose(journal, NEW, **ANA)
    seen = state_of(journal)
    interventions.start(another_reader(journal), NEW, READY, weight=0.1, by="controller", reason="prepared")
    assert interventions.abort(journal, seen=seen, **ANA).event == "aborted"


def test_two_people_who_advance_move_one_step(journal: Journal) -> None:
    plan = Plan(steps=steps(0.1, 0.3, 0.5))
    start(journal)
    seen = state_of(journal)
    interventions.advance(another_reader(journal), plan=plan, by="mika", reason="well")
    with pytest.raises(IllegalTransition, match="was at 10% when you looked .* and is at 30% now"):
        interventions.advance(journal, plan=plan, seen=seen, **ANA)


def test_what_was_meant_for_one_candidate_never_reaches_the_next(journal: Journal) -> None:
    start(journal)
    seen = state_of(journal)
    other = another_reader(journal)
    interventions.abort(other, by="mika", reason="rude")
    start(other, OTHER)
    for act in (interventions.pause, interventions.approve, interventions.promote, interventions.abort):
        with pytest.raises(IllegalTransition, match=f"Set {NEW.id[:12]} was rolled back meanwhile"):
            act(journal, seen=seen, **ANA)
    assert state_of(journal).candidate == OTHER.id


def test_an_abort_that_comes_after_the_promotion_says_how_to_go_back(journal: Journal) -> None:
    start(journal)
    seen = state_of(journal)
    interventions.promote(another_reader(journal), by="mika", reason="fine")
    with pytest.raises(IllegalTransition, match="was promoted meanwhile and is stable: to go back, start the set"):
        interventions.abort(journal, seen=seen, **ANA)


class Interrupted(LocalStore):
    """A store on which somebody else's event comes in right before the next entry is made."""

    before: Callable[[], object] | None = None

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        if self.before is not None and "/journal/" in key:
            before, self.before = self.before, None
            before()
        return super().create(key, body, durable=durable)


def test_an_event_that_lost_the_race_is_decided_again_on_what_won(tmp_path: Path) -> None:
    start(begin(tmp_path))
    store = Interrupted(tmp_path)
    mine, other = Journal(store, "glossary", FixedClock()), Journal(LocalStore(tmp_path), "glossary", FixedClock())
    store.before = lambda: interventions.advance(other, plan=PLAN, by="controller", reason="well")
    interventions.abort(mine, **ANA)
    assert [entry.event for entry in mine.entries()][-2:] == ["advanced", "aborted"]

    start(other, OTHER)
    store.before = lambda: interventions.abort(other, by="mika", reason="rude")
    with pytest.raises(IllegalTransition, match="There is no candidate to pause"):
        interventions.pause(mine, **ANA)


ACTS: dict[str, Callable[..., Entry]] = {
    "pause": interventions.pause,
    "resume": interventions.resume,
    "approve": interventions.approve,
    "abort": interventions.abort,
    "keep": lambda journal, **stated: interventions.abort(journal, evict=False, **stated),
    "step": lambda journal, **stated: interventions.advance(journal, plan=PLAN, **stated),
    "lower": lambda journal, **stated: interventions.advance(journal, weight=0.02, **stated),
    "raise": lambda journal, **stated: interventions.advance(journal, weight=1.0, **stated),
    "promote": interventions.promote,
    "propose": lambda journal, **stated: interventions.propose(journal, NEW, **stated),
    "propose other": lambda journal, **stated: interventions.propose(journal, OTHER, **stated),
    "back": lambda journal, **stated: interventions.propose(journal, STABLE, **stated),
    "start": lambda journal, **stated: interventions.start(journal, NEW, READY, weight=0.1, **stated),
    "start other": lambda journal, **stated: interventions.start(journal, OTHER, READY, weight=0.1, **stated),
}
# Who acts, what they do, on a fresh look or on what they saw before, and what the other one does in between.
MOVES = st.tuples(st.integers(0, 1), st.sampled_from(sorted(ACTS)), st.booleans(), st.sampled_from(["", *sorted(ACTS)]))


@given(st.lists(MOVES, max_size=16))
def test_two_people_racing_never_make_an_illegal_journal(moves: list[tuple[int, str, bool, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        begin(Path(directory))
        stores = [Interrupted(Path(directory)) for _ in range(2)]
        journals = [Journal(store, "glossary", FixedClock()) for store in stores]
        seen = [present_state(journal) for journal in journals]
        for who, act, looks, between in moves:
            mine, other = journals[who], journals[1 - who]
            if looks:
                seen[who] = present_state(mine)
            if between:
                stores[who].before = lambda act=between, other=other: attempt(act, other)
            attempt(act, mine, seen=seen[who])
            stores[who].before = None
        assert journals[0].entries() == journals[1].entries()
        journals[0].verify()
        assert fold(journals[0].entries()) is not None
        assert all(entry.fields["by"] and entry.fields["reason"] for entry in journals[0].entries()[1:])


def attempt(act: str, journal: Journal, **seen: Any) -> None:
    with suppress(IllegalTransition):
        ACTS[act](journal, by="somebody", reason="a try", **seen)
