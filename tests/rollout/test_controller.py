import contextlib
import tempfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, JournalConflict
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.candidates import ModelCandidates
from headrace.rollout.controller import Action, Facts, apply, next_action, tick
from headrace.rollout.evidence import evidence_for
from headrace.rollout.gates import PASS_RATE, Evidence, GateSettings
from headrace.rollout.journal import Journal
from headrace.rollout.plan import Plan
from headrace.rollout.preparation import PreparationRecord, preparations, write_preparation
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.states import RolloutState, fold
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSet, VersionSets
from tests.rollout.builders import desired, make_model, state_of, steps

BASE = make_model(1, kind="base", heldout_loss=4.0)
# A wide margin: a few rows of either set can then show what they have to show.
GATE = GateSettings(min_rows=10, pass_rate_floor=0.5, pass_rate_margin=0.6, horizon_rows=100)
PLAN = Plan(steps=steps(0.1, 0.5), salt="glossary", gate=GATE)
HERE = "this-node"


class Rollout:
    """One campaign's rollout in a directory; models and reviews are what the test says they are."""

    def __init__(self, directory: Path, plan: Plan = PLAN) -> None:
        self.store = LocalStore(directory)
        self.clock = FixedClock()
        self.journal = Journal(self.store, "glossary", self.clock)
        self.sets = VersionSets(self.store)
        self.plan = plan
        self.models: list[ModelVersion] = [BASE]
        self.reviews: dict[str, Sample] = {}
        self.engine: dict[str, Any] = {}
        self.node: str | None = HERE
        # What preparing raises, by version set id; and why the registry refuses.
        self.broken: dict[str, BaseException] = {}
        self.refusal: str | None = None

    def facts(self) -> Facts:
        return Facts(
            candidates=ModelCandidates(model_name="tiny", models=self.models, desired=self.desired),
            now=self.clock.now(),
            evidence=self.evidence,
            preparations=partial(preparations, self.store, "glossary"),
            node=self.node,
            refusal=lambda _: self.refusal,
        )

    def evidence(self, state: RolloutState) -> Evidence:
        return evidence_for(
            state.candidate or state.proposed or "",
            state.stable,
            candidate_weights=state.candidate_weights or state.proposed_weights or "",
            stable_weights=state.stable_weights,
            reviews={one: {PASS_RATE: rows} for one, rows in self.reviews.items()},
            models=self.models,
        )

    def prepare(self, version_set: VersionSet) -> object:
        if version_set.id in self.broken:
            raise self.broken[version_set.id]

    def tick(self) -> list[Action]:
        return tick(
            self.journal,
            self.sets,
            self.plan,
            self.facts(),
            store=self.store,
            clock=self.clock,
            prepare=self.prepare,
        )

    def desired(self, model: ModelVersion) -> Any:
        return desired(model, **self.engine)

    def review(self, model: ModelVersion, *, num_rows: int, num_kept: int) -> None:
        set_id = self.desired(model).id
        before = self.reviews.get(set_id, Sample())
        self.reviews[set_id] = Sample.of_counts(before.num + num_rows, int(before.total) + num_kept)

    @property
    def state(self) -> RolloutState:
        return state_of(self.journal)


@pytest.fixture
def rollout(tmp_path: Path) -> Rollout:
    return Rollout(tmp_path)


def kinds(actions: list[Action]) -> list[str]:
    return [action.kind for action in actions]


# What a tick does with a new set before it gets its first unit.
START = ["propose", "prepare", "start"]


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
    assert kinds(actions) == ["initialize", *START, "none"]
    assert actions[1].reason == "tiny version 2 (recipe-2) is new"
    assert actions[3].reason == "this-node prepared it; it gets 10%"
    assert rollout.state.weight == 0.1

    rollout.review(good, num_rows=14, num_kept=13)
    assert kinds(rollout.tick()) == ["advance", "none"]
    assert (rollout.state.weight, rollout.state.step) == (0.5, 1)

    rollout.review(good, num_rows=14, num_kept=14)
    (waits,) = rollout.tick()
    assert "too few rows of both sets" in waits.reason
    rollout.review(BASE, num_rows=30, num_kept=27)
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
    rollout.review(bad, num_rows=24, num_kept=0)
    actions = rollout.tick()
    assert kinds(actions) == ["abort", "none"]
    assert actions[0].reason == "review keeps 0 of 24 rows (0%) of the candidate, surely below the floor of 50%"
    assert rollout.journal.entries()[-1].fields["reason"] == actions[0].reason
    assert rollout.state.aborted == {desired(bad).id}
    assert kinds(rollout.tick()) == ["none"]


def test_a_candidate_with_a_worse_held_out_loss_goes_back_before_it_makes_a_row(rollout: Rollout) -> None:
    rollout.models.append(make_model(2, heldout_loss=5.0))
    assert kinds(rollout.tick()) == ["initialize", *START, "abort", "none"]


def test_candidates_follow_each_other_oldest_first(rollout: Rollout) -> None:
    second, tenth = make_model(2), make_model(10)
    rollout.models = [tenth, second, BASE]
    rollout.tick()
    assert rollout.state.candidate == desired(second).id
    rollout.review(second, num_rows=24, num_kept=0)
    assert kinds(rollout.tick()) == ["abort", *START, "none"]
    assert rollout.state.candidate == desired(tenth).id


def test_versions_of_other_models_are_left_alone(rollout: Rollout) -> None:
    rollout.models.append(make_model(2, model_name="other"))
    assert kinds(rollout.tick()) == ["initialize", "none"]


def test_changed_settings_are_tried_with_the_stable_model_before_a_new_model_is(rollout: Rollout) -> None:
    rollout.tick()
    rollout.engine = {"num_threads": 2}
    rollout.models.append(make_model(2))
    actions = rollout.tick()
    assert kinds(actions) == [*START, "none"]
    assert actions[0].reason == "the campaign's settings changed for tiny version 1"
    rollout.review(BASE, num_rows=24, num_kept=0)
    assert kinds(rollout.tick()) == ["abort", *START, "none"]


def test_settings_that_were_changed_and_changed_back_are_tried_again_on_new_rows(rollout: Rollout) -> None:
    rollout.plan = Plan(steps=steps(0.5), gate=GATE)
    rollout.tick()
    rollout.review(BASE, num_rows=14, num_kept=14)
    rollout.engine = {"num_threads": 2}
    rollout.tick()
    rollout.review(BASE, num_rows=14, num_kept=14)
    assert kinds(rollout.tick()) == ["promote", "none"]
    rollout.engine = {}
    assert kinds(rollout.tick()) == [*START, "none"]
    rollout.review(BASE, num_rows=14, num_kept=14)
    assert kinds(rollout.tick()) == ["promote", "none"]
    assert rollout.state.stable == desired(BASE).id


def test_a_plan_edited_under_way_goes_on_at_its_next_higher_weight(rollout: Rollout) -> None:
    model = make_model(2)
    rollout.models.append(model)
    rollout.tick()
    rollout.plan = Plan(steps=steps(0.05, 0.3, 0.6), gate=PLAN.gate)
    rollout.review(model, num_rows=14, num_kept=14)
    rollout.tick()
    assert (rollout.state.weight, rollout.state.step) == (0.3, 1)


def test_a_set_of_which_one_member_cannot_be_loaded_changes_nothing_and_is_not_tried_again(rollout: Rollout) -> None:
    rollout.models.append(make_model(2))
    rollout.broken[desired(make_model(2)).id] = HandoffCorrupt("Weights weights-2 are damaged.")
    actions = rollout.tick()
    assert kinds(actions) == ["initialize", "propose", "prepare", "withdraw", "none"]
    assert actions[3].reason == "this-node cannot prepare it: Weights weights-2 are damaged."
    assert (rollout.state.stable, rollout.state.candidate, rollout.state.weight) == (desired(BASE).id, None, 0.0)
    assert kinds(rollout.tick()) == ["none"]


def test_a_first_set_that_cannot_be_loaded_is_no_first_set(rollout: Rollout) -> None:
    rollout.broken[desired(BASE).id] = HandoffCorrupt("Weights weights-1 are damaged.")
    (action,) = rollout.tick()
    assert action.reason == "The first set cannot be prepared: Weights weights-1 are damaged."
    assert rollout.journal.head() == 0


class TemplateError(Exception):
    """As a chat template raises that refuses a system turn: a library's error, not one of ours."""


FAILURES = {
    "a chat template that refuses a system turn": (TemplateError("System role not supported"), "TemplateError: System"),
    "a format that no text has": (ValueError("Unknown format code 'd'"), "ValueError: Unknown format code 'd'"),
    "no memory left": (MemoryError(), "MemoryError"),
    "a name that the template lacks": (KeyError("width"), "KeyError: 'width'"),
    "a text of many lines": (RuntimeError("CUDA error:\n  an illegal access"), "RuntimeError: CUDA error: an illegal"),
}


@pytest.mark.parametrize(("failure", "said"), FAILURES.values(), ids=list(FAILURES))
def test_whatever_preparing_raises_is_a_refusal_with_its_reason(
    rollout: Rollout, failure: Exception, said: str
) -> None:
    rollout.models.append(make_model(2))
    rollout.broken[desired(make_model(2)).id] = failure
    actions = rollout.tick()
    assert kinds(actions) == ["initialize", "propose", "prepare", "withdraw", "none"]
    assert actions[3].reason.startswith(f"this-node cannot prepare it: {said}")
    assert kinds(rollout.tick()) == ["none"]


@pytest.mark.parametrize(("failure", "said"), FAILURES.values(), ids=list(FAILURES))
def test_whatever_the_first_set_raises_is_said(rollout: Rollout, failure: Exception, said: str) -> None:
    rollout.broken[desired(BASE).id] = failure
    (action,) = rollout.tick()
    assert action.reason.startswith(f"The first set cannot be prepared: {said}")


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_no_word_on_a_set(rollout: Rollout, end: type[BaseException]) -> None:
    rollout.models.append(make_model(2))
    rollout.broken[desired(make_model(2)).id] = end()
    with pytest.raises(end):
        rollout.tick()
    assert preparations(rollout.store, "glossary", rollout.state.proposal) == []


def test_a_load_that_does_not_end_is_a_refusal_when_its_time_is_over(rollout: Rollout) -> None:
    rollout.plan = replace(PLAN, prepare_seconds=0.05)
    rollout.tick()
    rollout.models.append(make_model(2))
    is_over = threading.Event()
    rollout.prepare = lambda version_set: is_over.wait()
    actions = rollout.tick()
    is_over.set()
    assert kinds(actions) == ["propose", "prepare", "withdraw", "none"]
    assert actions[2].reason == "this-node cannot prepare it: It did not end within 0.05 s."


def test_a_node_that_dies_in_each_try_does_not_try_beyond_the_time_for_it(rollout: Rollout) -> None:
    rollout.tick()
    rollout.models.append(make_model(2))
    rollout.broken[desired(make_model(2)).id] = SystemExit(137)
    with contextlib.suppress(SystemExit):
        rollout.tick()
    rollout.clock.advance(rollout.plan.prepare_seconds)
    assert kinds(rollout.tick()) == ["withdraw", "none"]


def test_a_proposed_set_that_is_gone_from_the_store_is_withdrawn(rollout: Rollout) -> None:
    rollout.tick()
    gone = {"version_set": "f" * 64, "weights_digest": "weights-9"}
    rollout.journal.append("proposed", gone, expected=rollout.state.head)
    actions = rollout.tick()
    assert kinds(actions) == ["prepare", "withdraw", "none"]
    assert "is not in the store" in actions[1].reason


def ready(node: str, *, ok: bool = True) -> PreparationRecord:
    return PreparationRecord(node=node, ok=ok, error=None if ok else "no memory", seconds=1.0, at=0.0)


def test_a_set_is_started_when_the_quorum_has_prepared_it(rollout: Rollout) -> None:
    rollout.node, rollout.plan = None, Plan(steps=steps(0.1), quorum=3, gate=GATE)
    rollout.models.append(make_model(2))
    assert kinds(rollout.tick()) == ["initialize", "propose", "none"]
    for node in ("g1", "g2"):
        write_preparation(rollout.store, "glossary", rollout.state.proposal, ready(node))
    (waits,) = rollout.tick()
    assert waits.reason.startswith("2 of 3 nodes have prepared set")
    write_preparation(rollout.store, "glossary", rollout.state.proposal, ready("g3"))
    (start, *_) = rollout.tick()
    assert start.kind == "start"
    assert start.fields["prepared_by"] == ["g1", "g2", "g3"]


def test_one_node_that_cannot_prepare_a_set_is_enough_to_withdraw_it(rollout: Rollout) -> None:
    rollout.node, rollout.plan = None, Plan(steps=steps(0.1), quorum=2, gate=GATE)
    rollout.models.append(make_model(2))
    rollout.tick()
    write_preparation(rollout.store, "glossary", rollout.state.proposal, ready("g1"))
    write_preparation(rollout.store, "glossary", rollout.state.proposal, ready("g2", ok=False))
    assert rollout.tick()[0].reason == "g2 cannot prepare it: no memory"


def test_a_quorum_that_is_not_reached_in_time_withdraws_the_set(rollout: Rollout) -> None:
    rollout.node = None
    rollout.models.append(make_model(2))
    rollout.tick()
    rollout.clock.advance(rollout.plan.prepare_seconds)
    assert kinds(rollout.tick()) == ["withdraw", "none"]


def test_a_registry_that_does_not_answer_refuses_new_sets_and_nothing_else(rollout: Rollout) -> None:
    good = make_model(2)
    rollout.tick()
    rollout.models.append(good)
    rollout.refusal = "MLflow does not answer."
    (refused,) = rollout.tick()
    assert refused.reason == "Tiny version 2 (recipe-2) is new, but is not tried now: MLflow does not answer."
    rollout.refusal = None
    rollout.tick()
    rollout.refusal = "MLflow does not answer."
    for model in (good, good, BASE):
        rollout.review(model, num_rows=20, num_kept=19)
    assert kinds(rollout.tick()) == ["advance", "none"]
    rollout.review(good, num_rows=20, num_kept=19)
    assert kinds(rollout.tick()) == ["promote", "none"]


def test_a_step_is_left_after_its_soak_time_and_its_approval(rollout: Rollout) -> None:
    rollout.plan = Plan(steps=steps(0.1, 0.5, soak_seconds=60, approval=True), gate=GATE)
    model = make_model(2)
    rollout.models.append(model)
    rollout.tick()
    rollout.review(model, num_rows=14, num_kept=14)
    assert "soaks for 60 s more" in rollout.tick()[0].reason
    rollout.clock.advance(60)
    assert "waits for approval" in rollout.tick()[0].reason
    candidate = rollout.state.candidate
    rollout.journal.append("approved", {"version_set": candidate}, expected=rollout.state.head)
    assert kinds(rollout.tick()) == ["advance", "none"]
    assert not rollout.state.approved


def test_a_paused_candidate_stays_and_goes_back_all_the_same_if_it_does_harm(rollout: Rollout) -> None:
    model = make_model(2)
    rollout.models.append(model)
    rollout.tick()
    rollout.journal.append("paused", {"version_set": rollout.state.candidate}, expected=rollout.state.head)
    rollout.review(model, num_rows=14, num_kept=14)
    assert "paused" in rollout.tick()[0].reason
    rollout.review(model, num_rows=60, num_kept=0)
    rollout.review(BASE, num_rows=60, num_kept=60)
    assert kinds(rollout.tick()) == ["abort", "none"]


def test_a_candidate_that_nothing_is_learnt_of_goes_back_at_the_horizon(rollout: Rollout) -> None:
    rollout.models.append(make_model(2))
    rollout.tick()
    rollout.clock.advance(rollout.plan.gate.horizon_seconds)
    actions = rollout.tick()
    assert kinds(actions) == ["abort", "none"]
    assert actions[0].reason.startswith("undecided after 336 h on trial: 0 of 10 rows in this step")


def test_a_proposal_that_was_withdrawn_is_prepared_anew_when_it_is_proposed_again(rollout: Rollout) -> None:
    rollout.models.append(make_model(2))
    bad = desired(make_model(2))
    rollout.broken[bad.id] = HandoffCorrupt("damaged")
    rollout.tick()
    rollout.broken.clear()
    again = {"version_set": bad.id, "weights_digest": "weights-2"}
    rollout.journal.append("proposed", again, expected=rollout.state.head)
    assert kinds(rollout.tick()) == ["prepare", "start", "none"]
    assert [record.ok for record in preparations(rollout.store, "glossary", rollout.journal.head() - 1)] == [True]


def test_an_action_decided_on_an_old_head_is_not_written(rollout: Rollout, tmp_path: Path) -> None:
    stale = next_action(None, PLAN, rollout.facts())
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
    assert kinds(loser.tick()) == [*START, "none"]
    assert [entry.event for entry in winner.journal.entries()] == ["initialized", "proposed", "started"]


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
            rollout.broken = self.rollouts[0].broken
        self.num_models = 1

    def teardown(self) -> None:
        self.directory.cleanup()

    @rule(loss=st.sampled_from([2.0, 4.0, 6.0]))
    def a_model_is_registered(self, loss: float) -> None:
        self.num_models += 1
        self.rollouts[0].models.append(make_model(self.num_models, heldout_loss=loss))

    @rule(version=st.integers(2, 6), failure=st.sampled_from([failure for failure, _ in FAILURES.values()]))
    def a_model_that_comes_later_cannot_be_prepared(self, version: int, failure: Exception) -> None:
        if version > self.num_models:
            self.rollouts[0].broken[desired(make_model(version)).id] = failure

    @rule(version=st.integers(1, 5), kept=st.integers(0, 12))
    def rows_are_reviewed(self, version: int, kept: int) -> None:
        if version <= self.num_models:
            self.rollouts[0].review(self.rollouts[0].models[version - 1], num_rows=12, num_kept=kept)

    @rule(who=st.integers(0, 1))
    def a_controller_ticks(self, who: int) -> None:
        before = self.rollouts[who].journal.head()
        actions = self.rollouts[who].tick()
        num_entries = sum(kind not in {"none", "prepare"} for kind in kinds(actions))
        assert self.rollouts[who].journal.head() == before + num_entries
        assert kinds(self.rollouts[1 - who].tick()) == ["none"]
        assert self.rollouts[who].state.proposed is None

    @rule(who=st.integers(0, 1), creates=st.integers(0, 4), after_effect=st.booleans())
    def a_controller_is_killed_and_started_again(self, who: int, creates: int, after_effect: bool) -> None:
        old = self.rollouts[who]
        store = StoreThatDies(Path(self.directory.name))
        store.creates_left, store.after_effect = creates, after_effect
        old.journal, old.sets = Journal(store, "glossary", FixedClock()), VersionSets(store)
        with contextlib.suppress(Killed):
            old.tick()
        fresh = Rollout(Path(self.directory.name))
        fresh.models, fresh.reviews, fresh.broken = old.models, old.reviews, old.broken
        self.rollouts[who] = fresh

    @invariant()
    def the_journal_is_whole_and_every_set_it_names_is_kept(self) -> None:
        journal = Journal(self.rollouts[0].store, "glossary", FixedClock())
        journal.verify()
        for entry in journal.entries():
            self.rollouts[0].sets.get(entry.fields["version_set"])

    @invariant()
    def what_cannot_be_prepared_is_withdrawn_with_its_reason_and_never_starts(self) -> None:
        broken = self.rollouts[0].broken
        for entry in self.rollouts[0].journal.entries():
            if entry.fields["version_set"] in broken:
                assert entry.event in {"proposed", "withdrawn"}
                if entry.event == "withdrawn":
                    assert type(broken[entry.fields["version_set"]]).__name__ in entry.fields["reason"]

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
