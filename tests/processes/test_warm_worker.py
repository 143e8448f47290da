"""Workers that are forked from a process which has imported Dagster already."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace_dagster.launchers.warm_worker import WarmWorkers
from headrace_dagster.launchers.worker_process import kill_run
from tests.waiting import eventually

pytestmark = pytest.mark.process
VERSION = ["--version"]


@pytest.fixture(scope="module")
def warm_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmWorkers]:
    workers = WarmWorkers(tmp_path_factory.mktemp("template") / "template.log")
    yield workers
    workers.close()


def test_a_warm_worker_waits_in_a_session_of_its_own_and_then_executes_dagster(
    warm_workers: WarmWorkers, tmp_path: Path
) -> None:
    held = warm_workers.hold("a-run", VERSION, environment=os.environ, log=tmp_path / "log")
    eventually((tmp_path / "log").exists, "the worker waits")
    assert os.getsid(held.identity.pid) == held.identity.pid
    assert (tmp_path / "log").read_text() == ""

    held.release()

    assert held.wait() == 0
    assert "version" in (tmp_path / "log").read_text()
    assert not held.identity.is_alive()


def test_a_warm_worker_has_the_environment_it_is_given(
    warm_workers: WarmWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dagster's command line reads the `.env` of its directory, and lets it win over the environment.
    monkeypatch.chdir(tmp_path)
    environment = {"PATH": os.environ["PATH"], "DAGSTER_HOME": str(tmp_path)}

    held = warm_workers.hold("a-run", ["instance", "info"], environment=environment, log=tmp_path / "log")
    held.release()

    assert held.wait() == 0
    assert f"$DAGSTER_HOME: {tmp_path}" in (tmp_path / "log").read_text()


def test_an_abandoned_warm_worker_executes_nothing(warm_workers: WarmWorkers, tmp_path: Path) -> None:
    held = warm_workers.hold("a-run", VERSION, environment=os.environ, log=tmp_path / "log")

    held.abandon()

    assert not held.identity.is_alive()
    assert not (tmp_path / "log").exists() or not (tmp_path / "log").read_text()


def test_a_killed_warm_worker_is_reported_with_its_signal(warm_workers: WarmWorkers, tmp_path: Path) -> None:
    held = warm_workers.hold("a-run", VERSION, environment=os.environ, log=tmp_path / "log")

    template = psutil.Process(held.identity.pid).parent()

    killed, survivors = kill_run("a-run", held.identity)

    assert (killed, survivors) == ([held.identity.pid], [])
    held.release()
    assert held.wait() == -signal.SIGKILL
    assert template
    assert template.is_running(), "it goes on after a release that came too late"


def test_a_held_worker_ends_with_its_template_and_the_next_one_has_a_new_template(
    warm_workers: WarmWorkers, tmp_path: Path
) -> None:
    held = warm_workers.hold("a-run", VERSION, environment=os.environ, log=tmp_path / "log")
    template = psutil.Process(held.identity.pid).parent()
    assert template
    template.kill()
    assert held.wait() is None, "nobody was there to see it end"
    eventually(lambda: not held.identity.is_alive(), "the held worker has ended")

    successor = warm_workers.hold("a-run", VERSION, environment=os.environ, log=tmp_path / "log")
    successor.release()

    assert successor.wait() == 0


def test_before_the_fork_there_is_one_thread_and_nothing_of_ours_nor_of_models() -> None:
    code = """
import importlib, os, sys
from headrace_dagster.launchers.worker_template import _PRELOADED
for module in _PRELOADED:
    importlib.import_module(module)
late = {"headrace", "assets", "resources", "pipelines", "pyarrow", "polars", "numpy", "torch", "mlflow"}
print(len(os.listdir("/proc/self/task")), sorted(late & {name.partition(".")[0] for name in sys.modules}))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "1 []"
