import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, TrainingFailed
from headrace.store.chain import ChainBroken
from headrace.store.local import LocalStore
from headrace.store.objects import create_json
from headrace.training.attempts import (
    AttemptSuperseded,
    TrainingResult,
    check_fence,
    find_result,
    newest_attempt,
    open_attempt,
    publish_result,
    read_curve,
)
from headrace.training.guard import Worker, start_tick
from simulation.models import training_result

TRAINING = "a" * 32
DEAD = Worker(pid=2**22 - 1, started=1)


def make_result(attempt: int, **changes: object) -> TrainingResult:
    return training_result(TRAINING, attempt, **changes)


def begin(store: LocalStore, worker: Worker, *, host: str = "here") -> int:
    return open_attempt(store, TRAINING, worker=worker, run_id="run-1", clock=FixedClock(), host=host)


def test_attempts_are_numbered_from_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert newest_attempt(store, TRAINING) == 0
    assert [begin(store, DEAD), begin(store, DEAD)] == [1, 2]


def test_a_later_attempt_fences_an_earlier_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    begin(store, DEAD)
    check_fence(store, TRAINING, 1)
    begin(store, DEAD)
    with pytest.raises(AttemptSuperseded, match="Attempt 1 at training a+ was superseded by attempt 2"):
        check_fence(store, TRAINING, 1)
    with pytest.raises(AttemptSuperseded):
        publish_result(store, make_result(1), b"")
    assert find_result(store, TRAINING) is None


def test_a_live_workers_training_is_not_taken_away_from_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        begin(store, Worker(pid=other.pid, started=start_tick(other.pid) or 0))
        with pytest.raises(TrainingFailed, match=f"under way in run run-1 .attempt 1, pid {other.pid} on this machine"):
            begin(store, Worker.this_process())
        other.kill()
    assert begin(store, Worker.this_process()) == 2


def test_a_worker_may_try_again_itself(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert [begin(store, Worker.this_process()), begin(store, Worker.this_process())] == [1, 2]


def test_a_pid_that_was_given_away_again_is_not_the_worker(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    begin(store, Worker(pid=os.getppid(), started=1))
    assert begin(store, Worker.this_process()) == 2


def test_what_runs_on_another_machine_is_fenced_because_nobody_here_can_ask_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    begin(store, Worker(pid=os.getppid(), started=start_tick(os.getppid()) or 0), host="there")
    assert begin(store, Worker.this_process()) == 2


def test_the_first_result_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    begin(store, DEAD)
    first = publish_result(store, make_result(1), b'{"step": 1}\n{"step": 2}\n')
    assert publish_result(store, make_result(1, seconds=9.0), b"") == first
    assert find_result(store, TRAINING) == first
    assert [row["step"] for row in read_curve(store, first)] == [1, 2]


def damage(store: LocalStore, key: str) -> None:
    path = store.local_path(key)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-20])


def test_a_damaged_attempt_is_said_and_fenced_off(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    begin(store, DEAD)
    damage(store, f"training/{TRAINING}/attempts/000001.json")
    said: list[str] = []
    attempt = open_attempt(
        store, TRAINING, worker=DEAD, run_id="run-2", clock=FixedClock(), host="here", say=said.append
    )
    assert attempt == 2
    assert "attempts/000001.json is damaged" in said[0]
    with pytest.raises(AttemptSuperseded):
        check_fence(store, TRAINING, 1)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_an_attempt_that_vanished_is_noticed_before_anybody_writes(tmp_path: Path, gone: int) -> None:
    store = LocalStore(tmp_path)
    for _ in range(3):
        begin(store, DEAD)
    store.delete(f"training/{TRAINING}/attempts/{gone:06d}.json")
    for act in (lambda: begin(store, DEAD), lambda: check_fence(store, TRAINING, 2)):
        with pytest.raises(ChainBroken, match=rf"attempt {gone} is missing, though number 3 was made .* end every run"):
            act()


def test_attempts_from_before_they_were_marked_are_counted(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    body = {"worker": {"pid": DEAD.pid, "started": 1}, "host": "here", "run_id": "run-0", "created_at": "then"}
    create_json(store, f"training/{TRAINING}/attempts/000001.json", body)
    store.create(f"training/{TRAINING}/attempts/.nfs0001", b"")
    assert begin(store, DEAD) == 2


def test_a_damaged_curve_is_refused_and_a_missing_one_is_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    begin(store, DEAD)
    result = publish_result(store, make_result(1), b'{"step": 1}\n{"step": 2, "loss": 1.2345678}\n')
    damage(store, result.curve_key)
    with pytest.raises(HandoffCorrupt, match=r"000001\.jsonl, is damaged: .*Delete it, and materialize"):
        read_curve(store, result)
    store.delete(result.curve_key)
    assert read_curve(store, result) == []


def test_a_result_from_before_attempts_told_their_tokens_is_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old = asdict(make_result(1))
    del old["attempt_tokens"], old["step_seconds"]
    create_json(store, f"training/{TRAINING}/result.json", old)
    assert find_result(store, TRAINING) == make_result(1)


def test_a_damaged_result_is_refused_with_what_to_do(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    begin(store, DEAD)
    publish_result(store, make_result(1), b"")
    damage(store, f"training/{TRAINING}/result.json")
    with pytest.raises(
        HandoffCorrupt, match=r"result\.json is damaged.*Delete it, and materialize trained_model again"
    ):
        find_result(store, TRAINING)
