"""Benchmarks of several parts: what a part is given and answers, and how they run one after the other."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmarks.measuring import Bars, finish, progress, scratch


@dataclass(frozen=True, kw_only=True)
class Options:
    """A command's options that its parts read, by the names of the fields."""

    @classmethod
    def of(cls, options: Namespace) -> Self:
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`body`: figures for the last line; `bars`: named so that no other part has the same."""

    body: dict[str, Any]
    bars: Bars


Given = TypeVar("Given", bound=Options)


def run_parts(
    benchmark: str,
    parts: Mapping[str, Callable[[Given, Path], Outcome]],
    chosen: Iterable[str],
    given: Given,
    path: Path | None,
) -> int:
    """Runs the chosen parts, each with a scratch directory of its own. Returns the exit status.

    Args:
        path: where `--json` wants the figures.
    """
    body: dict[str, Any] = {}
    bars = Bars()
    for part in chosen:
        progress.print(f"part {part}")
        with scratch(f"{benchmark}-{part}") as directory:
            outcome = parts[part](given, directory)
        body[part], bars = outcome.body, bars | outcome.bars
    return finish({"benchmark": benchmark, **body}, bars, path)
