from pathlib import Path

from headrace.training.progress import (
    ProgressLog,
    ProgressTail,
    RankFailure,
    RunLog,
    duration,
    read_failures,
    read_phases,
    report_failure,
    report_phase,
)


def make_row(step: int) -> dict:
    return {"step": step, "loss": 2.0, "tokens_per_second": 1234.0, "seconds": 30.0, "applied": True}


def test_a_resumed_curve_begins_with_the_rows_of_its_checkpoint(tmp_path: Path) -> None:
    first = ProgressLog(tmp_path / "1.jsonl")
    for step in (1, 2):
        first.append(make_row(step))
    at_checkpoint = first.read()
    first.append(make_row(3))
    second = ProgressLog(tmp_path / "2.jsonl", at_checkpoint)
    second.append(make_row(3))
    assert [row["step"] for row in ProgressTail(tmp_path / "2.jsonl").new_rows()] == [1, 2, 3]


def test_a_row_is_read_once_and_not_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    tail = ProgressTail(path)
    assert tail.new_rows() == []
    path.write_text('{"step": 1}\n{"ste')
    assert tail.new_rows() == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert tail.new_rows() == [{"step": 2}]
    assert tail.new_rows() == []


def test_the_newest_phase_of_each_rank_is_seen(tmp_path: Path) -> None:
    report_phase(tmp_path, 0, "importing libraries")
    report_phase(tmp_path, 1, "importing libraries")
    report_phase(tmp_path, 0, "joining the group")
    assert {rank: phase.phase for rank, phase in read_phases(tmp_path).items()} == {
        0: "joining the group",
        1: "importing libraries",
    }


def test_a_broken_connection_is_never_named_as_the_first_failure(tmp_path: Path) -> None:
    decoy = RankFailure(rank=0, reason="Connection closed by peer", permanent=False, secondary=True, at=1.0)
    cause = RankFailure(rank=1, reason="file is torn", permanent=False, secondary=False, at=2.0)
    report_failure(tmp_path, decoy)
    report_failure(tmp_path, cause)
    assert [failure.rank for failure in read_failures(tmp_path)] == [1, 0]


def test_the_runs_log_says_loss_speed_and_time_left(capsys) -> None:
    RunLog().step(make_row(40), steps=60)
    assert capsys.readouterr().out == "step 40/60 · loss 2.000 · 1,234 tokens/s · 10 min 00 s left\n"


def test_the_runs_log_is_not_flooded_but_has_the_last_step(capsys) -> None:
    log = RunLog()
    for step in range(1, 61):
        log.step(make_row(step), steps=60)
    steps = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["1/60", "60/60"]


def test_a_skipped_step_says_so(capsys) -> None:
    RunLog().step(make_row(1) | {"applied": False}, steps=60)
    assert "step skipped: gradients are not finite" in capsys.readouterr().out


def test_durations_are_written_for_people() -> None:
    assert [duration(seconds) for seconds in (0, 42.4, 60, 3599, 7800)] == [
        "0 s",
        "42 s",
        "1 min 00 s",
        "59 min 59 s",
        "2 h 10 min",
    ]
