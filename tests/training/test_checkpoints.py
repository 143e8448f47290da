import os
import re
import resource
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.store.local import LocalStore
from headrace.store.objects import create_json
from headrace.training.attempts import AttemptSuperseded, open_attempt, training_key
from headrace.training.checkpoints import (
    Checkpoint,
    CheckpointFile,
    damaged_files,
    discard_all,
    drop_older,
    drop_unnamed,
    is_whole,
    newest_whole,
    publish,
    publish_beside,
    write_file,
)
from headrace.training.guard import Worker

TRAINING = "a" * 32


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    begin(store)
    return store


def begin(store: LocalStore) -> int:
    return open_attempt(store, TRAINING, worker=Worker(pid=2**22 - 1, started=1), run_id="r", clock=FixedClock())


def make_checkpoint(store: LocalStore, step: int, *, attempt: int = 1, world_size: int = 2) -> Checkpoint:
    prefix = training_key(TRAINING, "parts", f"nonce-{step}-{attempt}")
    files: list[CheckpointFile] = []
    for rank in range(world_size):
        with write_file(store, prefix, f"state/rank-{rank}.pt", files.append) as file:
            file.write(b"optimizer state " * 1000 + bytes([rank]))
    return Checkpoint(
        training_id=TRAINING, step=step, attempt=attempt, world_size=world_size, prefix=prefix, files=tuple(files)
    )


def file_of(store: LocalStore, checkpoint: Checkpoint, number: int = 0) -> Path:
    path = checkpoint.directory(store) / checkpoint.files[number].name
    path.chmod(0o600)
    return path


def publish_and_drop(store: LocalStore, checkpoint: Checkpoint, *, kept: int) -> bool:
    won = publish(store, checkpoint)
    if won:
        drop_older(store, checkpoint, kept=kept)
    return won


def newest_step(store: LocalStore, world_size: int = 2) -> int | None:
    found = newest_whole(store, TRAINING, world_size=world_size)
    return found.step if found else None


def test_files_without_a_manifest_are_no_checkpoint(store: LocalStore) -> None:
    make_checkpoint(store, 20)
    assert newest_step(store) is None


def test_the_newest_checkpoint_is_resumed(store: LocalStore) -> None:
    for step in (20, 100):
        publish_and_drop(store, make_checkpoint(store, step), kept=2)
    assert newest_step(store) == 100


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


DAMAGES_TOLD = {
    truncate: "has 15,991 bytes, the manifest says 16,001",
    flip_a_bit: r"has digest [0-9a-f]{12}…, the manifest says [0-9a-f]{12}…",
    Path.unlink: "is missing",
}


@pytest.mark.parametrize("damage", DAMAGES_TOLD)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(store: LocalStore, damage, rank: int) -> None:
    publish_and_drop(store, make_checkpoint(store, 20), kept=2)
    newest = make_checkpoint(store, 40)
    publish_and_drop(store, newest, kept=2)
    damage(file_of(store, newest, rank))
    reasons = []
    found = newest_whole(store, TRAINING, world_size=2, passed_over=lambda step, reason: reasons.append((step, reason)))
    assert found is not None
    assert found.step == 20
    [(step, reason)] = reasons
    assert step == 40
    assert re.fullmatch(rf"rank {rank}'s file state/rank-{rank}\.pt {DAMAGES_TOLD[damage]}", reason)


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("state/zero_pp_rank_3_mp_rank_00_optim_states.pt", 3),
        ("state/bf16_zero_pp_rank_12_mp_rank_00_optim_states.pt", 12),
        ("state/mp_rank_00_model_states.pt", 0),
        ("rank-00010.pt", 10),
        ("progress.jsonl", 0),
    ],
)
def test_a_damaged_file_is_told_with_its_rank(store: LocalStore, name: str, rank: int) -> None:
    files: list[CheckpointFile] = []
    prefix = training_key(TRAINING, "parts", "nonce")
    with write_file(store, prefix, name, files.append) as file:
        file.write(b"x")
    checkpoint = Checkpoint(training_id=TRAINING, step=1, attempt=1, world_size=16, prefix=prefix, files=tuple(files))
    file_of(store, checkpoint).unlink()
    assert damaged_files(store, checkpoint) == [f"rank {rank}'s file {name} is missing"]


def test_with_every_checkpoint_damaged_training_begins_anew(store: LocalStore) -> None:
    checkpoint = make_checkpoint(store, 20)
    publish_and_drop(store, checkpoint, kept=2)
    truncate(file_of(store, checkpoint))
    assert newest_step(store) is None


def test_a_checkpoint_of_another_number_of_ranks_is_resumed_unless_something_forbids_it(store: LocalStore) -> None:
    publish_and_drop(store, make_checkpoint(store, 20, world_size=4), kept=2)
    assert newest_step(store, world_size=2) == 20
    reasons: dict[int, str] = {}
    because = "its optimizer has no form for other numbers of ranks"
    assert not newest_whole(store, TRAINING, world_size=2, fixed_because=because, passed_over=reasons.__setitem__)
    assert reasons == {20: f"it was made by 4 ranks, this gang has 2, and {because}"}
    assert newest_whole(store, TRAINING, world_size=4, fixed_because=because)


def test_a_full_disk_is_told_although_torch_says_only_that_it_could_not_write(store: LocalStore) -> None:
    pid = os.fork()
    if not pid:
        told = ""
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            with write_file(store, training_key(TRAINING, "parts", "n"), "rank-0.pt", print) as file:
                write_as_torch(file)
        except Exception as error:  # noqa: BLE001 (the child's verdict is its status)
            told = str(error)
        finally:
            os._exit(7 if "file size limit" in told else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def write_as_torch(file: Any) -> None:
    try:
        file.write(b"x" * 2_000_000)
    except Exception as error:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0") from error


def make_universal(store: LocalStore, source: Checkpoint, attempt: int) -> Checkpoint:
    """Its files are a copy; what they hold is `tests/processes/test_elastic_training.py`'s affair."""
    copied = make_checkpoint(store, source.step, attempt=attempt + 100, world_size=source.world_size)
    return publish_beside(store, replace(copied, attempt=attempt, form="universal"))


def test_of_one_step_the_ranks_own_checkpoint_comes_first_and_then_what_they_need_not_convert(
    store: LocalStore,
) -> None:
    own = make_checkpoint(store, 20, world_size=2)
    publish_and_drop(store, own, kept=2)
    universal = make_universal(store, own, begin(store))
    assert newest_whole(store, TRAINING, world_size=2) == own
    assert newest_whole(store, TRAINING, world_size=3) == universal
    flip_a_bit(file_of(store, own))
    assert newest_whole(store, TRAINING, world_size=2) == universal
    publish_and_drop(store, make_checkpoint(store, 30, attempt=2, world_size=3), kept=2)
    assert newest_step(store, world_size=2) == 30, "a later step is worth a conversion"


def test_a_conversion_takes_nobodys_place_and_goes_when_it_has_successors(store: LocalStore) -> None:
    source = make_checkpoint(store, 20, world_size=2)
    publish_and_drop(store, source, kept=1)
    attempt = begin(store)
    make_universal(store, source, attempt)
    assert steps_kept(store) == [(20, 1), (20, 2)]
    publish_and_drop(store, make_checkpoint(store, 25, attempt=attempt, world_size=1), kept=1)
    assert steps_kept(store) == [(20, 1), (25, 2)]


def test_a_conversion_of_a_fenced_attempt_is_not_published(store: LocalStore) -> None:
    source = make_checkpoint(store, 20)
    publish_and_drop(store, source, kept=2)
    begin(store)
    with pytest.raises(AttemptSuperseded):
        make_universal(store, source, attempt=1)


def test_what_killed_writers_left_goes_and_what_is_named_stays(store: LocalStore) -> None:
    named = make_checkpoint(store, 20)
    publish_and_drop(store, named, kept=2)
    make_checkpoint(store, 40)
    drop_unnamed(store, TRAINING)
    assert store.children(training_key(TRAINING, "parts")) == [named.nonce]
    make_checkpoint(store, 60)
    flip_a_bit(manifest_of(store, named))
    drop_unnamed(store, TRAINING)
    assert len(store.children(training_key(TRAINING, "parts"))) == 2, "nobody knows what a damaged manifest names"


def test_only_the_newest_checkpoints_keep_their_space(store: LocalStore) -> None:
    for step in (20, 40, 60):
        publish_and_drop(store, make_checkpoint(store, step), kept=2)
    assert store.children(training_key(TRAINING, "checkpoints")) == ["00000040-000001.json", "00000060-000001.json"]
    assert store.children(training_key(TRAINING, "parts")) == ["nonce-40-1", "nonce-60-1"]


def steps_kept(store: LocalStore) -> list[tuple[int, int]]:
    """(step, attempt) of every manifest."""
    names = store.children(training_key(TRAINING, "checkpoints"))
    return [(int(name[:8]), int(name[9:15])) for name in names]


def test_what_another_number_of_ranks_made_takes_no_place_and_is_not_dropped(store: LocalStore) -> None:
    for step in (15, 20):
        publish_and_drop(store, make_checkpoint(store, step, world_size=2), kept=2)
    attempt = begin(store)
    for step in (5, 10):
        publish_and_drop(store, make_checkpoint(store, step, attempt=attempt, world_size=1), kept=2)
    assert steps_kept(store) == [(5, 2), (10, 2), (15, 1), (20, 1)]
    assert newest_step(store, world_size=1) == 20
    publish_and_drop(store, make_checkpoint(store, 15, attempt=attempt, world_size=1), kept=2)
    assert steps_kept(store) == [(10, 2), (15, 1), (15, 2), (20, 1)]


@pytest.mark.parametrize("kept", [1, 2])
def test_a_damaged_checkpoint_of_a_higher_step_costs_no_whole_one_its_place(store: LocalStore, kept: int) -> None:
    for step in (15, 20)[-kept:]:
        checkpoint = make_checkpoint(store, step)
        publish_and_drop(store, checkpoint, kept=kept)
        flip_a_bit(file_of(store, checkpoint))
    attempt = begin(store)
    assert newest_step(store) is None
    publish_and_drop(store, make_checkpoint(store, 5, attempt=attempt), kept=kept)
    assert newest_step(store) == 5
    publish_and_drop(store, make_checkpoint(store, 10, attempt=attempt), kept=kept)
    assert newest_step(store) == 10
    assert steps_kept(store) == [(5, 2), (10, 2)][-kept:], "as many whole ones are there: the damaged ones may go"


def test_what_is_damaged_between_two_checkpoints_is_not_kept_for_a_whole_one(store: LocalStore) -> None:
    first, second = make_checkpoint(store, 5), make_checkpoint(store, 10)
    publish_and_drop(store, first, kept=2)
    publish_and_drop(store, second, kept=2)
    flip_a_bit(file_of(store, second))
    third = make_checkpoint(store, 15)
    publish_and_drop(store, third, kept=2)
    truncate(file_of(store, third))
    assert newest_step(store) == 5


def manifest_of(store: LocalStore, checkpoint: Checkpoint) -> Path:
    path = store.local_path(checkpoint.key)
    path.chmod(0o600)
    return path


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_checkpoint_with_a_damaged_manifest_is_passed_over_and_said(store: LocalStore, damage) -> None:
    publish_and_drop(store, make_checkpoint(store, 20), kept=2)
    newest = make_checkpoint(store, 40)
    publish_and_drop(store, newest, kept=2)
    damage(manifest_of(store, newest))
    reasons: dict[int, str] = {}
    found = newest_whole(store, TRAINING, world_size=2, passed_over=reasons.__setitem__)
    assert found is not None
    assert found.step == 20
    assert f"Checkpoint {store.uri(newest.key)} is damaged" in reasons[40]
    assert "passes it over for the one before" in reasons[40]
    publish_and_drop(store, make_checkpoint(store, 60), kept=2)
    assert newest_step(store) == 60


def test_a_manifest_under_another_checkpoints_name_is_no_checkpoint(store: LocalStore) -> None:
    checkpoint = make_checkpoint(store, 20)
    publish_and_drop(store, checkpoint, kept=2)
    store.create(checkpoint.key.replace("00000020", "00000060"), store.read(checkpoint.key))
    assert newest_step(store) == 20


def test_a_manifest_from_before_manifests_had_digests_is_read(store: LocalStore) -> None:
    checkpoint = make_checkpoint(store, 20)
    create_json(store, checkpoint.key, asdict(checkpoint))
    assert newest_whole(store, TRAINING, world_size=2) == checkpoint


def test_files_outside_of_the_trainings_own_parts_are_nobodys_checkpoint(store: LocalStore) -> None:
    checkpoint = make_checkpoint(store, 20)
    create_json(store, checkpoint.key, asdict(checkpoint) | {"prefix": training_key(TRAINING)})
    assert newest_step(store) is None


def test_foreign_names_beside_manifests_are_passed_over(store: LocalStore) -> None:
    publish_and_drop(store, make_checkpoint(store, 20), kept=2)
    store.create(training_key(TRAINING, "checkpoints", ".nfs0001"), b"x")
    assert newest_step(store) == 20
    discard_all(store, TRAINING)


class Night:
    """A training over many attempts, as its store sees it, beside what a record of everything that happened knows."""

    def __init__(self, directory: Path, kept: int) -> None:
        self.store = LocalStore(directory)
        self.kept = kept
        self.whole: set[Checkpoint] = set()
        self.start(2)

    def start(self, world_size: int) -> None:
        """The attempt before was killed, wherever it was."""
        self.world_size, self.attempt = world_size, begin(self.store)
        self.step = newest_step(self.store, world_size) or 0
        assert self.step == max((one.step for one in self.whole), default=0)

    def publish(self) -> None:
        self.step += 5
        checkpoint = make_checkpoint(self.store, self.step, attempt=self.attempt, world_size=self.world_size)
        publish_and_drop(self.store, checkpoint, kept=self.kept)
        self.whole.add(checkpoint)
        same = sorted(self.of_size(), key=lambda one: (one.step, one.attempt), reverse=True)
        self.whole -= {one for one in same[self.kept :] if not self.store.exists(one.key)}

    def killed_while_publishing(self) -> None:
        make_checkpoint(self.store, self.step + 5, attempt=self.attempt, world_size=self.world_size)
        self.start(self.world_size)

    def killed_before_dropping(self) -> None:
        checkpoint = make_checkpoint(self.store, self.step + 5, attempt=self.attempt, world_size=self.world_size)
        assert publish(self.store, checkpoint)
        self.whole.add(checkpoint)
        self.start(self.world_size)

    def of_size(self) -> list[Checkpoint]:
        return [one for one in self.whole if one.world_size == self.world_size]

    def damage(self, which: int, act: Callable[[Path], object], *, is_manifest: bool) -> None:
        there = sorted(self.whole, key=lambda one: one.key)
        if there:
            victim = there[which % len(there)]
            act(manifest_of(self.store, victim) if is_manifest else file_of(self.store, victim))
            self.whole.discard(victim)

    def check(self) -> None:
        assert all(self.store.exists(one.key) for one in self.whole), "a whole one was dropped too early"
        assert all(is_whole(self.store, one) for one in self.whole)


DAMAGES = st.tuples(
    st.just("damage"), st.integers(-4, -1), st.sampled_from([truncate, flip_a_bit, Path.unlink]), st.booleans()
)
PUBLICATION = st.just(("publish",))
STARTS = st.tuples(st.just("start"), st.sampled_from([1, 2, 2]))
KILLS = st.sampled_from([("killed_while_publishing",), ("killed_before_dropping",)])
# Publications most often: what is wrongly dropped is dropped by one.
EVENTS = st.one_of(PUBLICATION, PUBLICATION, PUBLICATION, DAMAGES, DAMAGES, STARTS, KILLS)


@given(events=st.lists(EVENTS, min_size=10, max_size=24), kept=st.integers(1, 2))
def test_what_can_be_resumed_is_never_dropped_for_what_cannot(events: list[tuple], kept: int) -> None:
    with TemporaryDirectory() as directory:
        night = Night(Path(directory), kept)
        for event in events:
            match event:
                case ("start", world_size):
                    night.start(world_size)
                case ("damage", which, act, is_manifest):
                    night.damage(which, act, is_manifest=is_manifest)
                case (name,):
                    getattr(night, name)()
            night.check()


def test_a_fenced_attempt_publishes_nothing_and_drops_nothing(store: LocalStore) -> None:
    publish_and_drop(store, make_checkpoint(store, 20), kept=1)
    late = make_checkpoint(store, 40)
    begin(store)
    with pytest.raises(AttemptSuperseded):
        publish_and_drop(store, late, kept=1)
    assert newest_step(store) == 20


def test_of_one_step_the_later_attempts_checkpoint_is_taken(store: LocalStore) -> None:
    publish_and_drop(store, make_checkpoint(store, 20), kept=2)
    begin(store)
    publish_and_drop(store, make_checkpoint(store, 20, attempt=2), kept=2)
    found = newest_whole(store, TRAINING, world_size=2)
    assert found is not None
    assert found.attempt == 2


def test_publishing_twice_changes_nothing(store: LocalStore) -> None:
    checkpoint = make_checkpoint(store, 20)
    assert publish_and_drop(store, checkpoint, kept=2)
    assert not publish_and_drop(store, checkpoint, kept=2)


def test_a_finished_training_gives_its_space_back(store: LocalStore) -> None:
    publish_and_drop(store, make_checkpoint(store, 20), kept=2)
    make_checkpoint(store, 40)
    discard_all(store, TRAINING)
    assert store.list(training_key(TRAINING, "checkpoints")) == []
    assert store.list(training_key(TRAINING, "parts")) == []
