"""The watch over a gang, on gangs of real processes that cost no torch."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from headrace.errors import InvalidTrainingRun, TrainingFailed
from headrace.training.gang import run_gang
from headrace.training.gang_runner import LocalRunner, kill_gang
from headrace.training.launch_plan import MARKER, LaunchPlan
from headrace.training.progress import RankFailure, report_failure, report_phase
from headrace.training.recipe_parts import Guards, StalledRank
from headrace.training.run_config import RunConfig
from tests.training_builders import make_recipe, make_run_config
from tests.waiting import eventually

ROWS = """
import json, pathlib, sys
with open({path!r}, "a") as file:
    for step in range(1, 4):
        file.write(json.dumps({{"step": step}}) + "\\n")
"""


def make_gang(work: Path, script: str, **recipe: object) -> tuple[LocalRunner, RunConfig]:
    config = make_run_config(work, recipe=make_recipe(**recipe))
    plan = LaunchPlan(
        argv=(sys.executable, "-c", script),
        environment={**os.environ, MARKER: f"{work.name}/1", "TORCH_EXTENSIONS_DIR": str(work / "torch_extensions")},
        logs=work / "logs",
        num_ranks=2,
    )
    return LocalRunner(plan, config), config


def test_each_row_of_progress_arrives_once(tmp_path: Path) -> None:
    runner, config = make_gang(tmp_path, ROWS.format(path=str(tmp_path / "progress.jsonl")))
    rows: list[dict] = []
    run_gang(runner, config, on_rows=rows.extend, tick_seconds=0.05)
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_a_start_that_hangs_ends_by_timeout_with_where_each_rank_is(tmp_path: Path) -> None:
    runner, config = make_gang(tmp_path, "import time; time.sleep(600)", start_timeout_seconds=1)
    report_phase(tmp_path, 0, "joining the group")
    rank_log = tmp_path / "logs/none_abc/attempt_0/0/stderr.log"
    rank_log.parent.mkdir(parents=True)
    rank_log.write_text("waiting for rank 1\n")
    with pytest.raises(TrainingFailed) as failure:
        run_gang(runner, config, tick_seconds=0.05)
    text = str(failure.value)
    assert "took no step for 1 s (start_timeout_seconds of recipe tiny.test)" in text
    assert f"rank 0 is joining the group (pid {os.getpid()}), rank 1 never started" in text
    assert "waiting for rank 1" in text


def test_a_stale_compiler_lock_is_named(tmp_path: Path) -> None:
    runner, config = make_gang(tmp_path, "import time; time.sleep(600)", start_timeout_seconds=1)
    lock = tmp_path / "torch_extensions/py311_cpu/some_op/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(TrainingFailed, match=f"holds {lock}"):
        run_gang(runner, config, tick_seconds=0.05)


def test_a_gang_that_stops_making_progress_ends_by_timeout(tmp_path: Path) -> None:
    script = ROWS.format(path=str(tmp_path / "progress.jsonl")) + "\nimport time; time.sleep(600)"
    runner, config = make_gang(tmp_path, script, step_timeout_seconds=1)
    with pytest.raises(TrainingFailed, match="made no progress for 1 s .step_timeout_seconds of recipe tiny.test"):
        run_gang(runner, config, tick_seconds=0.05)


STALLED = """
import pathlib, time
work = pathlib.Path({work!r})
(work / "beat-0").write_text("000000000004 000000000001\\n")
(work / "beat-1").write_text("000000000004 000000000000\\n")
time.sleep({seconds})
"""


def test_a_rank_that_the_others_wait_for_ends_the_gang_and_is_named(tmp_path: Path) -> None:
    guard = Guards(stalled_rank=StalledRank(seconds=1))
    runner, config = make_gang(tmp_path, STALLED.format(work=str(tmp_path), seconds=600), guards=guard)
    report_phase(tmp_path, 0, "training")
    with pytest.raises(TrainingFailed) as failure:
        run_gang(runner, config, tick_seconds=0.05)
    text = str(failure.value)
    assert "waits for rank 1, which has been in the forward half of pass 1 of step 5 for 1 s (guards.stalled" in text
    assert "(slow rank); rank 0 is training" in text
    assert failure.value.culprits["kind"] == "slow rank"
    assert failure.value.culprits["rank"] == 1


def test_of_a_rank_that_the_others_wait_for_the_recipe_may_want_to_be_told_alone(tmp_path: Path) -> None:
    guard = Guards(stalled_rank=StalledRank(seconds=1, action="warn"))
    runner, config = make_gang(tmp_path, STALLED.format(work=str(tmp_path), seconds=3), guards=guard)
    said: list[str] = []
    run_gang(runner, config, say=said.append, tick_seconds=0.05)
    assert len(said) == 1
    assert said[0].startswith("the gang waits for rank 1, which has been in the forward half")


def test_a_rank_in_a_session_of_its_own_is_killed_with_the_gang(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "sys.exit(3)\n"
    )
    runner, config = make_gang(tmp_path, script)
    with pytest.raises(TrainingFailed, match="ended with code 3 before any rank started"):
        run_gang(runner, config, tick_seconds=0.05)
    pid = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_interrupt_of_the_worker_ends_the_gang(tmp_path: Path) -> None:
    runner, config = make_gang(
        tmp_path, ROWS.format(path=str(tmp_path / "progress.jsonl")) + "\nimport time; time.sleep(600)"
    )

    def interrupt(rows: list[dict]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_gang(runner, config, on_rows=interrupt, tick_seconds=0.05)
    assert kill_gang(f"{tmp_path.name}/1") == []


def test_only_processes_with_the_marker_are_killed() -> None:
    script = [sys.executable, "-c", "import time; time.sleep(600)"]
    with (
        subprocess.Popen(script, env={**os.environ, MARKER: "mine/1"}) as mine,
        subprocess.Popen(script, env={**os.environ, MARKER: "mine/12"}) as other,
    ):
        # Between fork and exec a process still has our environment.
        eventually(lambda: all(MARKER in psutil.Process(one.pid).environ() for one in (mine, other)))
        assert kill_gang("mine/1") == [mine.pid]
        assert other.poll() is None
        other.kill()


FAILURES = {
    "a permanent failure is not worth a retry": (
        [RankFailure(rank=1, reason="diverged", permanent=True, secondary=False, at=1.0)],
        InvalidTrainingRun,
        r"rank 1 failed \(exception\) while it was training \(pid \d+\): diverged\.$",
    ),
    "the cause is told, not the broken connection": (
        [
            RankFailure(rank=0, reason="Connection closed by peer", permanent=False, secondary=True, at=1.0),
            RankFailure(rank=1, reason="OSError: torn", permanent=False, secondary=False, at=2.0),
        ],
        TrainingFailed,
        r"rank 1 failed \(exception\) while it was training .*OSError: torn",
    ),
    "a rank that was killed is found by its silence": (
        [RankFailure(rank=0, reason="Connection closed by peer", permanent=False, secondary=True, at=1.0)],
        TrainingFailed,
        r"rank 1 was killed without a word, exit code -9 while it was training",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_dead_gang_is_explained(tmp_path: Path, case: str) -> None:
    failures, kind, text = FAILURES[case]
    script = "import sys; print('failed (exitcode: -9) local_rank: 1 (pid: 7) of binary'); sys.exit(1)"
    runner, config = make_gang(tmp_path, script)
    for rank in (0, 1):
        report_phase(tmp_path, rank, "training")
    for failure in failures:
        report_failure(tmp_path, failure)
    with pytest.raises(kind, match=text):
        run_gang(runner, config, tick_seconds=0.05)
