from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.store.local import LocalStore
from headrace.training.attempts import AttemptSuperseded, open_attempt, training_key
from headrace.training.checkpoints import (
    Checkpoint,
    CheckpointFile,
    discard_all,
    newest_whole,
    publish,
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


def newest_step(store: LocalStore, world_size: int = 2) -> int | None:
    found = newest_whole(store, TRAINING, world_size=world_size)
    return found.step if found else None


def test_files_without_a_manifest_are_no_checkpoint(store: LocalStore) -> None:
    make_checkpoint(store, 20)
    assert newest_step(store) is None


def test_the_newest_checkpoint_is_resumed(store: LocalStore) -> None:
    for step in (20, 100):
        publish(store, make_checkpoint(store, step), kept=2)
    assert newest_step(store) == 100


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(store: LocalStore, damage, rank: int) -> None:
    publish(store, make_checkpoint(store, 20), kept=2)
    newest = make_checkpoint(store, 40)
    publish(store, newest, kept=2)
    damage(file_of(store, newest, rank))
    reasons = []
    found = newest_whole(
        store, TRAINING, world_size=2, passed_over=lambda checkpoint, reason: reasons.append((checkpoint.step, reason))
    )
    assert found is not None
    assert found.step == 20
    assert reasons == [(40, f"state/rank-{rank}.pt missing or damaged")]


def test_with_every_checkpoint_damaged_training_begins_anew(store: LocalStore) -> None:
    checkpoint = make_checkpoint(store, 20)
    publish(store, checkpoint, kept=2)
    truncate(file_of(store, checkpoint))
    assert newest_step(store) is None


def test_a_checkpoint_of_another_number_of_ranks_is_passed_over(store: LocalStore) -> None:
    publish(store, make_checkpoint(store, 20, world_size=4), kept=2)
    assert newest_step(store, world_size=2) is None
    assert newest_step(store, world_size=4) == 20


def test_only_the_newest_checkpoints_keep_their_space(store: LocalStore) -> None:
    for step in (20, 40, 60):
        publish(store, make_checkpoint(store, step), kept=2)
    assert store.children(training_key(TRAINING, "checkpoints")) == ["00000040-000001.json", "00000060-000001.json"]
    assert store.children(training_key(TRAINING, "parts")) == ["nonce-40-1", "nonce-60-1"]


def test_a_fenced_attempt_publishes_nothing_and_drops_nothing(store: LocalStore) -> None:
    publish(store, make_checkpoint(store, 20), kept=1)
    late = make_checkpoint(store, 40)
    begin(store)
    with pytest.raises(AttemptSuperseded):
        publish(store, late, kept=1)
    assert newest_step(store) == 20


def test_of_one_step_the_later_attempts_checkpoint_is_taken(store: LocalStore) -> None:
    publish(store, make_checkpoint(store, 20), kept=2)
    begin(store)
    publish(store, make_checkpoint(store, 20, attempt=2), kept=2)
    found = newest_whole(store, TRAINING, world_size=2)
    assert found is not None
    assert found.attempt == 2


def test_publishing_twice_changes_nothing(store: LocalStore) -> None:
    checkpoint = make_checkpoint(store, 20)
    assert publish(store, checkpoint, kept=2)
    assert not publish(store, checkpoint, kept=2)


def test_a_finished_training_gives_its_space_back(store: LocalStore) -> None:
    publish(store, make_checkpoint(store, 20), kept=2)
    make_checkpoint(store, 40)
    discard_all(store, TRAINING)
    assert store.list(training_key(TRAINING, "checkpoints")) == []
    assert store.list(training_key(TRAINING, "parts")) == []
