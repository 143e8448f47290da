"""The code location of `benchmarks.coordinator_chaos`: its one job proves while it runs that it owns its devices.

Each device is a file of 20 bytes. A run's worker process locks as many bytes as the run's share; the kernel releases
them when that process ends in any way. A run that finds too few free bytes records that.
"""

import fcntl
import os
import subprocess
import time
from pathlib import Path

import dagster as dg

NUM_SLOTS = 20
_PASSES = 3


class Work(dg.Config):
    directory: str
    seconds: float
    # How long a process in its own session outlives its run; 0: there is none.
    leave_behind_seconds: float = 0.0


@dg.op
def work(context: dg.OpExecutionContext, config: Work) -> None:
    directory = Path(config.directory)
    run_id = os.environ.get("HEADRACE_RUN_ID", "")
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "unset").split(",") if device]
    # Rounded down, since a share by MiB is not a multiple of a slot.
    num_slots = int(os.environ.get("HEADRACE_GPU_MILLI") or 1000) * NUM_SLOTS // 1000
    if run_id != context.run_id:
        _report(directory, f"run {context.run_id} is marked as {run_id or 'nothing'}")
    files = [take_slots(directory, device, num_slots, run_id) for device in devices]
    if config.leave_behind_seconds:
        subprocess.Popen(["sleep", f"{config.leave_behind_seconds}"], start_new_session=True)
    deadline = time.monotonic() + config.seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)
    for file in files:
        os.close(file)


def take_slots(directory: Path, device: str, num_slots: int, run_id: str) -> int:
    """Locks slots until the file is closed or the process ends."""
    file = os.open(directory / f"device-{device}", os.O_RDWR | os.O_CREAT, 0o644)
    taken: set[int] = set()
    for _ in range(_PASSES):  # a skipped slot may become free while a later one is taken
        for slot in sorted(set(range(NUM_SLOTS)) - taken):
            if len(taken) == num_slots:
                return file
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except OSError:
                continue
            taken.add(slot)
    if len(taken) < num_slots:
        _report(directory, f"run {run_id} found {len(taken)} of {num_slots} slots free on device {device}")
    return file


def _report(directory: Path, what: str) -> None:
    with (directory / "violations").open("a") as file:
        file.write(what + "\n")


@dg.job(executor_def=dg.in_process_executor)
def chaos() -> None:
    work()


defs = dg.Definitions(jobs=[chaos])
