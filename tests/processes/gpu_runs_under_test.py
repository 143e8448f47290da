"""A code location of jobs that tell which devices their processes see, and leave processes behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg

SEEN = (
    "HEADRACE_RUN_ID",
    "CUDA_VISIBLE_DEVICES",
    "HEADRACE_GPU_MILLI",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
)
_SLEEP = "import time; time.sleep(600)"
_RANK = f"""
import json, os, pathlib, sys, time
facts = {{name: os.environ.get(name, "unset") for name in {SEEN!r}}} | {{"pid": os.getpid(), "session": os.getsid(0)}}
path = pathlib.Path(sys.argv[1], "rank_" + os.environ["RANK"])
path.with_suffix(".new").write_text(json.dumps(facts))
path.with_suffix(".new").rename(path)
time.sleep(600)
"""


class Place(dg.Config):
    directory: str


def _write(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


@dg.op
def tell(config: Place) -> None:
    seen = json.dumps({name: os.environ.get(name, "unset") for name in SEEN})
    shown = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    _write(Path(config.directory, "told"), seen)
    _write(Path(config.directory, "shown"), json.dumps([entry for entry in shown if entry.startswith(SEEN)]))


@dg.op
def train(config: Place) -> None:
    """The first attempt holds two ranks of torchrun, each in a session of its own; a retry passes."""
    directory = Path(config.directory)
    if (directory / "rank_0").exists():
        _write(directory / "second_attempt", os.environ["CUDA_VISIBLE_DEVICES"])
        return
    script = directory / "rank.py"
    script.write_text(_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--nnodes=1"]
    agent = subprocess.Popen(
        [*command, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(script), str(directory)],
        start_new_session=True,
    )
    _write(directory / "agent", str(agent.pid))
    if agent.wait():
        raise RuntimeError("torchrun is gone")


@dg.op
def leave_a_child(config: Place) -> None:
    child = subprocess.Popen([sys.executable, "-c", _SLEEP], start_new_session=True)
    _write(Path(config.directory, "child"), str(child.pid))


@dg.op
def wait_to_be_stopped(config: Place) -> None:
    """The first attempt waits, and cleans up when it is asked to stop; a retry passes."""
    directory = Path(config.directory)
    if (directory / "started").exists():
        _write(directory / "second_attempt", os.environ["CUDA_VISIBLE_DEVICES"])
        return
    child = subprocess.Popen([sys.executable, "-c", _SLEEP], start_new_session=True)
    _write(directory / "started", str(child.pid))
    try:
        time.sleep(600)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()
        _write(directory / "cleaned_up", "")


defs = dg.Definitions(
    jobs=[
        dg.GraphDefinition(name=name, node_defs=[op]).to_job(executor_def=dg.in_process_executor)
        for name, op in {
            "telling": tell,
            "training": train,
            "leaving": leave_a_child,
            "stoppable": wait_to_be_stopped,
        }.items()
    ]
)
