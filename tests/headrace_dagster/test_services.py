"""One daemon a checkout: what stands in its way is said in one sentence."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.command_line.project import Project, find_project
from headrace_dagster.project import services as services_module
from headrace_dagster.project.services import ServicesUnavailable, locked, services, ui_port
from resources.settings import CHECKOUT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return find_project(CHECKOUT, os.environ)


def test_a_port_in_use_is_named_with_the_way_out(project: Project, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with (
            pytest.raises(ServicesUnavailable, match=f"Port {port}.*HEADRACE_PORT"),
            services(project, tmp_path, port=port, environment=dict(os.environ)),
        ):
            pass


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "services.lock"

    with locked(path), pytest.raises(ServicesUnavailable, match=f"Process {os.getpid()} "), locked(path):
        pass


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    path = tmp_path / "services.lock"
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom headrace_dagster.project.services import locked\n"
        f"with locked(Path({str(path)!r})):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9

    with locked(path):
        pass


def test_a_lock_that_a_dead_holders_daemon_keeps_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon inherits the descriptor: its parent's death alone must not let a second daemon in."""
    monkeypatch.setattr(services_module, "LOCK_WAIT_SECONDS", 1.0)
    path = tmp_path / "services.lock"
    with locked(path) as descriptor:
        daemon = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    try:
        path.write_text("999999999")

        with pytest.raises(ServicesUnavailable, match="left behind still runs"), locked(path):
            pass
        assert "Waiting for the previous daemon" in capsys.readouterr().err
    finally:
        daemon.kill()
        daemon.wait()


def test_a_daemon_started_by_hand_on_the_same_instance_is_refused(project: Project, tmp_path: Path) -> None:
    # A process that looks like one, with the instance's DAGSTER_HOME.
    environment = dict(os.environ) | {"DAGSTER_HOME": f"{os.environ['DAGSTER_HOME']}/"}
    by_hand = subprocess.Popen(["sh", "-c", "sleep 60; : dagster-daemon run"], env=environment)
    try:
        with (
            pytest.raises(ServicesUnavailable, match=rf"pid {by_hand.pid}.*started by hand"),
            services(project, tmp_path, port=1, environment=dict(os.environ)),
        ):
            pass
    finally:
        by_hand.kill()
        by_hand.wait()


@pytest.mark.parametrize("text", ["http", "-1", "0", "65536", "3000.5"])
def test_a_port_that_is_none_is_refused_in_one_sentence(text: str):
    with pytest.raises(ServicesUnavailable, match=rf"^HEADRACE_PORT must be a port from 1 to 65535, got '{text}'\.$"):
        ui_port(text)


def test_the_ui_has_its_usual_port_unless_told_otherwise():
    assert ui_port(None) == ui_port("") == 3000
    assert ui_port("3917") == 3917
