import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.clock import FixedClock
from headrace.errors import JournalConflict
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.controller import Action, apply, next_action, tick
from headrace.rollout.gates import GateSettings, ReviewCount
from headrace.rollout.journal import Journal
from headrace.rollout.plan import Plan
from headrace.rollout.states import RolloutState, fold
from headrace.rollout.version_sets import VersionSets
from headrace.store.local import LocalStore
from tests.rollout.builders import desired, make_model

BASE = make_model(1, kind="base", heldout_loss=4.0)
PLAN = Plan(steps=(0.1, 0.5), salt="glossary", gate=GateSettings(min_rows=10, pass_rate_floor=0.5))


class Rollout:
    """One campaign's rollout in a directory; models and reviews are what the test says they are."""

    def __init__(self, directory: Path, plan: Plan = PLAN) -> None:
        self.store = LocalStore(directory)
        self.journal = Journal(self.store, "glossary", FixedClock())
        self.sets = VersionSets(self.store)
        self.plan = plan
        self.models: list[ModelVersion] = [BASE]
        self.reviews: dict[str, ReviewCount] = {}
        self.engine: dict[str, Any] = {}

    def tick(self) -> list[Action]:
        return tick(
            self.journal,
            self.sets,
            self.plan,
            model_name="tiny",
            models=self.models,
            desired=self.desired,
            reviews=self.reviews,
        )

    def desired(self, model: ModelVersion) -> Any:
        return desired(model, **self.engine)

    def review(self, model: ModelVersion, *, num_rows: int, num_kept: int) -> None:
        set_id = self.desired(model).id
        before = self.reviews.get(set_id, ReviewCount())
        self.reviews[set_id] = ReviewCount(num_rows=before.num_rows + num_rows, num_kept=before.num_kept + num_kept)

    @property
    def state(self) -> RolloutState:
        state = fold(self.journal.entries())
        assert state is not None
        return state


@pytest.fixture
def rollout(tmp_path: Path) -> Rollout:
    return Rollout(tmp_path)


def kinds(actions: list[Action]) -> list[str]:
    return [action.kind for action in actions]


def test_nothing_is_initialized_before_a_base_is_registered(rollout: Rollout) -> None:
    rollout.models = [make_model(2), make_model(1, kind="base", model_name="other")]
    (action,) = rollout.tick()
    assert action.kind == "none"
    assert action.reason == "No base version of tiny is registered. Materialize registered_version."
    assert rollout.journal.head() == 0


def test_the_base_is_the_first_stable_set(rollout: Rollout) -> None:
    assert kinds(rollout.tick()) == ["initialize", "none"]
    assert rollout.sets.get(rollout.state.stable) == desired(BASE)


def test_a_good_candidate_is_promoted_step_by_step_on_rows_of_each_step(rollout: Rollout) -> None:
    good = make_model(2, heldout_loss=3.0)
    rollout.models.append(good)
    actions = rollout.tick()
    assert kinds(actions) == ["initialize", "start", "none"]
    assert actions[1].reason == "tiny version 2 (recipe-2) is new; it gets 10%"
    assert rollout.state.weight == 0.1

    rollout.review(good, num_rows=14, num_kept=13)
    assert kinds(rollout.tick()) == ["advance", "none"]
    assert (rollout.state.weight, rollout.state.step) == (0.5, 1)

    rollout.review(good, num_rows=14, num_kept=14)
    assert kinds(rollout.tick()) == ["promote", "none"]
    assert rollout.state.stable == desired(good).id


def test_a_tick_without_news_writes_nothing(rollout: Rollout) -> None:
    rollout.models.append(make_model(2))
    rollout.tick()
    head = rollout.journal.head()
    assert kinds(rollout.tick()) == ["none"]
    assert rollout.journal.head() == head


def test_a_candidate_whose_rows_are_bad_goes_back_and_is_never_tried_again(rollout: Rollout) -> None:
    bad = make_model(2)
    rollout.models.append(bad)
    rollout.tick()
    rollout.review(bad, num_rows=14, num_kept=2)
    actions = rollout.tick()
    assert kinds(actions) == ["abort", "none"]
    assert actions[0].reason == "review keeps 2 of 14 rows (14%) of the candidate, the floor is 50%"
    assert rollout.journal.entries()[-1].fields["reason"] == actions[0].reason
    assert rollout.state.aborted == {desired(bad).id}
    assert kinds(rollout.tick()) == ["none"]


def test_a_candidate_with_a_worse_held_out_loss_goes_back_before_it_makes_a_row(rollout: Rollout) -> None:
    rollout.models.append(make_model(2, heldout_loss=5.0))
    assert kinds(rollout.tick()) == ["initialize", "start", "abort", "none"]


def test_candidates_follow_each_other_oldest_first(rollout: Rollout) -> None:
    second, tenth = make_model(2), make_model(10)
    rollout.models = [tenth, second, BASE]
    rollout.tick()
    assert rollout.state.candidate == desired(second).id
    rollout.review(second, num_rows=14, num_kept=0)
    assert kinds(rollout.tick()) == ["abort", "start", "none"]
    assert rollout.state.candidate == desired(tenth).id


def test_versions_of_other_models_are_left_alone(rollout: Rollout) -> None:
    rollout.models.append(make_model(2, model_name="other"))
    assert kinds(rollout.tick()) == ["initialize", "none"]


def test_changed_settings_are_tried_with_the_stable_model_before_a_new_model_is(rollout: Rollout) -> None:
    rollout.tick()
    rollout.engine = {"num_threads": 2}
    rollout.models.append(make_model(2))
    actions = rollout.tick()
    assert kinds(actions) == ["start", "none"]
    assert actions[0].reason == "the campaign's settings changed for tiny version 1; it gets 10%"
    rollout.review(BASE, num_rows=14, num_kept=0)
    assert kinds(rollout.tick()) == ["abort", "start", "none"]


def test_settings_that_were_changed_and_changed_back_are_tried_again_on_new_rows(rollout: Rollout) -> None:
    rollout.plan = Plan(steps=(0.5,), gate=GateSettings(min_rows=10))
    rollout.tick()
    rollout.review(BASE, num_rows=14, num_kept=14)
    rollout.engine = {"num_threads": 2}
    rollout.tick()
    rollout.review(BASE, num_rows=14, num_kept=14)
    assert kinds(rollout.tick()) == ["promote", "none"]
    rollout.engine = {}
    assert kinds(rollout.tick()) == ["start", "none"]
    rollout.review(BASE, num_rows=14, num_kept=14)
    assert kinds(rollout.tick()) == ["promote", "none"]
    assert rollout.state.stable == desired(BASE).id


def test_a_plan_edited_under_way_goes_on_at_its_next_higher_weight(rollout: Rollout) -> None:
    model = make_model(2)
    rollout.models.append(model)
    rollout.tick()
    rollout.plan = Plan(steps=(0.05, 0.3, 0.6), gate=PLAN.gate)
    rollout.review(model, num_rows=14, num_kept=14)
    rollout.tick()
    assert (rollout.state.weight, rollout.state.step) == (0.3, 1)


def test_an_action_decided_on_an_old_head_is_not_written(rollout: Rollout, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"model_name": "tiny", "models": [BASE], "desired": desired, "reviews": {}}
    stale = next_action(None, PLAN, **arguments)
    other = Rollout(tmp_path)
    other.tick()
    with pytest.raises(JournalConflict):
        apply(stale, rollout.journal, rollout.sets, expected=0)
    assert rollout.journal.head() == 1


def test_a_controller_that_loses_the_race_decides_again_on_the_winners_entry(tmp_path: Path) -> None:
    loser, winner = Rollout(tmp_path), Rollout(tmp_path)
    loser.models.append(make_model(2))

    class Overtaken(Journal):
        """Somebody else appends between this writer's decision and its append."""

        def append(self, *arguments: Any, **options: Any) -> Any:
            if winner.journal.head() == 0:
                winner.tick()
            return super().append(*arguments, **options)

    loser.journal = Overtaken(loser.store, "glossary", FixedClock())
    assert kinds(loser.tick()) == ["start", "none"]
    assert [entry.event for entry in winner.journal.entries()] == ["initialized", "started"]


class Killed(BaseException):
    """Not an Exception: nothing on the way may catch it."""


class StoreThatDies(LocalStore):
    """Its process dies around the n-th create: before it, or after it took effect."""

    creates_left: int | None = None
    after_effect = False

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        if self.creates_left is not None:
            self.creates_left -= 1
            if self.creates_left < 0:
                if self.after_effect:
                    super().create(key, body, durable=durable)
                raise Killed
        return super().create(key, body, durable=durable)


class Controllers(RuleBasedStateMachine):
    """Two controllers over one store, killed at random creates, with models and reviews arriving in any order."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.rollouts = [Rollout(Path(self.directory.name)) for _ in range(2)]
        for rollout in self.rollouts:
            rollout.models, rollout.reviews = self.rollouts[0].models, self.rollouts[0].reviews
        self.num_models = 1

    def teardown(self) -> None:
        self.directory.cleanup()

    @rule(loss=st.sampled_from([2.0, 4.0, 6.0]))
    def a_model_is_registered(self, loss: float) -> None:
        self.num_models += 1
        self.rollouts[0].models.append(make_model(self.num_models, heldout_loss=loss))

    @rule(version=st.integers(1, 5), kept=st.integers(0, 12))
    def rows_are_reviewed(self, version: int, kept: int) -> None:
        if version <= self.num_models:
            self.rollouts[0].review(self.rollouts[0].models[version - 1], num_rows=12, num_kept=kept)

    @rule(who=st.integers(0, 1))
    def a_controller_ticks(self, who: int) -> None:
        before = self.rollouts[who].journal.head()
        actions = self.rollouts[who].tick()
        assert self.rollouts[who].journal.head() == before + len(actions) - 1
        assert kinds(self.rollouts[1 - who].tick()) == ["none"]

    @rule(who=st.integers(0, 1), creates=st.integers(0, 4), after_effect=st.booleans())
    def a_controller_is_killed_and_started_again(self, who: int, creates: int, after_effect: bool) -> None:
        old = self.rollouts[who]
        store = StoreThatDies(Path(self.directory.name))
        store.creates_left, store.after_effect = creates, after_effect
        old.journal, old.sets = Journal(store, "glossary", FixedClock()), VersionSets(store)
        with contextlib.suppress(Killed):
            old.tick()
        fresh = Rollout(Path(self.directory.name))
        fresh.models, fresh.reviews = old.models, old.reviews
        self.rollouts[who] = fresh

    @invariant()
    def the_journal_is_whole_and_every_set_it_names_is_kept(self) -> None:
        journal = Journal(self.rollouts[0].store, "glossary", FixedClock())
        journal.verify()
        for entry in journal.entries():
            self.rollouts[0].sets.get(entry.fields["version_set"])

    @invariant()
    def no_model_is_started_twice_and_nothing_comes_back(self) -> None:
        entries = self.rollouts[0].journal.entries()
        started = [entry.fields["weights_digest"] for entry in entries if entry.event == "started"]
        assert len(started) == len(set(started))
        fold(entries)

    @invariant()
    def no_candidate_with_a_bad_loss_is_promoted(self) -> None:
        losses = {desired(model).id: model.heldout_loss for model in self.rollouts[0].models}
        stable = None
        for entry in self.rollouts[0].journal.entries():
            if entry.event in {"initialized", "promoted"}:
                new = losses[entry.fields["version_set"]]
                assert new is not None
                assert stable is None or new <= stable + PLAN.gate.heldout_margin  # type: ignore[operator]
                stable = new


TestControllers = Controllers.TestCase
TestControllers.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
