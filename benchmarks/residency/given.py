"""The command's options that its parts read."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts import Options


@dataclass(frozen=True, kw_only=True)
class Given(Options):
    trace: Path | None
    seeds: int
    workers: int
    steps: int
    rounds: int
    requests: int
