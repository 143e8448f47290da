import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.errors import IllegalTransition
from headrace.rollout.states import RolloutState, after, fold
from tests.rollout.builders import make_entry

INITIALIZED = make_entry(1, "initialized", version_set="a", weights_digest="wa")
STARTED = make_entry(2, "started", 5.0, version_set="b", weights_digest="wb", step=0, weight=0.1, num_rows=0)
ADVANCED = make_entry(3, "advanced", 9.0, version_set="b", step=1, weight=0.5, num_rows=14)
PROMOTED = make_entry(4, "promoted", version_set="b", num_rows=28)
ABORTED = make_entry(4, "aborted", version_set="b", num_rows=28)


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
        ([INITIALIZED, make_entry(2, "paused")], r"Entry 2 \(paused\) is not possible: this release knows only"),
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
        event=st.sampled_from(["initialized", "started", "started", "advanced", "advanced", "promoted", "aborted"]),
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
            assert (self.state.candidate is None) == (self.state.weight == 0)
            assert self.state.candidate != self.state.stable
            assert self.state.head == len(self.entries)
            assert self.state.considered >= {self.state.stable} | self.state.aborted


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
