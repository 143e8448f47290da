"""Requests with their arrival times: from a trace of a real service, or drawn."""

import math
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.tables import number, read_rows

# The conversation trace of Azure (2023) has about this many requests a second; other traces are measured.
NUM_PROMPT_TOKENS_MAX = 8192


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """`at`: seconds after the round's start at which a client wants to send it."""

    unit: str
    at: float
    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Arrival times in seconds from the first, with tokens in and out."""

    at: tuple[float, ...]
    num_prompt_tokens: tuple[int, ...]
    num_output_tokens: tuple[int, ...]


def read_trace(file: Path) -> Trace:
    """Raises: InvalidInput: no such file, other columns, a value that is no number."""
    rows = read_rows(file, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), "Azure trace")
    # Seven digits of a second are one more than Python reads.
    at = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for _, row in rows]
    first = min(at)
    return Trace(
        at=tuple(moment - first for moment in at),
        num_prompt_tokens=tuple(
            min(number(file, line, row, "ContextTokens"), NUM_PROMPT_TOKENS_MAX) for line, row in rows
        ),
        num_output_tokens=tuple(number(file, line, row, "GeneratedTokens") for line, row in rows),
    )


def from_trace(trace: Trace, *, seed: int, rate: float, seconds: float) -> list[Arrival]:
    """A stretch of the trace, drawn by seed, squeezed so that `rate` requests a second arrive; its bursts stay."""
    draw = random.Random(f"dispatch {seed}")
    num_arrivals = min(round(rate * seconds), len(trace.at))
    begin = draw.randrange(len(trace.at) - num_arrivals + 1)
    stretch = range(begin, begin + num_arrivals)
    first = trace.at[begin]
    factor = seconds / max(1e-9, trace.at[stretch[-1]] - first)
    return [
        Arrival(
            unit=f"{seed}-{index}",
            at=(trace.at[index] - first) * factor,
            num_prompt_tokens=trace.num_prompt_tokens[index],
            num_output_tokens=trace.num_output_tokens[index],
        )
        for index in stretch
    ]


def drawn(*, seed: int, rate: float, seconds: float) -> list[Arrival]:
    """Poisson arrivals; lengths are lognormal with medians 1,000 in and 130 out, about those of conversations."""
    draw = random.Random(f"dispatch {seed}")
    arrivals, at = [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        arrivals.append(
            Arrival(
                unit=f"{seed}-{len(arrivals)}",
                at=at,
                num_prompt_tokens=min(NUM_PROMPT_TOKENS_MAX, math.ceil(draw.lognormvariate(math.log(1000), 0.9))),
                num_output_tokens=min(1000, math.ceil(draw.lognormvariate(math.log(130), 0.85))),
            )
        )
    return arrivals
