"""How a gang reports its progress: to its launcher by files, to the Dagster run over Pipes (from rank 0 only).

Four kinds of files in the attempt's work directory:
    rank-0.json      a rank's phase, when it began, the rank's pid
    failure-0.json   why a rank gave up
    progress.jsonl   rank 0: one line for each optimizer step, without a gap or a repeat after a resume
    beat-0           the point that a rank has reached, where a guard watches for stalled ones
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from headrace.training.failure_kinds import EXCEPTION, FailureKind
from headrace.training.run_config import RunConfig

Phase = Literal[
    "starting",
    "importing libraries",
    "joining the group",
    "converting the checkpoint",
    "building the engine",
    "measuring the reference",
    "training",
    "sealing",
    "finished",
]
# Reported again with each pass, so that a long one is not taken for a hang.
MEASURING: Phase = "measuring the reference"

# A log line for each of a hundred thousand steps would flood the run's log.
_LOG_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class RankPhase:
    rank: int
    phase: Phase
    pid: int
    at: float


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """`permanent`: a retry would end the same way. `secondary`: most likely caused by another rank's failure.

    `lines`: the innermost of its traceback.
    """

    rank: int
    reason: str
    permanent: bool
    secondary: bool
    at: float
    kind: FailureKind = EXCEPTION
    lines: tuple[str, ...] = ()


def report_phase(work: Path, rank: int, phase: Phase) -> None:
    _replace(work / f"rank-{rank}.json", asdict(RankPhase(rank=rank, phase=phase, pid=os.getpid(), at=time.time())))


def report_failure(work: Path, failure: RankFailure) -> None:
    _replace(work / f"failure-{failure.rank}.json", asdict(failure))


def read_phases(work: Path) -> dict[int, RankPhase]:
    return {phase.rank: phase for phase in (RankPhase(**body) for body in _read_all(work, "rank-*.json"))}


def read_failures(work: Path) -> list[RankFailure]:
    """All failures, first the one that most likely caused the others."""
    bodies = _read_all(work, "failure-*.json")
    failures = [RankFailure(**{**body, "lines": tuple(body.get("lines", ()))}) for body in bodies]
    return sorted(failures, key=lambda failure: (failure.secondary, failure.at))


def beats_of(config: RunConfig, rank: int) -> Callable[[int, int], None]:
    """Where a guard watches for stalled ranks, tells each point of a step that this rank has reached."""
    if config.recipe.guards is None or config.recipe.guards.stalled_rank is None:
        return lambda step, point: None
    path = config.work / f"beat-{rank}"
    # One line of constant length, written over: no file system call besides the write itself.
    file = path.open("wb", buffering=0)

    def beat(step: int, point: int) -> None:
        file.seek(0)
        file.write(f"{step:012d} {point:012d}\n".encode())

    return beat


def read_beats(work: Path, world_size: int) -> dict[int, tuple[int, int]]:
    """The newest point of each rank that has begun its first step: step and point, in order."""
    found: dict[int, tuple[int, int]] = {}
    for rank in range(world_size):
        with suppress(FileNotFoundError, ValueError):
            step, point = (work / f"beat-{rank}").read_text().split()
            found[rank] = int(step), int(point)
    return found


class ProgressLog:
    """`progress.jsonl` of one attempt, which begins with the rows from its checkpoint."""

    def __init__(self, path: Path, rows: bytes = b"") -> None:
        self.path = path
        self._file = path.open("wb")
        self._file.write(rows)
        self._file.flush()

    def append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def read(self) -> bytes:
        return self.path.read_bytes()


class ProgressTail:
    """Reads `progress.jsonl` from the other side: each row once, and a line only when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_rows(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class RunLog:
    """Lines in the Dagster run's log; without Pipes, on standard output."""

    def __init__(self, pipes: Any = None) -> None:
        self._pipes = pipes
        self._last = 0.0

    def say(self, text: str) -> None:
        if self._pipes is not None:
            self._pipes.log.info(text)
        print(text, flush=True)

    def step(self, row: dict[str, Any], *, steps: int) -> None:
        """Logs one line, at most every few seconds, and always for the last step."""
        now = time.monotonic()
        if row["step"] < steps and now - self._last < _LOG_SECONDS:
            return
        self._last = now
        heldout = f" · held-out {row['heldout_loss']:.3f}" if "heldout_loss" in row else ""
        used = f" · {row['mfu']:.0%} of peak" if "mfu" in row else ""
        # Of a curve from before it was measured, the last step's own time.
        left = row.get("left_seconds", (steps - row["step"]) * row["seconds"])
        skipped = "the loss is a spike" if "spike_above" in row else "gradients are not finite"
        self.say(
            f"step {row['step']}/{steps} · loss {row['loss']:.3f}{heldout} · {row['tokens_per_second']:,.0f} tokens/s"
            f"{used} · {duration(left)} left" + ("" if row["applied"] else f" · step skipped: {skipped}")
        )


@contextmanager
def open_run_log(rank: int) -> Iterator[RunLog]:
    """Opens the log for rank 0 only, since Pipes takes one writer a session."""
    from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

    if rank != 0 or not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        yield RunLog()
        return
    with open_dagster_pipes() as pipes:
        yield RunLog(pipes)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def _replace(path: Path, body: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(body))
    temporary.replace(path)


def _read_all(work: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(work.glob(pattern))]
