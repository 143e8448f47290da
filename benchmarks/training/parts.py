"""What each part of this benchmark is given."""

from dataclasses import dataclass

from benchmarks.parts import Options


@dataclass(frozen=True, kw_only=True)
class Given(Options):
    """The command's options."""

    runs: int
    kills: int
