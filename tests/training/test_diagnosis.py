"""Why a gang failed, on recorded ends: who was first, of what kind, with which lines. No process runs here."""

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import HandoffCorrupt, InvalidTrainingRun, StoreOutage, TrainingFailed
from headrace.training.diagnosis import Stuck, diagnose, frame_of, is_waiting
from headrace.training.failure_kinds import ADVICE, FailureKind, kind_of_error, kind_of_exit, last_error
from headrace.training.gang_report import GangReport, RankReport
from headrace.training.gang_runner import exit_codes, last_lines, main_stack
from headrace.training.progress import RankFailure, RankPhase
from headrace.training.train import describe_failure

GLOO = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:4242"
WAITING = (
    'File "/venv/site-packages/torch/distributed/distributed_c10d.py", line 3019 in all_reduce',
    'File "/app/headrace/training/engine.py", line 38 in sum_over_ranks',
)
ASLEEP = (
    'File "/app/headrace/training/examples.py", line 70 in take',
    'File "/app/headrace/training/loop.py", line 97 in _accumulate',
)


def make_rank(number: int, **changes: Any) -> RankReport:
    phase = RankPhase(rank=number, phase="training", pid=100 + number, at=0.0)
    return RankReport(**{"rank": number, "phase": phase, "is_alive": False, "log": f"/log/{number}"} | changes)


def make_failure(number: int, reason: str, **changes: Any) -> RankFailure:
    stated = {"rank": number, "reason": reason, "permanent": False, "secondary": False, "at": 1.0}
    return RankFailure(**stated | changes)


def decoy(number: int = 0) -> RankReport:
    """What the first rank says when another one is gone: earlier than that one's own word, and no cause."""
    return make_rank(number, failure=make_failure(number, GLOO, secondary=True, at=0.5), exit_code=1)


def said(number: int, error: Exception) -> RankReport:
    return make_rank(number, failure=describe_failure(error, number), exit_code=1)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


ENDS: dict[str, tuple[GangReport, Stuck | None, FailureKind, int | None]] = {
    "an allocation that fails": (
        GangReport(
            ranks=(decoy(), said(1, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")))
        ),
        None,
        "out of memory",
        1,
    ),
    "the kernel kills a rank for memory": (
        GangReport(ranks=(decoy(), make_rank(1, exit_code=-9)), first_exit=1, oom_kills=1),
        None,
        "out of memory",
        1,
    ),
    "somebody kills a rank": (
        GangReport(ranks=(decoy(), make_rank(1, exit_code=-9)), first_exit=1),
        None,
        "killed",
        1,
    ),
    "a rank raises": (GangReport(ranks=(decoy(), said(1, ValueError("wrong")))), None, "exception", 1),
    "the first rank raises and the second one loses it": (
        GangReport(ranks=(said(0, ValueError("wrong")), decoy(1))),
        None,
        "exception",
        0,
    ),
    "a file that ends early": (
        GangReport(ranks=(decoy(), said(1, zipfile.BadZipFile("File is not a zip file")))),
        None,
        "torn file",
        1,
    ),
    "an object that differs from what was written": (
        GangReport(ranks=(decoy(), said(1, HandoffCorrupt("part differs")))),
        None,
        "torn file",
        1,
    ),
    "a loss that is no number": (
        GangReport(
            ranks=(
                said(0, InvalidTrainingRun("diverged", kind="not a number", rank=1)),
                said(1, InvalidTrainingRun("diverged", kind="not a number", rank=1)),
            )
        ),
        None,
        "not a number",
        1,
    ),
    "a port that is taken before any rank started": (
        GangReport(
            ranks=(make_rank(0, phase=None), make_rank(1, phase=None)),
            exit_code=1,
            launcher_lines=(
                "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network "
                "address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
            ),
        ),
        None,
        "port taken",
        None,
    ),
    "a disk that is full under a checkpoint": (
        GangReport(
            ranks=(
                said(0, caused(StoreOutage("The store cannot take it"), OSError(errno.ENOSPC, "No space left"))),
                decoy(1),
            )
        ),
        None,
        "disk full",
        0,
    ),
    "a module that is missing, before the rank could say so": (
        GangReport(
            ranks=(
                decoy(),
                make_rank(
                    1,
                    exit_code=1,
                    lines=("Traceback (most recent call last):", "ModuleNotFoundError: No module named 'peft'"),
                ),
            ),
            first_exit=1,
        ),
        None,
        "missing module",
        1,
    ),
    "a row that the model cannot read": (
        GangReport(ranks=(decoy(), said(1, InvalidTrainingRun("row 7 has token 99", kind="bad row")))),
        None,
        "bad row",
        1,
    ),
    "a rank that is asked to end": (
        GangReport(ranks=(decoy(), make_rank(1, exit_code=-15)), first_exit=1),
        None,
        "terminated",
        1,
    ),
    "torchrun ends the rank that was left, too": (
        GangReport(ranks=(make_rank(0, exit_code=-15), make_rank(1, exit_code=-9)), first_exit=1),
        None,
        "killed",
        1,
    ),
    "another number of ranks": (
        GangReport(ranks=(said(0, InvalidTrainingRun("4 ranks", kind="wrong world size")), decoy(1))),
        None,
        "wrong world size",
        0,
    ),
    "a rank that hangs while the other waits": (
        GangReport(ranks=(make_rank(0, is_alive=True, stack=WAITING), make_rank(1, is_alive=True, stack=ASLEEP))),
        Stuck(what="made no progress for 60 s"),
        "hang",
        1,
    ),
    "a rank that is slow": (
        GangReport(ranks=(make_rank(0, is_alive=True, stack=WAITING), make_rank(1, is_alive=True, stack=ASLEEP))),
        Stuck(what="waits for rank 1, which has been in the forward half of pass 1 of step 3 for 60 s", stalled=1),
        "slow rank",
        1,
    ),
    "a rank that never started": (
        GangReport(ranks=(make_rank(0, is_alive=True), make_rank(1, phase=None))),
        Stuck(what="took no step for 60 s"),
        "hang",
        1,
    ),
    "a host that is silent": (
        GangReport(ranks=(decoy(), make_rank(1, host="host-b", is_alive=True)), lost_hosts=(("host-b", 31.0),)),
        None,
        "lost host",
        1,
    ),
    "all ranks see a broken connection": (GangReport(ranks=(decoy(0), decoy(1))), None, "lost peer", None),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_first_rank_and_its_kind_of_failure_are_told(case: str) -> None:
    report, stuck, kind, rank = ENDS[case]
    found = diagnose(report, stuck)
    assert (found.kind, found.rank) == (kind, rank)
    assert f"({kind})" in found.sentence
    assert rank is None or f"rank {rank}" in found.sentence
    assert "\n" not in found.sentence
    assert found.sentence.endswith(".")


def test_every_kind_has_its_advice() -> None:
    assert {kind for _, _, kind, _ in ENDS.values()} <= set(ADVICE)
    assert not any(text.endswith(".") for text in ADVICE.values())


def test_a_failure_is_told_with_what_it_was_doing_its_reason_and_what_to_do() -> None:
    found = diagnose(ENDS["an allocation that fails"][0])
    assert found.sentence == (
        "rank 1 failed (out of memory) while it was training (pid 101): RuntimeError: [enforce fail] "
        "DefaultCPUAllocator: can't allocate memory: 9 bytes. Lower micro_batch, raise zero_stage, or give the run "
        "more memory; headrace check estimates it."
    )
    error = found.error("Training t, attempt 1", recipe="tiny.test")
    assert isinstance(error, TrainingFailed)
    assert error.culprits == {"rank": 1, "kind": "out of memory", "recipe": "tiny.test", "log": "/log/1"}
    assert str(error).splitlines()[1] == "Last lines of rank 1:"


def test_what_a_retry_would_meet_again_is_permanent() -> None:
    error = diagnose(ENDS["a row that the model cannot read"][0]).error("Training t, attempt 1", recipe="tiny.test")
    assert isinstance(error, InvalidTrainingRun)
    assert "row 7 has token 99." in str(error)


def test_a_hang_is_told_with_its_place() -> None:
    found = diagnose(*ENDS["a rank that hangs while the other waits"][:2])
    assert "rank 1 hangs in examples.py, line 70, in take, the others wait for it" in found.sentence
    assert found.lines == ASLEEP


def test_the_place_is_ours_where_there_is_one() -> None:
    assert is_waiting(WAITING)
    assert not is_waiting(ASLEEP)
    assert frame_of(WAITING) == "engine.py, line 38, in sum_over_ranks"
    assert frame_of(WAITING[:1]) == "distributed_c10d.py, line 3019, in all_reduce"


def test_the_stack_of_the_thread_that_was_asked_is_read() -> None:
    lines = [
        "a warning of a library",
        "Thread 0x00007f (most recent call first):",
        '  File "/lib/python3.11/selectors.py", line 415 in select',
        "",
        "Current thread 0x00007e (most recent call first):",
        *(f"  {line}" for line in ASLEEP),
    ]
    assert main_stack(lines) == ASLEEP
    assert main_stack(lines[:3]) == ()


def test_exit_codes_are_read_from_torchruns_log() -> None:
    log = (
        "E1130 failed (exitcode: -9) local_rank: 1 (pid: 7) of binary: python\n"
        "Failures:\n[1]:\n  time      : 2026\n  host      : a\n  rank      : 0 (local_rank: 0)\n"
        "  exitcode  : 1 (pid: 6)\n  error_file: <N/A>\n"
    )
    assert exit_codes(log) == {1: -9, 0: 1}
    assert list(exit_codes(log, first_rank=4)) == [5, 4]


def test_an_error_is_judged_by_what_it_came_from() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert kind_of_error(caused(RuntimeError("writing failed"), full)) == "disk full"
    assert kind_of_error(MemoryError()) == "out of memory"
    assert kind_of_error(OSError(errno.EADDRINUSE, "in use")) == "port taken"
    assert kind_of_error(ModuleNotFoundError("No module named 'x'")) == "missing module"
    assert kind_of_error(ValueError("x")) == "exception"


def test_an_exit_code_is_judged_by_its_signal() -> None:
    assert [kind_of_exit(code) for code in (-9, -15, -11, 1)] == ["killed", "terminated", "crashed", "exception"]


def test_a_log_is_judged_by_its_last_error() -> None:
    lines = ["ValueError: first", "  x = 1", "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried", "bye"]
    assert last_error(lines) == (lines[2], "out of memory")
    assert last_error(["no error here"]) is None


def test_of_a_log_without_an_end_its_last_lines_are_read(tmp_path: Path) -> None:
    log = tmp_path / "stderr.log"
    with log.open("wb") as file:
        file.truncate(2**36)  # sparse: 64 GiB, which nobody reads whole
        file.seek(0, os.SEEK_END)
        file.write(b"\xff\nthe last words\n")
    assert last_lines(log)[-1] == "the last words"
    assert last_lines(tmp_path / "none") == ()
