"""A real torchrun, each rank in a session of its own, under the real coordinator: its devices, and its end."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus

from headrace_dagster.launchers.gpu_launcher import GpuRunLauncher
from headrace_dagster.launchers.process_launcher import worker_of
from headrace_dagster.launchers.worker_process import process_started
from tests.processes.dagster_site import DagsterSite, dagster_site
from tests.processes.test_gpu_launcher import CODE, devices_of, retry_of
from tests.waiting import eventually

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterSite]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_GPUS", "4xH100:81559")
        with dagster_site(tmp_path_factory.mktemp("gang_site"), CODE) as site:
            site.start_daemon()
            yield site


def ranks_of(directory: Path) -> list[dict[str, Any]]:
    paths = [directory / f"rank_{number}" for number in range(2)]
    eventually(lambda: all(path.exists() for path in paths), "both ranks run")
    return [json.loads(path.read_text()) for path in paths]


def end_of(site: DagsterSite, run_id: str, ranks: list[dict[str, Any]]) -> None:
    """Watches until the run counts as gone; then its ranks must be."""
    launcher = site.instance.run_launcher
    assert isinstance(launcher, GpuRunLauncher)
    eventually(lambda: run_id not in launcher.occupied_run_ids(), "the gang no longer counts")
    assert [process_started(rank["pid"]) for rank in ranks] == [None, None]


def test_ranks_see_exactly_what_was_admitted_and_end_with_a_killed_worker(site: DagsterSite, tmp_path: Path) -> None:
    run_id = site.submit("training", tmp_path, tags={"headrace/gpus": "2"})
    ranks = ranks_of(tmp_path)
    devices = devices_of(site.run(run_id))
    worker = worker_of(site.run(run_id))
    assert worker
    assert len(devices.split(",")) == 2
    assert [rank["CUDA_VISIBLE_DEVICES"] for rank in ranks] == [devices, devices]
    assert [rank["HEADRACE_GPU_MILLI"] for rank in ranks] == ["1000", "1000"]
    assert len({worker.pid, int((tmp_path / "agent").read_text()), *(rank["session"] for rank in ranks)}) == 4

    os.kill(worker.pid, signal.SIGKILL)

    end_of(site, run_id, ranks)
    retry = retry_of(site, run_id)
    site.wait_for(retry.run_id, DagsterRunStatus.SUCCESS)
    assert (tmp_path / "second_attempt").read_text() == devices_of(site.run(retry.run_id))


def test_ranks_whose_torchrun_was_killed_end_before_their_gpus_are_free(site: DagsterSite, tmp_path: Path) -> None:
    run_id = site.submit("training", tmp_path, tags={"headrace/gpus": "2"})
    ranks = ranks_of(tmp_path)

    os.kill(int((tmp_path / "agent").read_text()), signal.SIGKILL)

    site.wait_for(run_id, DagsterRunStatus.FAILURE)
    end_of(site, run_id, ranks)
