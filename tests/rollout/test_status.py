"""What people are told about a rollout."""

from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.command_line.bodies.rollouts import RolloutBody
from headrace.errors import IllegalTransition
from headrace.rollout import interventions
from headrace.rollout.journal import Journal, JournalCorrupt
from headrace.rollout.layout import rollout_names
from headrace.rollout.plan import Plan
from headrace.rollout.status import RolloutStatus, last_trial, percent, read_status
from headrace.store.local import LocalStore
from tests.rollout.builders import steps
from tests.rollout.scenes import ANA, Scene, make_long_scene

PLAN = Plan(steps=steps(0.05, 0.25, 0.5), quorum=2)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def status_of(scene: Scene, plan: Plan | None = None) -> RolloutStatus:
    return read_status(scene.store, scene.name, scene.clock, plan=plan)


def test_the_headline_follows_a_set_from_proposal_to_promotion(scene: Scene) -> None:
    one, two = (scene.sets[number].id[:8] for number in (1, 2))
    stable = f"judge=referee:1, writer=tiny:1 ({one})"
    assert status_of(scene).headline == f"{stable} is stable and gets every unit."
    proposal = scene.add("proposed", 2)
    assert status_of(scene, PLAN).headline == (
        f"writer=tiny:2 ({two}) is being prepared: 0 of 2 nodes have it; writer=tiny:1 ({one}) gets every unit."
    )
    scene.prepare(proposal)
    assert "1 of 2 nodes have it" in status_of(scene, PLAN).headline
    assert "is being prepared: 1 node has it" in status_of(scene).headline
    scene.add("started", 2, step=0, weight=0.005, num_rows=0)
    beside = f"writer=tiny:2 ({two}) gets 0.5% of the units beside writer=tiny:1 ({one})"
    assert status_of(scene).headline == f"{beside}."
    interventions.pause(scene.journal, **ANA)
    assert status_of(scene).headline == f"{beside}, paused."
    interventions.resume(scene.journal, **ANA)
    scene.add("promoted", 2, num_rows=1)
    assert status_of(scene).headline == f"writer=tiny:2 ({two}) is stable and gets every unit."


def test_the_headline_says_what_went_back_and_what_was_never_begun(scene: Scene) -> None:
    scene.abort(2)
    assert "writer=tiny:2" in status_of(scene).headline
    assert "was rolled back; writer=tiny:1" in status_of(scene).headline
    scene.add("proposed", 3)
    scene.add("withdrawn", 3)
    assert "was withdrawn; " in status_of(scene).headline
    empty = read_status(scene.store, "nothing", scene.clock)
    assert empty.headline == "Nothing is stable yet: the first tick names a set."
    assert RolloutBody.of(empty).head == 0


def test_a_step_is_counted_in_the_plan_by_weight(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    assert status_of(scene, PLAN).step_words == "2 of 3"
    assert status_of(scene).step_words == "2"
    interventions.advance(scene.journal, weight=0.01, **ANA)
    assert status_of(scene, PLAN).step_words == "1 of 3"


def test_the_cap_used_is_where_the_newest_lease_ends(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    assert status_of(scene).num_units == 884
    interventions.abort(scene.journal, **ANA)
    assert status_of(scene).num_units is None


def test_every_set_has_a_standing(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    status = status_of(scene)
    standings = [status.sets[one.id].standing for one in scene.sets.values()]
    assert standings == ["retired", "stable", "rolled back", "candidate"]


def test_what_is_compared_follows_the_rollout(scene: Scene) -> None:
    one, two, three = (scene.sets[number].id for number in (1, 2, 3))
    assert status_of(scene).compared is None
    scene.start(2)
    assert status_of(scene).compared == (one, two)
    assert [change.path for change in status_of(scene).changes] == ["writer.model_version", "writer.weights_digest"]
    scene.add("promoted", 2, num_rows=1)
    assert status_of(scene).compared == (one, two)
    scene.abort(3)
    assert status_of(scene).compared == (two, three)


def test_a_set_that_cannot_be_read_hides_nothing_else(scene: Scene) -> None:
    scene.start(2)
    file = scene.store.directory / f"version_sets/{scene.sets[2].id}.json"
    file.unlink()
    status = status_of(scene)
    assert f"set {scene.sets[2].id[:12]} gets 10% of the units beside judge=referee:1" in status.headline
    assert "is not in the store" in (status.sets[scene.sets[2].id].error or "")
    assert status.changes == ()


def test_the_history_has_the_state_after_each_entry(tmp_path: Path) -> None:
    history = status_of(make_long_scene(tmp_path)).history
    assert [moment.weight for moment in history] == [0, 0, 0.05, 0.05, 0.05, 0.5, 0, 0, 0.1, 0, 0, 0.05, 0.25]
    assert [moment.candidate is None for moment in history].count(True) == 6


def test_the_last_trial_is_the_state_before_its_end(scene: Scene) -> None:
    assert last_trial(scene.journal.entries()) is None
    started = scene.start(2, weight=0.25)
    scene.add("aborted", 2, num_rows=1)
    scene.add("proposed", 3)
    trial = last_trial(scene.journal.entries())
    assert trial is not None
    assert (trial.candidate, trial.weight, trial.trial) == (scene.sets[2].id, 0.25, started.number)


def test_an_edited_journal_is_not_shown(scene: Scene) -> None:
    scene.start(2)
    scene.edit(3, weight=0.9)
    with pytest.raises(JournalCorrupt, match=r"00000003\.json is damaged"):
        status_of(scene)


def test_entries_that_make_no_sense_are_not_shown(tmp_path: Path) -> None:
    journal = Journal(LocalStore(tmp_path), "odd", FixedClock())
    journal.append("paused", {"version_set": "a", "reason": "?"}, expected=0)
    with pytest.raises(IllegalTransition, match="Entry 1"):
        read_status(LocalStore(tmp_path), "odd", FixedClock())


def test_a_rollout_is_what_has_a_journal(tmp_path: Path) -> None:
    Scene(tmp_path, "b")
    scene = Scene(tmp_path, "a")
    scene.store.create("rollout/leftover/caps/00000001/00000001.json", b"{}")
    assert rollout_names(scene.store) == ["a", "b"]


@pytest.mark.parametrize(
    ("share", "text"), [(0.1, "10%"), (0.005, "0.5%"), (1.0, "100%"), (1 / 3, "33.33%"), (0, "0%")]
)
def test_shares_are_written_as_people_write_them(share: float, text: str) -> None:
    assert percent(share) == text
