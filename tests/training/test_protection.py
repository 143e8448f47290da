"""What of trainings garbage collection takes, and what it must not."""

import time
from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.handoff.collecting import CollectionPlan, CollectionReport, collect, plan_collection
from headrace.store.leases import Leases
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.attempts import (
    TrainingResult,
    curve_key,
    find_result,
    open_attempt,
    publish_result,
    read_curve,
    training_key,
)
from headrace.training.checkpoints import Checkpoint, CheckpointFile, newest_whole, publish, write_file
from headrace.training.guard import Worker
from headrace.training.protection import protection
from tests.handoff.simulated_store import ByHand
from tests.training.test_attempts import make_result

DEAD = Worker(pid=2**22 - 1, started=1)
DAY = 24 * 3600.0
FIRST, SECOND = "a" * 32, "b" * 32


class Site:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Behind the store's, whose ages count: what happens here lies in the past.
        self.clock = FixedClock(time.time() - 3600)
        self.store = LocalStore(directory / "store")

    def begin(self, training: str, recipe: str = "tiny.flash") -> int:
        self.clock.advance(60)
        return open_attempt(self.store, training, worker=DEAD, run_id="r", clock=self.clock, recipe=recipe)

    def checkpoint(self, training: str, step: int, attempt: int = 1) -> Checkpoint:
        prefix = training_key(training, "parts", f"nonce-{training[0]}-{step}")
        files: list[CheckpointFile] = []
        with write_file(self.store, prefix, "state/rank-0.pt", files.append) as file:
            file.write(b"optimizer state " * 100)
        found = Checkpoint(
            training_id=training, step=step, attempt=attempt, world_size=1, prefix=prefix, files=tuple(files)
        )
        publish(self.store, found)
        return found

    def finish(self, training: str, attempt: int, content: str) -> TrainingResult:
        source = self.directory / content
        source.mkdir(exist_ok=True)
        (source / "model.safetensors").write_text(content)
        weights = seal_directory(self.store, source, clock=self.clock)
        result = make_result(
            attempt, training_id=training, weights_digest=weights.digest, curve_key=curve_key(training, attempt)
        )
        return publish_result(self.store, result, b'{"step": 1, "loss": 2.0}\n')

    def plan(self, *, grace_seconds: float = -1.0) -> CollectionPlan:
        protectors = {"training": protection}
        return plan_collection(self.store, self.clock, grace_seconds=grace_seconds, protectors=protectors)

    def collect(self) -> CollectionReport:
        return collect(self.store, self.clock, self.plan())

    def resumed_step(self, training: str) -> int | None:
        found = newest_whole(self.store, training, world_size=1, clock=self.clock)
        return found.step if found else None

    def checkpoints(self) -> dict[str, tuple[bool, str]]:
        return {one.label: (one.is_kept, one.reason) for one in self.plan().others if one.kind == "checkpoint"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_newest_training_of_a_recipe_keeps_its_checkpoints_however_old_they_are(site: Site) -> None:
    site.begin(FIRST)
    site.checkpoint(FIRST, 20)
    site.clock.advance(100 * DAY)
    assert site.collect().gone == ()
    assert site.checkpoints() == {
        "checkpoint aaaaaaaaaaaa step 20": (True, "the newest training of tiny.flash: it may be gone on with")
    }
    assert site.resumed_step(FIRST) == 20


def test_checkpoints_go_when_a_later_training_of_the_recipe_has_begun(site: Site) -> None:
    site.begin(FIRST)
    site.checkpoint(FIRST, 20)
    site.begin(SECOND)
    site.checkpoint(SECOND, 40)
    site.begin("c" * 32, recipe="tiny.slow")
    (young,) = [one for one in site.plan(grace_seconds=DAY).others if "aaaa" in one.label]
    assert (young.is_kept, young.reason.startswith("superseded ")) == (True, True)
    report = site.collect()
    assert [(one.label, one.reason) for one in report.leavings] == [
        ("checkpoint aaaaaaaaaaaa step 20", "a later training of tiny.flash has begun")
    ]
    assert (site.resumed_step(FIRST), site.resumed_step(SECOND)) == (None, 40)
    assert site.store.list(training_key(FIRST, "parts")) + site.store.list("condemned") == []
    # It may be trained once more, from its beginning.
    assert site.begin(FIRST) == 2


def test_a_training_under_way_and_a_checkpoint_that_is_resumed_keep_theirs(site: Site) -> None:
    for training in (FIRST, SECOND):
        site.begin(training)
        site.checkpoint(training, 20)
    leases = Leases(site.store, site.clock, renewal=ByHand())  # pyright: ignore[reportArgumentType]
    with leases.hold(FIRST):
        assert site.collect().gone == ()
    assert site.resumed_step(FIRST) == 20
    assert site.collect().gone == ()
    site.clock.advance(2 * DAY)
    assert [one.label for one in site.collect().leavings] == ["checkpoint aaaaaaaaaaaa step 20"]


def test_a_training_that_begins_after_the_plan_keeps_its_checkpoints(site: Site) -> None:
    for training in (FIRST, SECOND):
        site.begin(training)
        site.checkpoint(training, 20)
    plan = site.plan()
    leases = Leases(site.store, site.clock, renewal=ByHand())  # pyright: ignore[reportArgumentType]
    with leases.hold(FIRST):
        report = collect(site.store, site.clock, plan)
    assert [fate for _, fate in report.kept_after_all] == ["leased"]
    assert site.resumed_step(FIRST) == 20


def test_what_a_finished_training_left_goes_and_its_result_stays(site: Site) -> None:
    site.begin(FIRST)
    site.checkpoint(FIRST, 20)
    result = site.finish(FIRST, 1, "weights")
    assert site.checkpoints() == {"checkpoint aaaaaaaaaaaa step 20": (False, "the training has its result")}
    site.collect()
    assert find_result(site.store, FIRST) == result
    left = {key.split("/")[2] for key in site.store.list(f"training/{FIRST}")}
    assert left == {"attempts", "curves", "result.json"}


def test_parts_that_a_killed_rank_left_go_after_the_grace_time(site: Site) -> None:
    site.begin(FIRST)
    with write_file(site.store, training_key(FIRST, "parts", "dead"), "rank-0.pt", lambda file: None) as file:
        file.write(b"half")
    (young,) = site.plan(grace_seconds=DAY).others
    assert (young.is_kept, young.kind) == (True, "orphan")
    assert [one.kind for one in site.collect().leavings] == ["orphan"]
    assert site.store.list(training_key(FIRST, "parts")) == []


def test_a_training_of_an_earlier_release_does_not_say_its_recipe_and_keeps_all(site: Site) -> None:
    site.begin(FIRST, recipe="")
    site.checkpoint(FIRST, 20)
    site.begin(SECOND)
    (kept,) = site.checkpoints().values()
    assert kept == (True, "it does not say of which recipe it is")


def test_a_training_whose_weights_were_collected_is_trained_again_and_says_what_came_out(site: Site) -> None:
    site.begin(FIRST)
    first = site.finish(FIRST, 1, "weights")
    site.clock.advance(2 * DAY)
    assert {one.kind for one in site.collect().leavings} == {"weights"}
    assert find_result(site.store, FIRST) is None
    assert [one.label for one in site.collect().leavings] == ["curve of training aaaaaaaaaaaa"]
    assert read_curve(site.store, first) == []
    # On other devices it may come to other weights; then these are its result.
    attempt = site.begin(FIRST)
    second = site.finish(FIRST, attempt, "other weights")
    assert (second.attempt, find_result(site.store, FIRST)) == (2, second)
    assert read_curve(site.store, second) == [{"step": 1, "loss": 2.0}]
    assert site.store.exists(f"training/{FIRST}/results/000002.json")


def test_a_training_that_comes_to_the_same_weights_again_has_its_first_result_and_curve_back(site: Site) -> None:
    site.begin(FIRST)
    first = site.finish(FIRST, 1, "weights")
    site.clock.advance(2 * DAY)
    site.collect()
    site.collect()
    again = site.finish(FIRST, site.begin(FIRST), "weights")
    assert again == first == find_result(site.store, FIRST)
    assert read_curve(site.store, again) == [{"step": 1, "loss": 2.0}]


def test_checkpoints_of_a_training_that_is_made_again_stay(site: Site) -> None:
    site.begin(FIRST)
    site.finish(FIRST, 1, "weights")
    site.clock.advance(2 * DAY)
    site.collect()
    site.checkpoint(FIRST, 20, attempt=site.begin(FIRST))
    site.collect()
    assert site.resumed_step(FIRST) == 20
