"""What all benchmarks share: their options, their turns, and the line that each ends with."""

import argparse
import json
import os
from pathlib import Path

import pytest

from benchmarks.measuring import at_least, at_most, by_commas, finish, in_turns, parser_of, scratch, some_of, whole

BENCHMARKS = sorted(path.parent for path in (Path(__file__).parents[2] / "benchmarks").glob("*/__main__.py"))


def test_the_last_line_has_the_bars_and_the_exit_status_says_whether_all_are_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = {"lost": at_most(0, 0), "speed": at_least(1.5, 2.0)}
    assert finish({"seconds": 3}, bars, tmp_path / "line.json") == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "line.json").read_text() == line + "\n"
    assert json.loads(line) == {
        "seconds": 3,
        "bars": {
            "lost": {"value": 0, "bar": 0, "met": True},
            "speed": {"value": 1.5, "bar": 2.0, "met": False},
        },
    }
    assert finish({}, {"lost": at_most(0, 0)}) == 0


def test_a_figure_that_is_none_meets_no_bar() -> None:
    assert not at_most(float("nan"), 1.0)["met"]
    assert not at_least(float("nan"), 1.0)["met"]


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.name)
def test_every_benchmark_ends_with_its_bars(benchmark: Path) -> None:
    sources = [path.read_text() for path in benchmark.glob("*.py")]
    # Those of several parts end in the one loop that calls it.
    assert any("return finish(" in source or "return run_parts(" in source for source in sources)


def test_every_system_is_measured_once_a_run_and_goes_first_in_turn() -> None:
    turns = list(in_turns("speed", 2, ["ours", "theirs"], num_warm_ups=1))
    assert turns == [(-1, "theirs"), (-1, "ours"), (0, "ours"), (0, "theirs"), (1, "theirs"), (1, "ours")]


def test_options_are_read_alike(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of("one", "What is measured.")
    parser.add_argument("--runs", type=whole(2))
    parser.add_argument("--sizes", type=by_commas(float))
    parser.add_argument("--peers", type=some_of(["tar", "lance"]))
    given = parser.parse_args(["--runs", "2", "--sizes", "0.5, 2", "--peers", "tar,"])
    assert (given.runs, given.sizes, given.peers) == (2, [0.5, 2.0], ["tar"])
    for arguments, message in (
        (["--runs", "1"], "must be a whole number of 2 or more, got '1'"),
        (["--sizes", "1,x"], "must be values by commas, got '1,x'"),
        (["--peers", "zip"], "must be some of tar, lance, got 'zip'"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(arguments)
        error = capsys.readouterr().err
        assert "usage: python -m benchmarks.one" in error
        assert message in error
    with pytest.raises(argparse.ArgumentTypeError):
        whole()("-1")


def test_scratch_is_gone_after_its_block(tmp_path: Path) -> None:
    with scratch("one", tmp_path) as directory:
        (directory / "file").write_text("x")
        assert directory.parent == tmp_path
    assert os.listdir(tmp_path) == []  # noqa: PTH208
