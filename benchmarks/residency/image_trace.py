"""Requests for pictures, as traces of Alibaba's generative services have them (cluster-trace-v2026-GenAI), and the jobs
that benchmarks make of them."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.tables import Row, number, read_rows
from headrace.errors import InvalidInput

_COLUMNS = (
    "gmt_create",
    "exec_time_seconds",
    "num_images_per_prompt",
    "num_inference_steps",
    "checkpoint_model_version_id",
    "num_lora",
)
# Each checkpoint has so many adapters in fashion; the i-th is asked for 1 / i as often as the first.
_NUM_LORAS = 50
_CONTROLNET_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request. Seconds; `arrives` is from the beginning. `parts`: what its checkpoint needs beside itself."""

    number: int
    arrives: float
    seconds: float
    checkpoint: str
    num_images: int
    num_steps: int
    num_loras: int
    parts: tuple[str, ...] = ()


def read_jobs(path: Path) -> list[Job]:
    """All requests that had a checkpoint, in order; the few without one never ran.

    Raises: InvalidInput: no such file, other columns, or what is no number or time.
    """
    rows = [
        (line, row)
        for line, row in read_rows(path, _COLUMNS, "an image trace")
        if row["checkpoint_model_version_id"] and row["exec_time_seconds"]
    ]
    if len(rows) < 2:
        raise InvalidInput(f"{path} has {len(rows)} requests with a checkpoint: a replay needs two or more.")
    times = [_seconds(path, line, row) for line, row in rows]
    return [
        Job(
            number=at,
            arrives=time - times[0],
            seconds=_whole(path, line, row, "exec_time_seconds"),
            checkpoint=row["checkpoint_model_version_id"],
            num_images=_whole(path, line, row, "num_images_per_prompt"),
            num_steps=_whole(path, line, row, "num_inference_steps"),
            num_loras=_whole(path, line, row, "num_lora"),
        )
        for at, ((line, row), time) in enumerate(zip(rows, times, strict=True))
    ]


def at_poisson_times(jobs: Sequence[Job], *, num_workers: int, load: float, draw: random.Random) -> list[Job]:
    """In their order, at times that keep so large a share of the workers at work."""
    gap_seconds = sum(job.seconds for job in jobs) / len(jobs) / (num_workers * load)
    now, timed = 0.0, list[Job]()
    for job in jobs:
        now += draw.expovariate(1 / gap_seconds)
        timed.append(replace(job, arrives=now))
    return timed


def at_own_times(jobs: Sequence[Job], *, num_workers: int, load: float) -> list[Job]:
    """At the trace's own times, all of them shortened or lengthened alike to the load; its bursts stay."""
    span_seconds = sum(job.seconds for job in jobs) / (num_workers * load)
    scale = span_seconds / max(jobs[-1].arrives - jobs[0].arrives, 1.0)
    return [replace(job, arrives=job.arrives * scale) for job in jobs]


def with_parts(jobs: Iterable[Job], draw: random.Random) -> Iterator[Job]:
    """Which adapters of its checkpoint a request names, and whether it is steered by the ControlNet."""
    weights = [1 / (at + 1) for at in range(_NUM_LORAS)]
    for job in jobs:
        parts: set[str] = set()
        while len(parts) < job.num_loras:
            [at] = draw.choices(range(_NUM_LORAS), weights)
            parts.add(f"lora {at} of {job.checkpoint}")
        if draw.random() < _CONTROLNET_SHARE:
            parts.add("controlnet")
        yield replace(job, parts=tuple(sorted(parts)))


def _whole(path: Path, line: int, row: Row, column: str) -> int:
    """The trace writes whole numbers as 32.0."""
    return number(path, line, {column: row[column].removesuffix(".0")}, column)


def _seconds(path: Path, line: int, row: Row) -> float:
    try:
        return datetime.strptime(row["gmt_create"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise InvalidInput(
            f"{path}, line {line}: gmt_create must be a time such as 2024-11-15 16:57:50, got {row['gmt_create']!r}."
        ) from None
