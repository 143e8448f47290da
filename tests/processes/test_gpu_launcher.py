"""Runs on simulated GPUs under the real coordinator and daemon: what they see, and what is left of them.

Among them a real torchrun, each rank in a session of its own.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG

from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, PLACEMENT_TAG, admission_of
from headrace_dagster.launchers.eviction import last_eviction
from headrace_dagster.launchers.gpu_launcher import GpuRunLauncher
from headrace_dagster.launchers.process_launcher import WORKER_TAG, worker_of
from headrace_dagster.launchers.worker_process import process_started
from tests.processes.dagster_site import DagsterSite, dagster_site
from tests.waiting import eventually

pytestmark = pytest.mark.process
CODE = Path(__file__).with_name("gpu_runs_under_test.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterSite]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_GPUS", "4xH100:81559")
        with dagster_site(tmp_path_factory.mktemp("gpu_site"), CODE) as site:
            site.start_daemon()
            yield site


@pytest.fixture(scope="module")
def launcher(site: DagsterSite) -> GpuRunLauncher:
    assert isinstance(site.instance.run_launcher, GpuRunLauncher)
    return site.instance.run_launcher


def retry_of(site: DagsterSite, run_id: str) -> DagsterRun:
    eventually(lambda: [run for run in site.instance.get_runs() if run.parent_run_id == run_id], "the run is retried")
    (retry,) = [run for run in site.instance.get_runs() if run.parent_run_id == run_id]
    return retry


def devices_of(run: DagsterRun) -> str:
    admission = admission_of(run)
    assert admission
    return ",".join(share.device for share in admission.placement.gpus)


def test_a_shared_gpu_is_all_that_a_run_sees_and_proc_shows_it(site: DagsterSite, tmp_path: Path) -> None:
    run_id = site.submit("telling", tmp_path, tags={"headrace/gpus": "0.5"})

    run = site.wait_for(run_id, DagsterRunStatus.SUCCESS)

    (device,) = devices_of(run).split(",")
    seen = json.loads((tmp_path / "told").read_text())
    assert seen == {
        "HEADRACE_RUN_ID": run_id,
        "CUDA_VISIBLE_DEVICES": device,
        "HEADRACE_GPU_MILLI": "500",
        "PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.5",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=40779M",
    }
    shown = json.loads((tmp_path / "shown").read_text())
    assert shown == [f"HEADRACE_RUN_ID={run_id}", f"CUDA_VISIBLE_DEVICES={device}", "HEADRACE_GPU_MILLI=500"]


def test_a_run_that_asks_for_no_gpu_sees_none(site: DagsterSite, tmp_path: Path) -> None:
    run_id = site.submit("telling", tmp_path)

    site.wait_for(run_id, DagsterRunStatus.SUCCESS)

    seen = json.loads((tmp_path / "told").read_text())
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["HEADRACE_GPU_MILLI"] == "0"
    assert seen["PYTORCH_CUDA_ALLOC_CONF"] == "unset"


def test_a_child_that_outlives_its_run_holds_its_gpu_until_it_is_killed(
    site: DagsterSite, launcher: GpuRunLauncher, tmp_path: Path
) -> None:
    run_id = site.submit("leaving", tmp_path, tags={"headrace/gpus": "1"})

    site.wait_for(run_id, DagsterRunStatus.SUCCESS)

    child = int((tmp_path / "child").read_text())
    assert process_started(child) is None or run_id in launcher.occupied_run_ids()
    # A queued run makes the daemon look; an idle one looks as well, for as long as a run lingers.
    eventually(lambda: process_started(child) is None, "the child was killed")
    eventually(lambda: run_id not in launcher.occupied_run_ids(), "its devices are free")
    eventually(lambda: "Killed what outlived this run" in site.messages(run_id), "the run's log says so")


def test_a_preempted_run_cleans_up_and_is_retried_without_using_up_a_retry(
    site: DagsterSite, launcher: GpuRunLauncher, tmp_path: Path
) -> None:
    run_id = site.submit("stoppable", tmp_path, tags={"headrace/gpus": "1", MAX_RETRIES_TAG: "0"})
    eventually((tmp_path / "started").exists, "the first attempt has started")

    launcher.evict(site.run(run_id), "Its GPU is for another run.")
    launcher.evict(site.run(run_id), "Its GPU is for another run.")

    evicted = site.wait_for(run_id, DagsterRunStatus.FAILURE)
    assert (tmp_path / "cleaned_up").exists()
    assert process_started(int((tmp_path / "started").read_text())) is None
    eviction = last_eviction(evicted)
    assert eviction
    assert (eviction.run_id, eviction.num) == (run_id, 1)
    retry = retry_of(site, run_id)
    site.wait_for(retry.run_id, DagsterRunStatus.SUCCESS)
    assert site.run(retry.run_id).tags[MAX_RETRIES_TAG] == "1", "one more than none: a failure of its own ends it"
    assert (tmp_path / "second_attempt").read_text() == devices_of(site.run(retry.run_id))


def test_a_run_with_the_tags_of_another_goes_back_into_the_queue_and_gets_devices_of_its_own(
    site: DagsterSite, tmp_path: Path
) -> None:
    (tmp_path / "first").mkdir()
    first = site.submit("telling", tmp_path / "first", tags={"headrace/gpus": "1"})
    parent = site.wait_for(first, DagsterRunStatus.SUCCESS)
    copied = {name: parent.tags[name] for name in (GATE_TAG, PLACEMENT_TAG, WORKER_TAG, "headrace/gpus")}
    assert copied[GATE_TAG] == ADMITTED
    run_id = site.start_at_once("telling", tmp_path, tags=copied)

    site.wait_for(run_id, DagsterRunStatus.SUCCESS)

    assert "Not started: no devices were promised to this run itself." in site.messages(run_id)
    assert json.loads((tmp_path / "told").read_text())["CUDA_VISIBLE_DEVICES"] == devices_of(site.run(run_id))


def test_a_start_that_timed_out_gives_its_gpu_back_only_without_its_process(
    site: DagsterSite, launcher: GpuRunLauncher, tmp_path: Path
) -> None:
    run_id = site.submit("stoppable", tmp_path, tags={"headrace/gpus": "1", MAX_RETRIES_TAG: "0"})
    eventually(lambda: WORKER_TAG in site.run(run_id).tags, "the run has a worker")
    worker = worker_of(site.run(run_id))
    assert worker
    # A worker that hangs: what run monitoring sees is a run that does not start.
    os.kill(worker.pid, signal.SIGSTOP)
    site.instance.report_run_failed(site.run(run_id), "Run timed out due to taking longer than 180 seconds to start.")
    assert run_id in launcher.occupied_run_ids()

    eventually(lambda: run_id not in launcher.occupied_run_ids(), "the worker that hangs was killed")

    assert process_started(worker.pid) is None


def ranks_of(directory: Path) -> list[dict[str, Any]]:
    paths = [directory / f"rank_{number}" for number in range(2)]
    eventually(lambda: all(path.exists() for path in paths), "both ranks run")
    return [json.loads(path.read_text()) for path in paths]


def end_of(launcher: GpuRunLauncher, run_id: str, ranks: list[dict[str, Any]]) -> None:
    """Watches until the run counts as gone; then its ranks must be."""
    eventually(lambda: run_id not in launcher.occupied_run_ids(), "the gang no longer counts")
    assert [process_started(rank["pid"]) for rank in ranks] == [None, None]


def test_ranks_see_exactly_what_was_admitted_and_end_with_a_killed_worker(
    site: DagsterSite, launcher: GpuRunLauncher, tmp_path: Path
) -> None:
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

    end_of(launcher, run_id, ranks)
    retry = retry_of(site, run_id)
    site.wait_for(retry.run_id, DagsterRunStatus.SUCCESS)
    assert (tmp_path / "second_attempt").read_text() == devices_of(site.run(retry.run_id))


def test_ranks_whose_torchrun_was_killed_end_before_their_gpus_are_free(
    site: DagsterSite, launcher: GpuRunLauncher, tmp_path: Path
) -> None:
    run_id = site.submit("training", tmp_path, tags={"headrace/gpus": "2"})
    ranks = ranks_of(tmp_path)

    os.kill(int((tmp_path / "agent").read_text()), signal.SIGKILL)

    site.wait_for(run_id, DagsterRunStatus.FAILURE)
    end_of(launcher, run_id, ranks)
