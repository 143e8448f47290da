"""`headrace model loaded`: what an engine host holds, for people and for programs."""

from pathlib import Path

import pytest

from headrace.engines.conformance import opened
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.address import default_socket
from headrace.store.local import LocalStore
from tests.command_line.builders import checked_json, run
from tests.engines.host.hosts import running_host

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
    assert shown[0].split() == ["MODEL", "PLACE", "STATE", "KEPT", "SINCE", "MIB", "HITS", "COMES", "IN", "NEXT", "OUT"]
    assert shown[1].startswith("model 1 (echo)  cpu    on the device")
    assert shown[-1] == f"{row['reserved_mib']} of 1,000 MiB of cpu are promised to models."


def test_where_nobody_listens_that_is_said(tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.sock"
    at = ["model", "loaded", "--host", str(nobody)]
    assert run(*at, store=tmp_path).output == (
        f"No engine host listens on {nobody}: a run that loads a model starts one.\n"
    )
    assert checked_json(run(*at, "--json", store=tmp_path), "model-loaded")["is_there"] is False


def test_without_a_socket_the_host_of_the_stores_runs_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_ENGINE_HOST")
    body = checked_json(run("model", "loaded", "--json", store=tmp_path), "model-loaded")
    assert body["socket"] == str(default_socket(LocalStore(tmp_path)))


def test_a_host_that_is_no_path_is_refused(tmp_path: Path) -> None:
    result = run("model", "loaded", "--host", "warm", store=tmp_path)
    assert result.exit_code == 2
    assert "--host must be off, on, cpu, or the absolute path of an engine host's socket, got 'warm'." in result.stderr
