"""The demo's one live view: chapters, partitions, rows, tokens a second, time left."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from headrace.text.drawing import Terminal, TerminalText
from pipelines.demo.board import Board
from pipelines.demo.story import Chapter

# If nobody can watch a live view (a log file), a line this often shows progress.
PLAIN_LINE_SECONDS = 20.0
# Seconds for a chapter on two quiet cores: the first guess of the remaining time, corrected by measurement.
TYPICAL_SECONDS = {"data_prep": 30.0, "training": 150.0, "deployment": 100.0, "generation": 150.0}


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """A chapter's work so far."""

    rows: int = 0
    tokens_per_second: float = 0.0
    note: str = ""


@dataclass(kw_only=True)
class View:
    chapters: list[Chapter]
    board: Board
    throughput: Callable[[Chapter], Throughput]
    console: Terminal = field(default_factory=Terminal)
    _started: dict[str, float] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _kept: dict[str, Throughput] = field(default_factory=dict)
    _now: Chapter | None = None
    _live: Live | None = None
    _plain_at: float = 0.0

    def __enter__(self) -> "View":
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, chapter: Chapter, *, done: bool = False) -> None:
        now = time.monotonic()
        self._now = chapter
        self._started.setdefault(chapter.title, now)
        self._seconds[chapter.title] = now - self._started[chapter.title]
        self._kept[chapter.title] = self.throughput(chapter)
        if self._live:
            self._live.update(self._render(), refresh=True)
        elif done or now - self._plain_at > PLAIN_LINE_SECONDS:
            self._plain_at = now
            self.console.print(self._line(chapter, done=done), soft_wrap=True)

    def _counts(self, chapter: Chapter) -> tuple[int, int]:
        return sum(self.board.is_made(target) for target in chapter.targets), len(chapter.targets)

    def _left_seconds(self) -> float:
        left = 0.0
        for chapter in self.chapters:
            made, total = self._counts(chapter)
            typical = TYPICAL_SECONDS[chapter.stage]
            spent = self._seconds.get(chapter.title, 0.0)
            if chapter is self._now:
                # Half the guess, half the cost of the partitions made so far.
                seen = spent / made * total if made else typical
                left += max(0.0, (typical + seen) / 2 - spent)
            elif chapter.title not in self._seconds:
                left += typical
        return left

    def _line(self, chapter: Chapter, *, done: bool) -> str:
        made, total = self._counts(chapter)
        kept = self._kept[chapter.title]
        words = [f"{chapter.title}: {made}/{total} partitions", f"{kept.rows:,} rows"]
        if kept.tokens_per_second:
            words.append(f"{kept.tokens_per_second:.0f} tokens/s")
        if kept.note:
            words.append(kept.note)
        if done:
            words.append(f"done in {self._seconds[chapter.title]:.0f} s")
        else:
            words.append(f"about {self._left_seconds() / 60:.0f} min left")
        return " · ".join(words)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("", "chapter", "partitions", "", "rows", "tokens/s", "seconds"):
            table.add_column(
                column, justify="right" if column in {"partitions", "rows", "tokens/s", "seconds"} else "left"
            )
        for chapter in self.chapters:
            made, total = self._counts(chapter)
            seen = chapter.title in self._seconds
            kept = self._kept.get(chapter.title, Throughput())
            mark = "▶" if chapter is self._now else ("✓" if seen else " ")
            table.add_row(
                mark,
                TerminalText(chapter.title, style="bold" if chapter is self._now else ("" if seen else "dim")),
                f"{made}/{total}" if seen else f"{total}",
                ProgressBar(total=total, completed=made if seen else 0, width=24),
                f"{kept.rows:,}" if kept.rows else "",
                f"{kept.tokens_per_second:.0f}" if kept.tokens_per_second else "",
                f"{self._seconds[chapter.title]:.0f}" if seen else "",
            )
        runs = [f"{target.asset}[{target.partition}]" for target in list(self.board.active)[:6]]
        note = self._kept[self._now.title].note if self._now else ""
        waits = self._now.until_text if self._now and not runs else ""
        lines = [f"about {self._left_seconds() / 60:.0f} min left"]
        if note:
            lines.append(note)
        if runs:
            lines.append("runs: " + ", ".join(runs) + (" …" if len(self.board.active) > len(runs) else ""))
        elif waits:
            lines.append(f"waiting until {waits}")
        return Group(table, TerminalText("\n".join(lines), style="dim"))
