"""What `python -m headrace.training.consolidate` refuses before it reads a weight."""

from pathlib import Path

import pytest

from headrace.training.consolidate import main

REFUSED = {
    "a training without a checkpoint": ((), "Training none has no whole checkpoint in"),
    "a training that is no name": (("--training-id", "../x"), "Store key must be"),
    "a base without a config": (("--base", "/nowhere"), "--base must be the base model's directory, got /nowhere"),
    "a directory that is there": (("--out", "/"), "/ is there already. Name a place where nothing is"),
    "files of no bytes": (("--max-shard-bytes", "0"), "--max-shard-bytes must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_question_is_answered_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    options, sentence = REFUSED[case]
    asked = ["--store", str(tmp_path / "store"), "--training-id", "none", "--out", str(tmp_path / "out"), *options]
    assert main(asked) == 1
    assert capsys.readouterr().err.startswith(sentence)
    assert not list(tmp_path.glob("*out*"))
