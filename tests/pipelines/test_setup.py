"""Set-up says in one sentence what is in its way; everything else is shown by `make test` itself."""

import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

from pipelines import setup
from pipelines.setup import SetupFailed, cause, step

# What pip prints without a network, shortened.
UNREACHABLE = """WARNING: Retrying after connection broken by 'NewConnectionError(...): [Errno 111] Connection refused'
ERROR: Cannot install pip because these package versions have conflicting dependencies."""


def test_an_unreachable_registry_is_not_called_a_conflict() -> None:
    assert "the package registry does not answer" in cause(UNREACHABLE)


def test_a_full_disk_is_named() -> None:
    assert "the disk is full" in cause("ERROR: [Errno 28] No space left on device")


def test_any_other_failure_keeps_its_own_words() -> None:
    assert cause("Collecting torch\nERROR: No matching distribution\n") == "ERROR: No matching distribution"


def test_too_little_space_is_said_before_anything_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(setup.FREE_BYTES_MIN, "packages", 10**18)

    with pytest.raises(SetupFailed):
        step("packages", "inputs", tmp_path / "stamp", lambda: pytest.fail("installed all the same"))

    assert "packages need 1000000000 GB free" in capsys.readouterr().err


def test_a_step_that_was_done_for_the_same_inputs_is_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []
    for inputs in ("1", "1", "2"):
        step("packages", inputs, tmp_path / "stamp", lambda inputs=inputs: done.append(inputs))

    assert done == ["1", "2"]


def test_a_step_that_failed_is_done_again(tmp_path: Path) -> None:
    def fail() -> None:
        raise subprocess.SubprocessError

    with pytest.raises(subprocess.SubprocessError):
        step("packages", "1", tmp_path / "stamp", fail)

    done: list[str] = []
    step("packages", "1", tmp_path / "stamp", lambda: done.append("1"))
    assert done == ["1"]


def test_metadata_that_a_build_left_in_the_checkout_hides_no_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "CHECKOUT", tmp_path)
    setup.remove_stale_metadata()
    stale, installed = tmp_path / "headrace.egg-info", tmp_path / "site-packages/headrace-0.1.0.dist-info"
    for directory, points in ((stale, ""), (installed, "[headrace.engines]\nnew = headrace.engines.ours:ECHO\n")):
        directory.mkdir(parents=True)
        (directory / ("PKG-INFO" if directory is stale else "METADATA")).write_text("Name: headrace\nVersion: 0.1.0\n")
        (directory / "entry_points.txt").write_text(points)
    path = [str(tmp_path), str(installed.parent)]

    def names() -> list[str]:
        return [point.name for point in next(iter(distributions(name="headrace", path=path))).entry_points]

    assert names() == []
    setup.remove_stale_metadata()
    assert names() == ["new"]


def test_the_env_file_gets_an_absolute_home_and_keeps_a_users_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "CHECKOUT", tmp_path)
    (tmp_path / ".env").write_text("DAGSTER_HOME=dagster_home\nHEADRACE_ENGINE=echo\n")

    setup.write_env_file()

    assert (tmp_path / ".env").read_text() == f"DAGSTER_HOME={tmp_path}/dagster_home\nHEADRACE_ENGINE=echo\n"
