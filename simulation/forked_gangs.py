"""Gangs whose ranks are forked from a process that has imported the libraries: a start costs 2 CPU seconds, not 13.

Everything else is as in production: the session, each rank's own `main`, DeepSpeed over gloo, the store, `kill -9`. For
tests and benchmarks of many starts: `Workplace(runner=ForkedRunner.of, …)`, in a process that was started with
`ENVIRONMENT` in its environment and has called `train.import_libraries`.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.training import train
from headrace.training.gang import Rows
from headrace.training.gang_runner import LocalRunner
from headrace.training.launch_plan import LaunchPlan
from headrace.training.progress import ProgressTail
from headrace.training.run_config import RunConfig

# Read while the libraries are imported.
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "HF_HUB_OFFLINE": "1",
}
_TICK_SECONDS = 0.005

Pids = dict[int, int]


@dataclass
class Hooks:
    """`disturb`: called again and again while a gang runs, with its new rows and its pids by rank: kills them.

    `in_rank`: called in each rank before its `main`.
    """

    disturb: Callable[[Rows, Pids], None] = lambda rows, pids: None
    in_rank: Callable[[RunConfig, int], None] = lambda config, rank: None


HOOKS = Hooks()


class ForkedRunner(LocalRunner):
    """As `LocalRunner`, without torchrun."""

    def __init__(self, plan: LaunchPlan, config: RunConfig) -> None:
        super().__init__(plan, config)
        self._environment, self._task = dict(plan.environment), config
        self._seen = ProgressTail(config.work / "progress.jsonl")
        self._gang = Children()

    def start(self) -> None:
        port, size = free_port(), self._task.world_size
        for rank in range(size):
            place = place_of(rank, size, port)
            self._gang.fork(
                rank,
                lambda rank=rank: self._rank(rank),
                self._environment | place,
                self._task.work / f"rank-{rank}.log",
            )

    def ended(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self._gang.pids and time.monotonic() < until:
            self._gang.reap()
            HOOKS.disturb(self._seen.new_rows(), self._gang.pids)
            time.sleep(_TICK_SECONDS)
        return not self._gang.pids

    @property
    def exit_code(self) -> int | None:
        return None if self._gang.pids else self._gang.status

    def kill(self) -> None:
        self._gang.kill()

    def _rank(self, rank: int) -> int:
        sys.argv = ["train", "--run-json", str(self._task.work / "run.json")]
        HOOKS.in_rank(self._task, rank)
        return train.main()


class Children:
    """Forked ranks. `pids`: of those that run; `status`: 0, or how the first one ended that failed."""

    def __init__(self) -> None:
        self.pids: Pids = {}
        self.status = 0

    def fork(self, rank: int, body: Callable[[], int], environment: dict[str, str], log: Path) -> None:
        self.pids[rank] = fork(body, environment, log)

    def reap(self) -> None:
        """Once one has failed, the others are killed, as torchrun does it."""
        for rank, pid in list(self.pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self.pids[rank]
                if status and not self.status:
                    self.status = os.waitstatus_to_exitcode(status)
                    self._signal()

    def kill(self) -> None:
        self._signal()
        while self.pids:
            self.reap()
            time.sleep(_TICK_SECONDS)

    def _signal(self) -> None:
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun would tell a rank."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | {name: str(one) for name, one in numbers.items()}


def fork(body: Callable[[], int], environment: dict[str, str], log: Path) -> int:
    """Runs `body` in a child, its output in the file `log`; returns its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        status = body()
    except BaseException:  # noqa: BLE001 (a child must not go on as its parent, and says why it ends)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
    raise AssertionError("unreachable")
