"""What each part of this benchmark is given, and what it answers."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Bars
from benchmarks.modalities.chain import Models, tiny_models


@dataclass(frozen=True, kw_only=True)
class Given:
    """The command's options. `writer`, `painter`: directories of models; None: tiny ones, made on the spot."""

    writer: Path | None
    painter: Path | None
    size: int
    kills: int
    items: int
    runs: int
    each: int
    partitions: int
    rows: int
    sharers: int
    peers: tuple[str, ...]

    @classmethod
    def of(cls, options: Namespace) -> "Given":
        return cls(
            writer=options.writer,
            painter=options.painter,
            size=options.size,
            kills=options.kills,
            items=options.items,
            runs=options.runs,
            each=options.each,
            partitions=options.partitions,
            rows=options.rows,
            sharers=options.sharers,
            peers=tuple(options.peers),
        )

    def models(self, directory: Path) -> Models:
        tiny = tiny_models(directory)
        return Models(
            writer=self.writer or tiny.writer,
            painter=self.painter or tiny.painter,
            size=self.size if self.painter else tiny.size,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`body`: figures for the last line; `bars`: named so that no other part has the same."""

    body: dict[str, Any]
    bars: Bars
