"""What a host measured, for the host that comes after it."""

import logging
from pathlib import Path

import pytest

from headrace.engines.host.copies import Figures
from headrace.engines.host.remembered import Remembered

FIGURES = {
    "a": Figures(coming_mib=700, held_mib=650, bring_seconds=8.5, num_worked=3, work_seconds=1.5),
    "b": Figures(),
}


def test_what_one_host_writes_the_next_one_reads(tmp_path: Path) -> None:
    Remembered(tmp_path / "host.sock").write(FIGURES)
    assert Remembered(tmp_path / "host.sock").read() == FIGURES
    assert [path.name for path in tmp_path.iterdir()] == ["host.sock.models.json"]


def test_nothing_is_remembered_where_no_host_was(tmp_path: Path) -> None:
    assert Remembered(tmp_path / "host.sock").read() == {}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b'{"a": {"held_mib": -1}}',
        b'{"a": {"held_mib": "7"}}',
        b'{"a": {"bring_seconds": Infinity}}',
        b"\xff",
    ],
)
def test_a_damaged_file_is_forgotten_and_said(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    remembered = Remembered(tmp_path / "host.sock")
    remembered.write(FIGURES)
    remembered.file.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert remembered.read() == {}
    assert f"what earlier hosts measured is forgotten: {remembered.file} cannot be read" in caplog.text
    remembered.write(FIGURES | {"c": Figures()})
    assert set(remembered.read()) == {"a", "b", "c"}


def test_a_file_that_cannot_be_written_is_said_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remembered = Remembered(tmp_path / "host.sock")
    remembered.file.mkdir()
    with caplog.at_level(logging.WARNING):
        remembered.write(FIGURES)
    assert "what was measured is not remembered" in caplog.text


def test_the_latest_of_many_are_remembered(tmp_path: Path) -> None:
    Remembered(tmp_path / "host.sock").write({str(number): Figures(held_mib=number) for number in range(600)})
    found = Remembered(tmp_path / "host.sock").read()
    assert list(found) == [str(number) for number in range(100, 600)]
