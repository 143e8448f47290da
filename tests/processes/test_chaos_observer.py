"""The observer of `benchmarks.coordinator_chaos`: it must see what is over-promised, and nothing that is not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from simulation.chaos.fleet import Starvation
from simulation.chaos.jobs import take_slots
from simulation.chaos.observer import MARKER, Kernel, OnDevices, is_alive, over_promised, proven
from tests.waiting import eventually


def make_process(run_id: str, devices: str, milli: int = 1000, pid: int = 1) -> OnDevices:
    return OnDevices(pid=pid, started=1, run_id=run_id, devices=tuple(devices), milli=milli)


def test_a_gpu_that_two_runs_hold_whole_is_over_promised() -> None:
    (found,) = over_promised([make_process("a", "01"), make_process("b", "1")])
    assert (found.device, found.run_ids, found.milli) == ("1", ("a", "b"), 2000)


def test_shares_up_to_a_whole_are_not_over_promised_and_a_thousandth_more_is() -> None:
    shares = [make_process("a", "0", 750), make_process("b", "0", 250)]
    assert over_promised(shares) == []
    assert [found.milli for found in over_promised([*shares, make_process("c", "0", 1)])] == [1001]


def test_many_processes_of_one_run_count_once() -> None:
    assert over_promised([make_process("a", "0", pid=pid) for pid in range(8)]) == []


def test_what_ended_while_the_look_went_on_proves_nothing() -> None:
    processes = [make_process("a", "0", pid=1), make_process("b", "0", pid=2)]
    assert len(proven(processes, lambda process: True)) == 1
    assert proven(processes, lambda process: process.pid == 2) == []


@contextmanager
def started(**variables: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, **variables}, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.process
def test_the_kernel_tells_which_devices_a_process_was_given() -> None:
    kernel = Kernel("a-test")
    ours = {MARKER: "a-test", "HEADRACE_RUN_ID": "run-a"}
    shared = {"CUDA_VISIBLE_DEVICES": "2", "HEADRACE_GPU_MILLI": "250"}
    with ExitStack() as stack:
        first = stack.enter_context(started(**ours, **shared))
        foreign = stack.enter_context(started(**{**ours, MARKER: "another"}, **shared))
        template = stack.enter_context(started(**{**ours, "HEADRACE_RUN_ID": "-----"}, **shared))
        eventually(lambda: kernel.processes(), "the process shows its environment")
        (found,) = kernel.processes()
        assert (found.pid, found.run_id, found.devices, found.milli) == (first.pid, "run-a", ("2",), 250)
        assert found.pid not in (foreign.pid, template.pid)
        assert is_alive(found)
        first.kill()
        first.wait()
        assert not is_alive(found)
    assert kernel.processes() == []


@pytest.mark.process
def test_a_run_that_finds_too_little_of_its_device_free_says_so(tmp_path: Path) -> None:
    other = (
        "import sys, time; from pathlib import Path; from simulation.chaos.jobs import take_slots;"
        "take_slots(Path(sys.argv[1]), '0', 15, 'other'); Path(sys.argv[1], 'taken').touch(); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", other, str(tmp_path)])
    try:
        eventually((tmp_path / "taken").exists, "the other process holds its slots")
        os.close(take_slots(tmp_path, "0", 5, "run-a"))
        assert not (tmp_path / "violations").exists()
        os.close(take_slots(tmp_path, "0", 6, "run-b"))
        assert (tmp_path / "violations").read_text() == "run run-b found 5 of 6 slots free on device 0\n"
    finally:
        process.kill()
        process.wait()


def test_a_run_starves_that_waits_for_long_beside_enough_idle_gpus() -> None:
    starvation = Starvation(gpus_by_run={"small": 0.5, "gang": 4.0})
    for now in range(100):
        starvation.look(now, {"small", "gang"}, 1, is_open=True)
    assert list(starvation.starved) == ["small"]


def test_waiting_beside_busy_gpus_or_without_a_daemon_is_no_starving() -> None:
    starvation = Starvation(gpus_by_run={"run": 1.0})
    for now in range(300):
        starvation.look(now, {"run"}, 1 if now % 50 else 0, is_open=now < 200)
    assert starvation.starved == {}
