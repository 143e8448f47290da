"""A code location of small jobs that start, wait and leave processes behind, for the launcher's tests.

Each job takes a directory and tells there, in files, what the tests need to know.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg

_SLEEP = "import time; time.sleep(600)"


class Place(dg.Config):
    directory: str


@dg.op
def tell(context: dg.OpExecutionContext, config: Place) -> None:
    facts = {name: os.environ.get(name, "unset") for name in ("HEADRACE_RUN_ID", "CUDA_VISIBLE_DEVICES")}
    Path(config.directory, "told").write_text(f"{facts['HEADRACE_RUN_ID']} {facts['CUDA_VISIBLE_DEVICES']}")


@dg.op
def wait_for_go(config: Place) -> None:
    """The first attempt waits for the file `go`, with a process in a session of its own beside it; a retry passes."""
    directory = Path(config.directory)
    if (directory / "rank_pid").exists():
        (directory / "second_attempt").write_text(str(os.getpid()))
        return
    rank = subprocess.Popen([sys.executable, "-c", _SLEEP], start_new_session=True)
    (directory / "rank_pid").write_text(str(rank.pid))
    while not (directory / "go").exists():
        time.sleep(0.1)
    rank.kill()
    rank.wait()


@dg.op
def ignore_interrupts(config: Place) -> None:
    """Waits for ever, deaf to SIGTERM, with a deaf grandchild that has left the session and the process tree."""
    grandchild = (
        "import os, signal, subprocess, sys;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"child = subprocess.Popen([sys.executable, '-c', '{_SLEEP}'], start_new_session=True);"
        "open(sys.argv[1], 'w').write(str(child.pid))"
    )
    pid_file = Path(config.directory, "grandchild_pid")
    subprocess.run([sys.executable, "-c", grandchild, str(pid_file) + ".new"], start_new_session=True, check=True)
    pid_file.with_name("grandchild_pid.new").rename(pid_file)
    while True:
        try:
            time.sleep(600)
        except BaseException:  # noqa: BLE001 (a worker that does not stop when asked)
            continue


@dg.op(pool="training")
def take_the_pool(config: Place) -> None:
    """Notes how many of its kind are at work at the same time."""
    directory = Path(config.directory)
    mine = directory / f"at_work_{os.getpid()}"
    mine.touch()
    time.sleep(1)
    with (directory / "counts").open("a") as counts:
        counts.write(f"{len(list(directory.glob('at_work_*')))}\n")
    mine.unlink()


defs = dg.Definitions(
    jobs=[
        dg.GraphDefinition(name=name, node_defs=[op]).to_job(executor_def=dg.in_process_executor)
        for name, op in {
            "telling": tell,
            "waiting": wait_for_go,
            "deaf": ignore_interrupts,
            "pooled": take_the_pool,
        }.items()
    ]
)
