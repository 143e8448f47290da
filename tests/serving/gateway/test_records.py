"""The log: lines of JSON that mean what was written and steer no terminal."""

import json
from pathlib import Path

import pytest

from headrace.serving.gateway.records import Records


@pytest.mark.parametrize(
    "foreign",
    [
        "\x1b]0;theirs\x07\x1b[2J",
        "\x9b31m",
        "\x7f\x7f",
        "\u202egnp.exe",
        "a\u2028b\u2029c",
        "line\nline\r",
        "half \ud800 a pair",
    ],
    ids=ascii,
)
def test_what_an_engine_said_cannot_steer_the_terminal_of_whoever_reads_the_log(tmp_path: Path, foreign: str) -> None:
    file = tmp_path / "gateway.jsonl"
    records = Records(file, gateway="g")
    records.event("request failed", why=foreign)
    records.event("request failed", why="水車 ÿ 👩‍🌾")
    records.close()
    first, second = file.read_text(encoding="utf-8").split("\n")[:-1]
    assert first.isascii()
    assert first.isprintable()
    assert json.loads(first)["why"] == foreign
    assert "水車 ÿ 👩‍🌾" in second
