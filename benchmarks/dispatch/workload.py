"""Requests with their arrival times: from a trace of a real service, or drawn."""

import math
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.tables import number, read_rows

# The conversation trace of Azure (2023) has about this many requests a second; other traces are measured.
NUM_PROMPT_TOKENS_MAX = 8192
# Medians and sigmas of tokens in and out: about those of conversations; and of questions about long documents.
SHAPES = {"conversations": ((1000, 0.9), (130, 0.85)), "long_prompts": ((4000, 0.6), (20, 0.6))}


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

    def halves(self) -> "tuple[Trace, Trace]":
        """What came first, and what came then."""
        middle = len(self.at) // 2
        return self._of(slice(middle)), self._of(slice(middle, None))

    def _of(self, rows: slice) -> "Trace":
        return Trace(
            at=self.at[rows],
            num_prompt_tokens=self.num_prompt_tokens[rows],
            num_output_tokens=self.num_output_tokens[rows],
        )


def read_trace(file: Path) -> Trace:
    """Raises: InvalidInput: no such file, other columns, a value that is no number."""
    rows = read_rows(file, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), "an Azure trace")
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


def drawn(*, shape: str, seed: int, rate: float, seconds: float) -> list[Arrival]:
    """Poisson arrivals with lognormal lengths of a shape of `SHAPES`."""
    (prompt, prompt_sigma), (output, output_sigma) = SHAPES[shape]
    draw = random.Random(f"dispatch {seed}")
    arrivals, at = [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        num_prompt_tokens = math.ceil(draw.lognormvariate(math.log(prompt), prompt_sigma))
        arrivals.append(
            Arrival(
                unit=f"{seed}-{len(arrivals)}",
                at=at,
                num_prompt_tokens=min(NUM_PROMPT_TOKENS_MAX, num_prompt_tokens),
                num_output_tokens=min(1000, math.ceil(draw.lognormvariate(math.log(output), output_sigma))),
            )
        )
    return arrivals
