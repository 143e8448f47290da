"""What each part of this benchmark is given, and what it answers."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import Bars


@dataclass(frozen=True, kw_only=True)
class Given:
    """The command's options."""

    megabytes: int
    slice_megabytes: int
    runs: int
    peers: Sequence[str]

    @classmethod
    def of(cls, options: Namespace) -> "Given":
        return cls(
            megabytes=options.megabytes,
            slice_megabytes=options.slice_megabytes,
            runs=options.runs,
            peers=tuple(options.peers),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`body`: figures for the last line; `bars`: named so that no other part has the same."""

    body: dict[str, Any]
    bars: Bars
