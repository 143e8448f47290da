from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.errors import IllegalTransition
from headrace.rollout.journal import Entry
from headrace.rollout.states import RolloutState, after, fold
from tests.rollout.builders import make_entry

INITIALIZED = make_entry(1, "initialized", version_set="a", weights_digest="wa")
STARTED = make_entry(2, "started", 5.0, version_set="b", weights_digest="wb", step=0, weight=0.1, num_rows=0)
ADVANCED = make_entry(3, "advanced", 9.0, version_set="b", step=1, weight=0.5, num_rows=14)
PROMOTED = make_entry(4, "promoted", version_set="b", num_rows=28)
ABORTED = make_entry(4, "aborted", version_set="b", num_rows=28)
# More than once: what gets a rollout somewhere.
EVENTS = ["initialized", "proposed", "withdrawn", "started", "started", "advanced", "advanced", "reweighted"]
EVENTS += ["approved", "paused", "resumed", "promoted", "aborted"]
PROPOSED = make_entry(2, "proposed", 3.0, version_set="b", weights_digest="wb")
PAUSED = make_entry(3, "paused", version_set="b")


def test_an_empty_journal_has_no_state() -> None:
    assert fold([]) is None


def test_a_started_candidate_has_its_weight_and_its_times() -> None:
    state = fold([INITIALIZED, STARTED, ADVANCED])
    assert state == RolloutState(
        stable="a",
        stable_weights="wa",
        candidate="b",
        candidate_weights="wb",
        step=1,
        weight=0.5,
        trial=2,
        started_at=5.0,
        step_started_at=9.0,
        num_rows_at_step=14,
        considered=frozenset("ab"),
        considered_weights=frozenset({"wa", "wb"}),
        head=3,
    )


def test_a_promoted_candidate_is_stable_and_nothing_of_its_steps_is_left() -> None:
    state = fold([INITIALIZED, STARTED, ADVANCED, PROMOTED])
    assert state is not None
    assert (state.stable, state.stable_weights, state.candidate, state.weight) == ("b", "wb", None, 0.0)
    assert (state.started_at, state.step_started_at, state.num_rows_at_step, state.step) == (None, None, 0, 0)


def test_an_aborted_candidate_leaves_the_stable_set_and_is_remembered() -> None:
    state = fold([INITIALIZED, STARTED, ADVANCED, ABORTED])
    assert state is not None
    assert (state.stable, state.candidate, state.aborted) == ("a", None, frozenset("b"))


def test_a_set_that_was_stable_before_may_come_back() -> None:
    back = make_entry(5, "started", version_set="a", weights_digest="wa", step=0, weight=0.1, num_rows=30)
    state = fold([INITIALIZED, STARTED, ADVANCED, PROMOTED, back])
    assert state is not None
    assert (state.candidate, state.num_rows_at_step) == ("a", 30)


def test_a_proposed_set_gets_no_unit_before_it_is_started() -> None:
    state = fold([INITIALIZED, PROPOSED])
    assert state is not None
    assert (state.proposed, state.proposal, state.candidate, state.weight) == ("b", 2, None, 0.0)
    started = fold([INITIALIZED, PROPOSED, make_entry(3, **_event(STARTED))])
    assert started is not None
    assert (started.proposed, started.candidate, started.trial) == (None, "b", 3)


def test_a_withdrawn_set_leaves_everything_as_it_was_and_may_be_proposed_again() -> None:
    withdrawn = make_entry(3, "withdrawn", version_set="b")
    state = fold([INITIALIZED, PROPOSED, withdrawn])
    assert state is not None
    assert (state.stable, state.proposed, state.candidate, state.withdrawn) == ("a", None, None, frozenset("b"))
    again = fold([INITIALIZED, PROPOSED, withdrawn, make_entry(4, **_event(PROPOSED))])
    assert again is not None
    assert (again.proposed, again.proposal, again.withdrawn) == ("b", 4, frozenset())


def test_a_paused_candidate_keeps_its_weight_and_can_still_be_rolled_back() -> None:
    state = fold([INITIALIZED, STARTED, PAUSED])
    assert state is not None
    assert (state.paused, state.weight) == (True, 0.1)
    back = fold([INITIALIZED, STARTED, PAUSED, make_entry(4, "aborted", version_set="b", num_rows=0)])
    assert back is not None
    assert (back.aborted, back.paused) == (frozenset("b"), False)


def test_a_weight_set_by_hand_may_fall_and_an_approval_is_for_one_step() -> None:
    approved = make_entry(3, "approved", version_set="b")
    assert fold([INITIALIZED, STARTED, approved]).approved  # type: ignore[union-attr]
    lowered = fold([INITIALIZED, STARTED, approved, make_entry(4, "reweighted", version_set="b", weight=0.02)])
    assert lowered is not None
    assert (lowered.weight, lowered.step, lowered.approved) == (0.02, 0, False)


def test_sessions_are_evicted_unless_the_abort_says_otherwise() -> None:
    kept = fold([INITIALIZED, STARTED, make_entry(3, "aborted", version_set="b", num_rows=0, evict=False)])
    moved = fold([INITIALIZED, STARTED, make_entry(3, "aborted", version_set="b", num_rows=0)])
    assert kept is not None
    assert moved is not None
    assert (kept.evicted, moved.evicted) == (frozenset(), frozenset("b"))


def _event(entry: Entry) -> dict[str, Any]:
    return {"event": entry.event, "at": entry.at, **entry.fields}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([STARTED], "no stable set was ever named"),
        ([PROMOTED], "there is no candidate"),
        ([INITIALIZED, INITIALIZED], "already has the stable set a"),
        ([INITIALIZED, ADVANCED], "there is no candidate"),
        ([INITIALIZED, ABORTED], "there is no candidate"),
        ([INITIALIZED, STARTED, STARTED], "candidate b is still on its way"),
        ([INITIALIZED, STARTED, ABORTED, STARTED], "set b is the stable one, or was aborted before"),
        ([INITIALIZED, STARTED, PROMOTED, STARTED], "set b is the stable one, or was aborted before"),
        ([INITIALIZED, STARTED, ADVANCED, ADVANCED], "it names step 1, the next one is 2"),
        (
            [INITIALIZED, STARTED, make_entry(3, "advanced", version_set="b", step=1, weight=0.1, num_rows=0)],
            r"its weight 0\.1 is not above 0\.1 and at most 1",
        ),
        ([INITIALIZED, STARTED, make_entry(3, "promoted", version_set="c")], "it names set c, the candidate is b"),
        ([INITIALIZED, make_entry(2, "renamed")], r"Entry 2 \(renamed\) is not possible: this release knows only"),
        ([INITIALIZED, make_entry(2, "paused", version_set="b")], "there is no candidate"),
        ([INITIALIZED, STARTED, make_entry(3, "resumed", version_set="b")], "the candidate is not paused"),
        ([INITIALIZED, STARTED, PAUSED, make_entry(4, "advanced", version_set="b")], "is paused; resume it first"),
        ([INITIALIZED, STARTED, PAUSED, PROMOTED], "is paused; resume it first"),
        ([INITIALIZED, make_entry(2, "withdrawn", version_set="b")], "no set is being prepared"),
        ([INITIALIZED, PROPOSED, make_entry(3, "withdrawn", version_set="c")], "it names set c, the proposal is b"),
        ([INITIALIZED, PROPOSED, PROPOSED], "set b is still being prepared"),
        ([INITIALIZED, STARTED, PROPOSED], "candidate b is still on its way"),
        ([INITIALIZED, make_entry(2, "started")], "it lacks the field 'version_set'"),
    ],
)
def test_an_event_that_makes_no_sense_is_refused(entries: list, message: str) -> None:
    with pytest.raises(IllegalTransition, match=message):
        fold(entries)


class Rollouts(RuleBasedStateMachine):
    """Random events in random orders, held against a model that knows only what must always be true."""

    def __init__(self) -> None:
        super().__init__()
        self.state: RolloutState | None = None
        self.entries: list = []
        self.ever_aborted: set[str] = set()

    @rule(
        event=st.sampled_from(
            [
                "initialized",
                "proposed",
                "withdrawn",
                "started",
                "started",
                "advanced",
                "advanced",
                "reweighted",
                "approved",
                "paused",
                "resumed",
                "promoted",
                "aborted",
            ]
        ),
        version_set=st.sampled_from("abcd"),
        step=st.integers(0, 3),
        weight=st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5]),
        # Nonsense is refused; sense has to be hit often enough to get anywhere.
        sensible=st.booleans(),
    )
    def event(self, event: str, version_set: str, step: int, weight: float, sensible: bool) -> None:
        state = self.state
        if sensible and state and state.candidate:
            version_set = state.candidate
            step, weight = (state.step + 1, min(1.0, state.weight * 3)) if event == "advanced" else (step, weight)
        elif sensible and state and state.proposed and event in {"started", "withdrawn"}:
            version_set, step, weight = state.proposed, 0, 0.1
        elif sensible:
            step, weight = 0, 0.1
        fields = {"version_set": version_set, "weights_digest": f"w{version_set}", "num_rows": 0}
        entry = make_entry(len(self.entries) + 1, event, **fields, step=step, weight=weight)
        try:
            self.state = after(state, entry)
        except IllegalTransition:
            assert self.state == state
            return
        self.entries.append(entry)
        if event == "aborted":
            self.ever_aborted.add(version_set)
        if event == "advanced":
            assert state is not None
            assert self.state.weight > state.weight
        if event != "promoted" and state is not None:
            assert self.state.stable == state.stable

    @invariant()
    def replay_gives_the_same_state(self) -> None:
        assert fold(self.entries) == self.state

    @invariant()
    def what_was_aborted_never_gets_work(self) -> None:
        if self.state is not None:
            assert self.state.aborted == self.ever_aborted
            assert not self.ever_aborted & {self.state.stable, self.state.candidate}

    @invariant()
    def weight_and_candidate_go_together(self) -> None:
        if self.state is not None:
            if self.state.candidate is None:
                assert (self.state.weight, self.state.trial, self.state.paused, self.state.cap) == (0, 0, False, None)
            assert self.state.candidate is None or self.state.proposed is None
            assert (self.state.proposed is None) == (self.state.proposal == 0)
            assert self.state.candidate != self.state.stable
            assert self.state.head == len(self.entries)
            assert self.state.considered >= {self.state.stable} | self.state.aborted


TestRollouts = Rollouts.TestCase
