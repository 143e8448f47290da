"""What each part of this benchmark is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.modalities.chain import Models, tiny_models
from benchmarks.parts import Options


@dataclass(frozen=True, kw_only=True)
class Given(Options):
    """The command's options. `writer`, `painter`: directories of models; None: tiny ones, made on the spot.

    `prompts`: a file with what the writer is asked, a line each; None: some words, made on the spot.
    """

    writer: Path | None
    prompts: Path | None
    painter: Path | None
    size: int
    kills: int
    items: int
    runs: int
    each: int
    partitions: int
    rows: int
    sharers: int
    peers: Sequence[str]

    def models(self, directory: Path) -> Models:
        tiny = tiny_models(directory)
        return Models(
            writer=self.writer or tiny.writer,
            painter=self.painter or tiny.painter,
            size=self.size if self.painter else tiny.size,
        )
