"""`headrace model loaded`: what an engine host holds, for people and for programs."""

import os
from pathlib import Path

import pytest

from headrace.engines.conformance import opened
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.address import default_socket
from headrace.owners import owner_name
from headrace.store.local import LocalStore
from tests.command_line.builders import checked_json, run, start
from tests.engines.host.hosts import running_host, stopped

pytestmark = pytest.mark.process


def test_what_a_host_holds_is_listed_with_what_would_leave_first(tmp_path: Path) -> None:
    with running_host("--memory-mib", "1000") as host:
        engine = opened("echo", deployment=host.deployment())
        LoopThread().run(engine.close())

        at = ["model", "loaded", "--host", str(host.socket_file)]
        listed = checked_json(run(*at, "--json", store=tmp_path), "model-loaded")
        shown = run(*at, store=tmp_path).output.splitlines()

    [row] = listed["models"]
    assert (row["model"], row["place"], row["state"], row["loads"]) == ("model 1 (echo)", "cpu", "on the device", 1)
    assert row["mib"] > 10
    assert row["bring_seconds"] > 0
    assert row["next_out"] == 1
    assert listed["accounts"] == [{"place": "cpu", "mib": 1000, "reserved_mib": row["reserved_mib"]}]
    columns = " ".join(shown[0].split())
    assert columns == "MODEL PLACE STATE KEPT SINCE AT WORK WAITING MIB HITS COMES IN NEXT OUT"
    assert shown[1].startswith("model 1 (echo)  cpu    on the device")
    assert shown[-1] == f"{row['reserved_mib']} of 1,000 MiB of cpu are promised to models."


def test_where_nobody_listens_that_is_said(tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.sock"
    at = ["model", "loaded", "--host", str(nobody)]
    assert run(*at, store=tmp_path).output == (
        f"No engine host listens on {nobody}: runs that are told of it (HEADRACE_ENGINE_HOST) open their engines "
        "themselves.\n"
    )
    assert checked_json(run(*at, "--json", store=tmp_path), "model-loaded")["is_there"] is False


def test_without_a_socket_the_host_of_the_stores_runs_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_ENGINE_HOST")
    body = checked_json(run("model", "loaded", "--json", store=tmp_path), "model-loaded")
    assert body["socket"] == str(default_socket(LocalStore(tmp_path)))


@pytest.mark.parametrize(
    ("word", "told"),
    [("off", "hosts are off here (HEADRACE_ENGINE_HOST=off)"), ("cpu", "a run that loads a model starts one")],
)
def test_what_runs_do_without_a_host_is_said(tmp_path: Path, word: str, told: str) -> None:
    result = run("model", "loaded", store=tmp_path, env={"HEADRACE_ENGINE_HOST": word})
    assert (result.exit_code, told in result.output) == (0, True)


def test_a_wrong_variable_is_blamed_by_its_name(tmp_path: Path) -> None:
    result = run("model", "loaded", store=tmp_path, env={"HEADRACE_ENGINE_HOST": "warm"})
    assert result.exit_code == 2
    assert "Error: HEADRACE_ENGINE_HOST must be off, on, cpu, or" in result.stderr


def test_a_host_that_does_not_answer_is_said_to_be_waited_for(tmp_path: Path) -> None:
    with running_host("--memory-mib", "1000") as host:
        with stopped(host.process.pid):
            asking = start("model", "loaded", "--host", str(host.socket_file), store=tmp_path)
            assert asking.stderr
            assert asking.stderr.readline() == f"Waiting for the engine host at {host.socket_file} to answer …\n"
        output, _ = asking.communicate()
    assert (asking.returncode, output) == (0, "0 of 1,000 MiB of cpu are promised to models.\n")


@pytest.mark.skipif(os.getuid() == 0, reason="root may ask every host")
def test_a_host_that_may_not_be_asked_is_told_with_its_owner(tmp_path: Path) -> None:
    with running_host("--memory-mib", "1000") as host:
        host.socket_file.chmod(0)
        result = run("model", "loaded", "--host", str(host.socket_file), store=tmp_path)
        host.socket_file.chmod(0o600)
    assert result.exit_code == 2
    assert f"permission denied, it belongs to {owner_name(host.socket_file)}" in result.stderr


def test_a_host_that_is_no_path_is_refused(tmp_path: Path) -> None:
    result = run("model", "loaded", "--host", "warm", store=tmp_path)
    assert result.exit_code == 2
    assert "--host must be off, on, cpu, or the absolute path of an engine host's socket, got 'warm'." in result.stderr
