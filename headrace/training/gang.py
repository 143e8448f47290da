"""Runs one gang to its end: starts torchrun, watches it, explains failures, and leaves no process behind.

A stuck gang ends by a time-out with a reason: `start_timeout` until every rank has reached its first step, and then
`step_timeout` without a new row of progress. However the wait ends (success, failure, time-out, Ctrl-C, a terminated
run), every process of the gang is killed: a rank has nothing to unwind.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from headrace.errors import InvalidTrainingRun, TrainingFailed
from headrace.training.launch_plan import MARKER, LaunchPlan
from headrace.training.progress import (
    MEASURING,
    ProgressTail,
    RankPhase,
    duration,
    read_beats,
    read_failures,
    read_phases,
)
from headrace.training.run_config import RunConfig
from headrace.training.stalled import StalledRanks

_TICK_SECONDS = 0.5
_LOG_LINES = 12

Rows = list[dict[str, Any]]


def run_gang(
    plan: LaunchPlan,
    config: RunConfig,
    *,
    on_rows: Callable[[Rows], None] = lambda rows: None,
    say: Callable[[str], None] = print,
    tick_seconds: float = _TICK_SECONDS,
) -> None:
    """Returns when every rank has succeeded; `on_rows` gets each row of progress once, as they come.

    `say` is told of a stalled rank, where the recipe only warns.

    Raises:
        TrainingFailed: a rank died or stalled, or the gang hung; a retry may succeed.
        InvalidTrainingRun: a rank reports that a retry would end the same way.
    """
    tail = ProgressTail(config.work / "progress.jsonl")
    limits, stalled = _Limits(config), StalledRanks(config)
    with _started(plan) as (process, agent_log):
        while not _ended_within(process, tick_seconds):
            rows = tail.new_rows()
            if rows:
                on_rows(rows)
            limits.check(progressed=bool(rows), plan=plan)
            if stalled.is_watching and (
                told := stalled.look(read_beats(config.work, config.world_size), time.monotonic())
            ):
                say(told)
    if rows := tail.new_rows():
        on_rows(rows)
    if process.returncode:
        raise _failure(config, plan, agent_log, process.returncode)


class _Limits:
    """The two time-outs, on the monotonic clock, so that suspending a laptop ends no training."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._since = time.monotonic()
        self._started = False

    def check(self, *, progressed: bool, plan: LaunchPlan) -> None:
        """Raises: TrainingFailed: names the phase, and each rank's last lines."""
        now = time.monotonic()
        if progressed:
            self._since, self._started = now, True
            return
        recipe = self._config.recipe
        limit = recipe.step_timeout_seconds if self._started else recipe.start_timeout_seconds
        if now - self._since < limit:
            return
        phases = read_phases(self._config.work)
        measured_at = max((one.at for one in phases.values() if one.phase == MEASURING), default=0.0)
        if not self._started and time.time() - measured_at < limit:
            return
        field = "step_timeout_seconds" if self._started else "start_timeout_seconds"
        what = "made no progress" if self._started else "took no step"
        raise TrainingFailed(
            f"Training {self._config.training_id} {what} for {duration(limit)} ({field} of recipe {recipe.key}): "
            f"{_where_ranks_are(self._config, phases)}.{_lock_hint(plan)}"
            f"{_last_lines(plan, range(self._config.world_size))}",
            training_id=self._config.training_id,
            recipe=recipe.key,
        )


@contextmanager
def _started(plan: LaunchPlan) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    plan.logs.mkdir(parents=True, exist_ok=True)
    agent_log = plan.logs / "torchrun.log"
    with agent_log.open("ab") as output:
        process = subprocess.Popen(
            plan.argv,
            env=plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal reaches only the worker, which then ends the gang in order.
            start_new_session=True,
        )
    try:
        yield process, agent_log
    finally:
        kill_gang(plan.environment[MARKER], process)
        process.wait()


def kill_gang(marker: str, agent: subprocess.Popen[bytes] | None = None) -> list[int]:
    """Kills every process with `marker`, whatever session torchrun put it in; returns their pids.

    Runs twice, because the second pass finds processes that were starting during the first.
    """
    killed: list[int] = []
    if agent is not None and agent.poll() is None:
        with suppress(psutil.NoSuchProcess):
            killed += _kill([psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)])
    while found := _kill(list(_marked(marker))):
        killed += found
    return sorted(set(killed))


def _marked(marker: str) -> Iterator[psutil.Process]:
    entry = f"{MARKER}={marker}".encode()
    for process in psutil.process_iter():
        with suppress(OSError):
            environment = (Path("/proc") / str(process.pid) / "environ").read_bytes()
            if entry in environment.split(b"\0") and process.pid != os.getpid():
                yield process


def _kill(processes: list[psutil.Process]) -> list[int]:
    alive = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                process.send_signal(signal.SIGKILL)
                alive.append(process)
    psutil.wait_procs(alive, timeout=10)
    return [process.pid for process in alive]


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


def _failure(config: RunConfig, plan: LaunchPlan, agent_log: Path, returncode: int) -> Exception:
    failures = read_failures(config.work)
    if failures and not failures[0].secondary:
        first = failures[0]
        if first.permanent:
            return InvalidTrainingRun(first.reason)
        return TrainingFailed(
            f"Training {config.training_id}, attempt {config.attempt}: rank {first.rank} failed: {first.reason} "
            f"Its log: {_rank_log(plan, first.rank) or plan.logs}. A retry resumes from the last checkpoint."
        )
    phases = read_phases(config.work)
    told = {failure.rank for failure in failures}
    silent = [rank for rank in range(config.world_size) if rank not in told]
    if not phases:
        what = f"torchrun ended with code {returncode} before any rank started{_last_lines(plan, (), agent_log)}"
    elif silent:
        rank, code = _first_exit(agent_log, silent)
        phase = f" while it was {phases[rank].phase} (pid {phases[rank].pid})" if rank in phases else ""
        what = (
            f"rank {rank} ended without a word, exit code {code}{phase}; -9 is a kill from outside, most often by the "
            f"kernel for lack of memory{_last_lines(plan, [rank])}"
        )
    else:
        what = f"ranks lost each other: {failures[0].reason}{_last_lines(plan, range(config.world_size))}"
    return TrainingFailed(
        f"Training {config.training_id}, attempt {config.attempt}: {what}. A retry resumes from the last checkpoint."
    )


def _first_exit(agent_log: Path, silent: list[int]) -> tuple[int, str]:
    """The first rank to end, after which torchrun ended the others, and its exit code."""
    match = re.search(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", agent_log.read_text(errors="replace"))
    return (int(match[2]), match[1]) if match else (silent[0], "unknown")


def _where_ranks_are(config: RunConfig, phases: dict[int, RankPhase]) -> str:
    def where(rank: int) -> str:
        if rank not in phases:
            return f"rank {rank} never started"
        phase = phases[rank]
        alive = psutil.pid_exists(phase.pid)
        return f"rank {rank} {'is' if alive else 'died'} {phase.phase} (pid {phase.pid})"

    return ", ".join(where(rank) for rank in range(config.world_size))


def _lock_hint(plan: LaunchPlan) -> str:
    """DeepSpeed's extension loader waits silently and forever for a lock whose holder was killed."""
    directory = Path(plan.environment.get("TORCH_EXTENSIONS_DIR", "/nonexistent"))
    locks = sorted(directory.rglob("lock"))
    return (
        f" A compiler of DeepSpeed extensions holds {locks[0]}; if none is running, delete that file." if locks else ""
    )


def _last_lines(plan: LaunchPlan, ranks: Any, agent_log: Path | None = None) -> str:
    logs = {f"rank {rank}": _rank_log(plan, rank) for rank in ranks} | ({"torchrun": agent_log} if agent_log else {})
    text = ""
    for name, path in logs.items():
        lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:] if path else []
        if lines:
            text += f"\nLast lines of {name}:\n" + "\n".join(f"    {line[:300]}" for line in lines)
    return text


def _rank_log(plan: LaunchPlan, rank: int) -> Path | None:
    """torchrun's layout: LOGS/<rendezvous>/attempt_0/<rank>/stderr.log."""
    return next(iter(sorted(plan.logs.glob(f"*/attempt_*/{rank}/stderr.log"))), None)
