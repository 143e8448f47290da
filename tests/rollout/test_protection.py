"""What a rollout names, and which evidence it gives up."""

from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.handoff.collecting import collect, plan_collection
from headrace.rollout.aliases import projections
from headrace.rollout.caps import num_places
from headrace.rollout.live_evidence import EvidenceWriter, read_live
from headrace.rollout.preparation import preparations
from headrace.rollout.protection import protection
from headrace.store.protection import Answer, Asked
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import VersionSets
from tests.rollout.scenes import Scene, make_long_scene

DAY = 24 * 3600.0


def asked(scene: Scene, *, grace_seconds: float = 60.0, damaged: PassedOver | None = None) -> Answer:
    question = Asked(
        objects=scene.store,
        now=scene.clock.now(),
        clock=scene.clock,
        grace_seconds=grace_seconds,
        damaged=damaged or PassedOver(),
    )
    return protection(question)


def named_weights(scene: Scene, **given: Any) -> set[str]:
    """Their first character: the writer's version, and `e` for the judge that all sets share."""
    return {one.key.removeprefix("weights/")[:1] for one in asked(scene, **given).named}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Set 1 was stable, set 2 is, set 3 was rolled back, set 4 is on trial."""
    return make_long_scene(tmp_path)


def test_the_stable_set_the_one_before_and_the_candidate_keep_their_weights(scene: Scene) -> None:
    scene.clock.advance(DAY)
    assert named_weights(scene) == {"1", "2", "4", "e"}
    reasons = {one.key[8]: one.reason for one in asked(scene).named}
    assert reasons["2"] == f"rollout support, stable: version set {scene.sets[2].id[:12]}"
    assert reasons["1"].startswith("rollout support, the stable one before: version set ")
    assert reasons["4"].startswith("rollout support, on trial: version set ")


def test_a_proposal_keeps_its_weights(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.add("proposed", 2)
    scene.clock.advance(DAY)
    assert named_weights(scene) == {"1", "2", "e"}


def test_a_set_that_lost_its_place_keeps_its_weights_for_the_grace_time(scene: Scene) -> None:
    scene.add("aborted", 4, num_rows=10, evict=True)
    assert "4" in named_weights(scene, grace_seconds=DAY)
    scene.clock.advance(DAY + 1)
    assert "4" not in named_weights(scene, grace_seconds=DAY)


def test_a_stable_set_that_was_replaced_just_now_keeps_its_weights_for_the_grace_time(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.promote(2)
    scene.clock.advance(DAY + 1)
    scene.promote(3)
    assert named_weights(scene, grace_seconds=DAY) >= {"2", "3"}
    scene.promote(4)
    # Set 2 is neither stable nor the one before any more, and was stable within the grace time.
    assert named_weights(scene, grace_seconds=DAY) >= {"2", "3", "4"}
    scene.clock.advance(DAY + 1)
    assert named_weights(scene, grace_seconds=DAY) == {"3", "4", "e"}


@pytest.mark.parametrize("damage", ["a journal", "a set"])
def test_what_cannot_be_read_may_name_any_weights(scene: Scene, damage: str) -> None:
    name = "rollout/support/journal/00000003.json" if damage == "a journal" else f"version_sets/{scene.sets[2].id}.json"
    path = scene.store.local_path(name)
    path.chmod(0o644)
    path.write_bytes(b"{}")
    damaged = PassedOver()
    answer = asked(scene, damaged=damaged)
    whole = [one.reason for one in answer.named if one.key == "weights/"]
    assert len(whole) == 1
    assert "cannot be read, and may name them" in whole[0]
    assert damaged.keys == [name]
    assert damage == "a set" or list(answer.leavings) == []


def test_evidence_of_trials_before_the_last_one_goes_and_that_of_the_last_stays(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    trials = [entry.number for entry in scene.journal.entries() if entry.event == "started"]
    proposals = [entry.number for entry in scene.journal.entries() if entry.event == "proposed"]
    for trial in trials:
        writer = EvidenceWriter(scene.store, "support", f"gateway-{trial}", scene.clock)
        writer.record(trial, scene.sets[2].id, {"latency_ms": 12.0}, client="ana", entry=trial)
        writer.flush()
    for head in (2, 13):
        projections(scene.store, "support").create(head, {"aliases": {"tiny": {"champion": "2"}}})
    clock = FixedClock(scene.clock.now())
    plan = plan_collection(scene.store, clock, grace_seconds=-1.0, protectors={"rollout": protection})
    assert {one.kind for one in plan.leavings} == {"evidence"}
    report = collect(scene.store, clock, plan)
    assert report.num_bytes > 0
    assert [bool(read_live(scene.store, "support", trial)) for trial in trials] == [False, False, True]
    assert [bool(preparations(scene.store, "support", number)) for number in proposals] == [False, False, True]
    assert num_places(scene.store, "support", trials[-1]) == 884
    assert num_places(scene.store, "support", trials[0]) == 0
    assert scene.store.list("rollout/support/aliases") == ["rollout/support/aliases/00000013.json"]
    assert scene.journal.verify() == scene.journal.head()
    assert sorted(VersionSets(scene.store).ids()) == sorted(one.id for one in scene.sets.values())
    again = plan_collection(scene.store, clock, grace_seconds=-1.0, protectors={"rollout": protection})
    assert again.leavings == []


def test_young_evidence_of_an_old_trial_has_its_grace_time(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    scene.store.create("rollout/support/evidence/00000003/g/00000001.json", b"{}")
    clock = FixedClock(scene.clock.now())
    plan = plan_collection(scene.store, clock, grace_seconds=DAY, protectors={"rollout": protection})
    assert plan.leavings == []
