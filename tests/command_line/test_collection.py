"""gc: shows what would go and why, asks, and keeps what Dagster names."""

import json
import os
import time
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import HandoffStore
from headrace.store import protection
from headrace.store.leases import HELD_SECONDS
from headrace.store.local import LocalStore
from headrace.store.protection import PROTECTION, Answer, Asked, Named
from headrace.store.sealed_directory import open_directory, seal_directory, was_collected
from tests.command_line.builders import run

NONE = ("--without-dagster", "--without-mlflow", "--grace", "0", "--keep", "1")


def versions(store: Path) -> list[int]:
    return HandoffStore(LocalStore(store)).versions("raw_documents", "shard-00")


def names_the_oldest(asked: Asked) -> Answer:
    return Answer(named=[Named(key=manifest_key("raw_documents", "shard-00", 1), reason="named by somebody")])


def register(monkeypatch: pytest.MonkeyPatch, value: str, name: str = "dagster", *, but: str = "dagster") -> None:
    """As an installed package would, in the place of another."""
    provider = EntryPoint(name=name, value=value, group=PROTECTION)
    others = [one for one in entry_points(group=PROTECTION) if one.name != but]
    monkeypatch.setattr(protection, "entry_points", lambda group: EntryPoints([*others, provider]))


def test_a_dry_run_says_what_would_go_and_why_and_takes_nothing(store: Path) -> None:
    shown = run("gc", "--dry-run", *NONE, store=store)
    assert shown.exit_code == 0
    lines = [line.split("  ") for line in shown.stdout.splitlines() if line.startswith("collect")]
    assert [line[1] for line in lines] == ["raw_documents[shard-00] v1", "raw_documents[shard-00] v2"]
    assert "older than the newest 1" in shown.stdout
    assert "3 versions kept: among the newest 1." in shown.stdout
    assert "2 versions and 0 orphans to collect" in shown.stdout
    assert versions(store) == [1, 2, 3]


def test_gc_takes_what_it_said(store: Path) -> None:
    result = run("gc", "--yes", *NONE, store=store)
    assert result.exit_code == 0
    assert "Collected 2 versions and 0 orphans" in result.stdout
    assert versions(store) == [3]
    assert run("gc", "--yes", *NONE, store=store).stdout.splitlines()[-1].startswith("0 versions")
    assert run("handoff", "verify", "--all-versions", store=store).exit_code == 0
    gone = run("handoff", "show", "raw_documents", "shard-00", "v1", store=store)
    assert (gone.exit_code, "was garbage-collected" in gone.stderr) == (2, True)


def test_handoff_gc_is_the_same_command(store: Path) -> None:
    assert (
        run("handoff", "gc", "--dry-run", *NONE, store=store).stdout
        == run("gc", "--dry-run", *NONE, store=store).stdout
    )


def test_a_version_that_is_read_stays_and_its_reader_is_named(store: Path) -> None:
    handoff = HandoffStore(LocalStore(store)).open("raw_documents", "shard-00", 1)
    handoff.hold()
    result = run("gc", "--yes", *NONE, store=store)
    assert f"leased: it is being read by {os.uname().nodename} pid {os.getpid()}" in result.stdout
    assert versions(store) == [1, 3]


def test_gc_as_json_has_plan_and_report(store: Path) -> None:
    body = json.loads(run("gc", "--yes", "--json", *NONE, store=store).stdout)
    kept = {(one["asset"], one["partition"], one["version"]) for one in body["plan"]["versions"] if one["kept"]}
    assert kept == {("labels", "all", 1), ("raw_documents", "shard-00", 3), ("raw_documents", "shard-01", 1)}
    assert body["report"]["num_versions"] == 2
    assert body["report"]["num_bytes"] == body["plan"]["num_bytes"] > 0
    assert json.loads(run("gc", "--dry-run", "--json", *NONE, store=store).stdout)["report"] is None


def test_what_a_provider_names_stays(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{__name__}:names_the_oldest")
    result = run("gc", "--yes", "--keep", "1", "--grace", "0", store=store, env={"DAGSTER_HOME": "/somewhere"})
    assert result.exit_code == 0, result.stderr
    assert versions(store) == [1, 3]


REFUSALS = {
    "no home": ("headrace_dagster.command_line:protection", "dagster", None, "set DAGSTER_HOME, or pass"),
    "a relative home": ("headrace_dagster.command_line:protection", "dagster", "home", "correct DAGSTER_HOME"),
    "no provider": (
        f"{__name__}:names_the_oldest",
        "other",
        "/somewhere",
        "install Headrace again, or pass --without-dagster",
    ),
    "a provider that does not load": (
        "not_a_module:x",
        "dagster",
        "/somewhere",
        "dagster protects cannot be asked",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_without_an_answer_from_dagster_nothing_goes(
    refusal: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, name, home, wanted = REFUSALS[refusal]
    register(monkeypatch, value, name)
    result = run("gc", "--yes", "--keep", "1", "--grace", "0", store=store, env={"DAGSTER_HOME": home})
    assert (result.exit_code, result.stdout) == (2, "")
    assert wanted in result.stderr
    assert versions(store) == [1, 2, 3]


def test_what_dagster_last_materialized_stays(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.report_runless_asset_event(
            dg.AssetMaterialization("raw_documents", partition="shard-00", metadata={"version": 2})
        )
    register(monkeypatch, "headrace_dagster.command_line:protection")
    result = run("gc", "--yes", "--keep", "1", "--grace", "0", store=store, env={"DAGSTER_HOME": str(home)})
    assert result.exit_code == 0, result.stderr
    assert versions(store) == [2, 3]


def seal_weights(store: Path, tmp_path: Path) -> str:
    """Weights that nobody names, sealed two days ago; their digest."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"0123" * 1000)
    long_ago = FixedClock(time.time() - 2 * HELD_SECONDS)
    return seal_directory(LocalStore(store), source, clock=long_ago).digest


def test_weights_that_nobody_names_go_and_each_has_its_reason(store: Path, tmp_path: Path) -> None:
    digest = seal_weights(store, tmp_path)
    shown = run("gc", "--dry-run", *NONE, store=store)
    assert [line.split("  ")[1:] for line in shown.stdout.splitlines() if digest[:12] in line] == [
        [f"weights {digest[:12]}", "4.0 KB", "nobody names them"]
    ] or f"weights {digest[:12]}" in shown.stdout
    assert "1 weights to collect." in shown.stdout
    body = json.loads(run("gc", "--yes", "--json", *NONE, store=store).stdout)
    (one,) = body["plan"]["others"]
    assert (one["kind"], one["key"], one["kept"]) == ("weights", f"weights/{digest}", False)
    assert (one["reason"], body["report"]["num_others"]) == ("nobody names them", 1)
    assert was_collected(LocalStore(store), digest)


def test_without_mlflow_s_address_no_weights_go(store: Path, tmp_path: Path) -> None:
    digest = seal_weights(store, tmp_path)
    asked = tuple(one for one in NONE if one != "--without-mlflow")
    shown = run("gc", "--yes", *asked, store=store, env={"MLFLOW_TRACKING_URI": None})
    assert "MLFLOW_TRACKING_URI is not set, so MLflow's aliases are unknown, and may name them" in shown.stdout
    assert not was_collected(LocalStore(store), digest)


def test_who_holds_weights_is_named(store: Path, tmp_path: Path) -> None:
    digest = seal_weights(store, tmp_path)
    open_directory(LocalStore(store), digest)
    shown = run("gc", "--dry-run", *NONE, store=store)
    holder = f"{os.uname().nodename} pid {os.getpid()}"
    assert f"leased: it was sealed or opened a short while ago by {holder}" in shown.stdout
