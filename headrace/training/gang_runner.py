"""Who starts a gang's ranks, and on which machines: a protocol, and its runner for this machine alone.

`headrace.training.gang` watches a gang by these six calls, and knows nothing of processes, files or hosts.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from headrace.marked_processes import kill_all, kill_marked, marked
from headrace.training.gang_report import GangReport, RankReport
from headrace.training.launch_plan import MARKER, LaunchPlan, plan_launch
from headrace.training.progress import ProgressTail, RankPhase, read_beats, read_failures, read_phases
from headrace.training.run_config import RunConfig

Rows = list[dict[str, Any]]

_LOG_LINES = 12
# A log that a loop of warnings has filled for days is not read whole.
_LOG_TAIL_BYTES = 65_536
_LAUNCHER_LOG = "torchrun.log"
# Within it every thread of a rank has written where it is.
_STACK_SECONDS = 2.0
# The kernel's counts of this process's cgroup, version 2; elsewhere nobody counts.
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


class GangRunner(Protocol):
    """One gang. Calls come in the order `start`, then the others any number of times, then `kill` in any case."""

    def start(self) -> None: ...

    def progress(self) -> Rows:
        """The rows of progress that came since the last call, each once."""
        ...

    def reached(self) -> dict[int, tuple[int, int]]:
        """The newest point of each rank, where a guard watches for stalled ones: step and point, in order."""
        ...

    def ended(self, seconds: float) -> bool:
        """Waits at most so long. True: nothing of the gang runs any more, or nothing will come of it."""
        ...

    def report(self, *, is_stuck: bool = False) -> GangReport:
        """What there is to tell of its end, or if `is_stuck` of where its ranks are."""
        ...

    def kill(self) -> None:
        """Ends every process of the gang, whatever it is doing; returns when they are gone, or out of reach."""
        ...


class LocalRunner:
    """All ranks on this machine, below one torchrun; they report by files in the attempt's work directory."""

    def __init__(self, plan: LaunchPlan, config: RunConfig) -> None:
        """Args: config: its `world_size` may be that of several machines; `plan` says which ranks are here."""
        self._plan = plan
        self._config = config
        self._tail = ProgressTail(config.work / "progress.jsonl")
        self._process: subprocess.Popen[bytes] | None = None
        self._oom_kills_before = 0

    @classmethod
    def of(cls, config: RunConfig, environment: Mapping[str, str]) -> "LocalRunner":
        plan = plan_launch(
            run_json=config.write(config.work / "run.json"),
            world_size=config.world_size,
            device=config.device,
            work_directory=config.work,
            marker=f"{config.training_id}/{config.attempt}",
            environment=environment,
        )
        return cls(plan, config)

    def start(self) -> None:
        self._plan.logs.mkdir(parents=True, exist_ok=True)
        self._oom_kills_before = oom_kills()
        with (self._plan.logs / _LAUNCHER_LOG).open("ab") as output:
            self._process = subprocess.Popen(
                self._plan.argv,
                env=self._plan.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches only the worker, which then ends the gang in order.
                start_new_session=True,
            )

    def progress(self) -> Rows:
        return self._tail.new_rows()

    def reached(self) -> dict[int, tuple[int, int]]:
        return read_beats(self._config.work, self._config.world_size)

    def ended(self, seconds: float) -> bool:
        assert self._process
        return _ended_within(self._process, seconds)

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    def kill(self) -> None:
        kill_gang(self._plan.environment[MARKER], self._process)
        if self._process:
            self._process.wait()

    def report(self, *, is_stuck: bool = False) -> GangReport:
        work = self._config.work
        phases = read_phases(work)
        failures = {failure.rank: failure for failure in read_failures(work)}
        launcher_log = self._plan.logs / _LAUNCHER_LOG
        launched = launcher_log.read_text(errors="replace") if launcher_log.exists() else ""
        codes = exit_codes(launched, self._plan.first_rank)
        stacks = self._stacks(phases) if is_stuck else {}
        ranks = []
        for rank in self._plan.ranks:
            log, phase = self._log(rank), phases.get(rank)
            ranks.append(
                RankReport(
                    rank=rank,
                    phase=phase,
                    failure=failures.get(rank),
                    exit_code=codes.get(rank),
                    is_alive=bool(phase and psutil.pid_exists(phase.pid)),
                    log=str(log or ""),
                    lines=() if rank in stacks else last_lines(log),
                    stack=stacks.get(rank, ()),
                )
            )
        locks = sorted(Path(self._plan.environment.get("TORCH_EXTENSIONS_DIR", "/nonexistent")).rglob("lock"))
        return GangReport(
            ranks=tuple(ranks),
            exit_code=self.exit_code,
            first_exit=next(iter(codes), None),
            launcher_lines=last_lines(launcher_log),
            oom_kills=oom_kills() - self._oom_kills_before,
            # DeepSpeed's extension loader waits silently and forever for a lock whose holder was killed.
            lock=str(locks[0]) if locks else None,
        )

    def _stacks(self, phases: Mapping[int, RankPhase]) -> dict[int, tuple[str, ...]]:
        """Where each rank is: it writes that into its log when it is sent SIGUSR1, even inside a collective."""
        before: dict[int, int] = {}
        # A rank that is gone may have left its pid to somebody else, whom the signal would end.
        ours = {process.pid for process in marked(MARKER, self._plan.environment[MARKER].__eq__)}
        for rank, phase in phases.items():
            log = self._log(rank)
            if log is None or phase.pid not in ours:
                continue
            before[rank] = log.stat().st_size
            with suppress(ProcessLookupError):
                os.kill(phase.pid, signal.SIGUSR1)
        stacks: dict[int, tuple[str, ...]] = {}
        until = time.monotonic() + _STACK_SECONDS
        while before.keys() - stacks.keys() and time.monotonic() < until:
            time.sleep(0.1)
            for rank in before.keys() - stacks.keys():
                log = self._log(rank)
                assert log
                with log.open("rb") as file:
                    file.seek(before[rank])
                    if found := main_stack(file.read().decode(errors="replace").splitlines()):
                        stacks[rank] = found
        return stacks

    def _log(self, rank: int) -> Path | None:
        """torchrun's layout: LOGS/<rendezvous>/attempt_0/<local rank>/stderr.log."""
        local = rank - self._plan.first_rank
        return next(iter(sorted(self._plan.logs.glob(f"*/attempt_*/{local}/stderr.log"))), None)


def main_stack(lines: list[str]) -> tuple[str, ...]:
    """Of what faulthandler wrote, the frames of the thread that the signal met, innermost first."""
    starts = [number for number, line in enumerate(lines) if line.startswith("Current thread ")]
    if not starts:
        return ()
    frames = []
    for line in lines[starts[-1] + 1 :]:
        if not line.lstrip().startswith("File "):
            break
        frames.append(line.strip())
    return tuple(frames)


def exit_codes(launcher_log: str, first_rank: int = 0) -> dict[int, int]:
    """Of ranks that ended badly, in the order in which torchrun saw them end."""
    found: dict[int, int] = {}
    for match in re.finditer(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", launcher_log):
        found.setdefault(first_rank + int(match[2]), int(match[1]))
    # Its summary, of those that were found beside the first one.
    for match in re.finditer(r"\(local_rank: (\d+)\)\s*\n\s*exitcode\s*: (-?\d+)", launcher_log):
        found.setdefault(first_rank + int(match[1]), int(match[2]))
    return found


def oom_kills(events: Path = _MEMORY_EVENTS) -> int:
    """Processes that the kernel has killed for lack of memory in this cgroup; 0 where nobody counts."""
    try:
        counts = dict(line.split() for line in events.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def kill_gang(marker: str, agent: subprocess.Popen[bytes] | None = None) -> list[int]:
    """Kills every process with `marker`, whatever session torchrun put it in; returns their pids."""
    killed: list[int] = []
    if agent is not None and agent.poll() is None:
        with suppress(psutil.NoSuchProcess):
            killed += kill_all([psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)])
    killed += kill_marked(MARKER, marker.__eq__)
    return sorted(set(killed))


def _ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Sleeps until the process ends; an exception from a signal handler ends the sleep at once."""
    if process.poll() is not None:
        return True
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        time.sleep(min(seconds, 0.1))
        return process.poll() is not None
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(descriptor)
    return process.poll() is not None


def last_lines(path: Path | None) -> tuple[str, ...]:
    if path is None or not path.exists():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
        return tuple(file.read(_LOG_TAIL_BYTES).decode(errors="replace").splitlines()[-_LOG_LINES:])
