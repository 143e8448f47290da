"""What every benchmark measures with: CPU and wall time around a call, fresh processes, cold files, own memory.

CPU seconds are user and system time of all threads, from the kernel's nanosecond clock. A machine that others use too
shifts them far less than wall times; what the kernel's own threads write back is in neither.
"""

import argparse
import importlib.util
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

MB = 1_000_000
GB = 1_000_000_000
_CHILD_SECONDS_MAX = 900.0
_ROOT = Path(__file__).parents[1]

progress = Console(stderr=True, highlight=False)

Case = TypeVar("Case")


class ChildFailed(Exception):
    """A measured process ended without a result."""


@dataclass
class Cost:
    """Filled in when its `measured` block ends. Seconds; bytes that came from the disk, not from the page cache."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    disk_bytes: int = 0


@contextmanager
def measured(cost: Cost | None = None) -> Iterator[Cost]:
    """User and system CPU of this process's threads, wall time and disk reads of the block, added to `cost`."""
    cost = cost or Cost()
    blocks = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.cpu_seconds += time.process_time() - cpu
        cost.wall_seconds += time.perf_counter() - wall
        cost.disk_bytes += 512 * (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - blocks)


@dataclass(frozen=True, kw_only=True)
class ChildResult:
    """`body` is the JSON of its last line; CPU is that of the whole process with its children, imports included."""

    body: dict[str, Any]
    cpu_seconds: float
    wall_seconds: float


class Child:
    """`python -m MODULE TASK`: a new process that answers in lines of JSON. What else it prints is passed over."""

    def __init__(
        self,
        module: str,
        task: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        interpreter: Path | None = None,
    ) -> None:
        """`interpreter`: of a peer that is installed apart."""
        self._name = f"{module} {json.dumps(task)}"
        self._children_cpu = _children_cpu_seconds()
        self._started = time.perf_counter()
        # A file, since a full pipe that nobody reads would stop the child.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(interpreter or sys.executable), "-m", module, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=_ROOT,
            env={**os.environ, **(environment or {})},
        )

    def wait_for(self, word: str) -> list[str]:
        """Until the child prints `word` on a line of its own; what it said before."""
        assert self._process.stdout
        said: list[str] = []
        for line in self._process.stdout:
            if line.strip() == word:
                return said
            said.append(line.strip())
        self.result()
        raise ChildFailed(f"Benchmark process {self._name} ended before it said {word!r}.")

    def say(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def result(self, *, seconds_max: float = _CHILD_SECONDS_MAX) -> ChildResult:
        """Waits for its end. CPU is only its own if no other child ended meanwhile.

        Raises:
            ChildFailed: it failed, or was not done within `seconds_max`.
        """
        try:
            output, _ = self._process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ChildFailed(f"Benchmark process {self._name} was not done within {seconds_max:.0f} s.") from None
        if self._process.returncode:
            self._errors.seek(0)
            errors = self._errors.read()[-4000:]
            raise ChildFailed(f"Benchmark process {self._name} ended with {self._process.returncode}:\n{errors}")
        return ChildResult(
            body=json.loads(output.strip().splitlines()[-1]),
            cpu_seconds=_children_cpu_seconds() - self._children_cpu,
            wall_seconds=time.perf_counter() - self._started,
        )

    def end(self) -> None:
        """Ends its input, and waits for it: a server's way to be told."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def run_child(
    module: str,
    task: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    interpreter: Path | None = None,
) -> ChildResult:
    child = Child(module, task, environment=environment, interpreter=interpreter)
    try:
        return child.result()
    except BaseException:
        child.kill()
        raise


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Of `python -m benchmarks.NAME`; its module's docstring says what is measured, and under which conditions."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the last line there as well")
    return parser


def whole(lowest: int = 1) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least `lowest`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"must be a whole number of {lowest} or more, got {text!r}")
        return int(text)

    return number


def by_commas(each: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """The type of an option that is several values."""

    def values(text: str) -> list[Any]:
        try:
            return [each(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be values by commas, got {text!r}: {error}") from None

    return values


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that is some of these names, by commas."""
    names = list(known)

    def one(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(names)}, got {text!r}")
        return text

    return by_commas(one)


@contextmanager
def scratch(name: str, directory: Path | None = None) -> Iterator[Path]:
    """A temporary directory that is gone after the block, also when SIGTERM ends it: children are killed then."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix=f"headrace-{name}-", dir=directory) as path:
        yield Path(path)


def in_turns(what: str, num_runs: int, cases: Sequence[Case], *, num_warm_ups: int = 0) -> Iterator[tuple[int, Case]]:
    """Every case once a run, so that whatever else the machine does meets all; warm-ups are the runs below 0.

    Who goes first changes, or one would always follow the other's rest.
    """
    for run in range(-num_warm_ups, num_runs):
        progress.print(f"{what}: {'warm-up' if run < 0 else f'run {run + 1} of {num_runs}'}")
        first = run % len(cases)
        for case in [*cases[first:], *cases[:first]]:
            yield run, case


def require_peers(modules: Mapping[str, str | Path]) -> None:
    """Ends the benchmark with exit status 2 if what a peer (its key) needs is not installed: a module, or a file."""
    missing = [
        peer
        for peer, needed in modules.items()
        if not (needed.exists() if isinstance(needed, Path) else importlib.util.find_spec(needed))
    ]
    if missing:
        print(
            f"Cannot compare with {', '.join(missing)}: not installed. Run `make bench-setup`, or leave "
            f"{'it' if len(missing) == 1 else 'them'} out with --peers.",
            file=sys.stderr,
        )
        raise SystemExit(2)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def num_bytes_below(directory: Path) -> int:
    num_bytes = 0
    for path in files_below(directory):
        with suppress(FileNotFoundError):
            num_bytes += path.stat().st_size
    return num_bytes


def drop_from_page_cache(directory: Path) -> None:
    """Makes the next read of every file below come from the disk. Files that some process maps stay cached."""
    for path in files_below(directory):
        with suppress(FileNotFoundError):  # leases come and go
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # only clean pages can go
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def read_into_page_cache(directory: Path) -> None:
    for path in files_below(directory):
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            while file.read(8 * 1024 * 1024):
                pass


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of this process. `private`: in no other process; `proportional`: shared pages divided by their sharers."""

    private: int
    proportional: int
    resident: int

    @classmethod
    def now(cls) -> "Memory":
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return cls(
            private=fields["Private_Clean"] + fields["Private_Dirty"],
            proportional=fields["Pss"],
            resident=fields["Rss"],
        )

    def since(self, before: "Memory") -> dict[str, int]:
        return {
            "private": self.private - before.private,
            "proportional": self.proportional - before.proportional,
            "resident": self.resident - before.resident,
        }


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> None:
    """To stdout; the first column is text, the others are numbers."""
    table = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width of its own, and numbers must not be cut off.
    Console(width=None if sys.stdout.isatty() else 150).print(table)


Bars = dict[str, dict[str, Any]]


def at_most(value: float, bar: float) -> dict[str, Any]:
    return {"value": value, "bar": bar, "met": bool(value <= bar)}


def at_least(value: float, bar: float) -> dict[str, Any]:
    return {"value": value, "bar": bar, "met": bool(value >= bar)}


def finish(body: Mapping[str, Any], bars: Bars, path: Path | None = None) -> int:
    """Prints the benchmark's last line, with its bars, also into `path`. The exit status: 1 where one is not met."""
    line = json.dumps({**body, "bars": bars})
    if path:
        path.write_text(line + "\n")
    print(line, flush=True)
    return 0 if all(bar["met"] for bar in bars.values()) else 1


def rounded(value: float, digits: int = 3) -> float:
    """To significant digits: more would claim what no measurement here knows."""
    return float(f"{value:.{digits}g}")


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
