"""What each part of this benchmark is given."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.parts import Options


@dataclass(frozen=True, kw_only=True)
class Given(Options):
    """The command's options."""

    megabytes: int
    slice_megabytes: int
    runs: int
    peers: Sequence[str]
