"""Hands one table from process to process, as the peers do it and as Headrace does: `python -m benchmarks.handoff`.

Every measurement is a new process with its imports done before the clock runs; systems take turns within a run, and
medians are shown. We fsync what we write, and digest it twice; no peer does either.
"""

import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.handoff.peers import SYSTEMS
from benchmarks.measuring import (
    GB,
    MB,
    Bars,
    Child,
    at_least,
    at_most,
    by_commas,
    finish,
    in_turns,
    median,
    parser_of,
    print_table,
    progress,
    require_peers,
    rounded,
    run_child,
    scratch,
    some_of,
    whole,
)

_CASE = "benchmarks.handoff.case"
_OURS = [name for name, system in SYSTEMS.items() if system.rival is None]
_PEERS = [name for name in SYSTEMS if name not in _OURS]
# Peers whose ratio has a bar, and with it a place in the JSON.
_USABLE_PEERS = ["pickle-arrow", "pickle-polars", "parquet"]
_WRITE_PEERS = [*_USABLE_PEERS, "datasets"]
_SELECTIVE = {"headrace": "Headrace, HandoffStore", "parquet": "Parquet (pyarrow)", "lance": "Lance"}
_MODES = ["off", "marked", "first"]
_COLUMNS = ["prompt", "token_ids", "embedding"]
# What a process measured, a dictionary a run.
Costs = dict[Any, list[dict[str, Any]]]


@dataclass
class Bench:
    directory: Path
    gigabytes: float
    flat: list[float]
    runs: int
    peers: list[str]
    result: dict[str, Any] = field(
        default_factory=lambda: {
            "usable_cpu_ratio": {},
            "usable_ms": {},
            "write_cpu_ratio": {},
            "private_mb": None,
            "verify_overhead": None,
            "selective_ratio": {},
        }
    )
    bars: Bars = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """Ours, and the peers that are held against them."""
        return [*_OURS, *self.peers]

    def case(self, action: str, **arguments: Any) -> dict[str, Any]:
        return run_child(_CASE, {"action": action, **arguments}).body

    def costs(self, what: str, cases: Mapping[Any, Mapping[str, Any]]) -> Costs:
        """Of each case (an action and its arguments), in turns."""
        found: Costs = defaultdict(list)
        for _, case in in_turns(what, self.runs, list(cases)):
            found[case].append(self.case(**cases[case]))
        return found

    def source(self, gigabytes: float) -> str:
        path = self.directory / f"source-{gigabytes:g}.arrow"
        if not path.exists():
            progress.print(f"making a table of {gigabytes:g} GB")
            self.case("source", path=str(path), num_bytes=int(gigabytes * GB))
        return str(path)

    def written(self, name: str, gigabytes: float) -> str:
        """A directory in which `name` has written the table, and has opened it once."""
        directory = self.directory / f"{name}-{gigabytes:g}"
        if not directory.exists():
            progress.print(f"{SYSTEMS[name].label} writes {gigabytes:g} GB to be read")
            directory.mkdir()
            self.case("write", name=name, source_path=self.source(gigabytes), directory=str(directory))
            self.case("usable", name=name, directory=str(directory))
        return str(directory)

    @contextmanager
    def fresh(self, name: str) -> Iterator[str]:
        directory = self.directory / f"fresh-{name}"
        directory.mkdir()
        try:
            yield str(directory)
        finally:
            shutil.rmtree(directory)

    def note_ratios(self, what: str, costs: Costs, barred: list[str], bar: float) -> None:
        cpu = _medians(costs, "cpu_seconds")
        ratios = {peer: rounded(cpu[peer] / cpu[SYSTEMS[peer].rival]) for peer in self.peers if peer in barred}
        self.result[what] = ratios
        self.bars |= {f"{what}_{peer}": at_least(ratio, bar) for peer, ratio in ratios.items()}


def measure_usable(bench: Bench) -> None:
    cases = {
        name: {"action": "usable", "name": name, "directory": bench.written(name, bench.gigabytes)}
        for name in bench.systems
    }
    costs = bench.costs("usable", cases)
    print_table(
        f"To a usable table in a new process, {bench.gigabytes:g} GB, page cache warm, imports aside",
        ["", "CPU ms", "wall ms", "CPU, × of ours"],
        [_cost_row(name, costs) for name in bench.systems],
        caption="Usable: a table is there and a value of each column was read. Ours: once-verified before, as any "
        "second reader on a machine finds it. Ratios: against ours with the same frame and calls (IO manager to IO "
        "manager; datasets and Lance to HandoffStore). Bar: 100 for the three with Dagster.",
    )
    bench.note_ratios("usable_cpu_ratio", costs, _USABLE_PEERS, 100)
    measure_flat(bench)


def measure_flat(bench: Bench) -> None:
    directories = {size: bench.written("headrace-store", size) for size in bench.flat}
    cases = {
        (mode, size): {"action": "usable_in_mode", "mode": mode, "directory": directories[size]}
        for size in bench.flat
        for mode in _MODES
    }
    costs = bench.costs("flat", cases)
    cpu, wall = _medians(costs, "cpu_seconds", 1000), _medians(costs, "wall_seconds", 1000)
    print_table(
        "To a usable table, by size: HandoffStore in a new process, page cache warm; CPU ms (wall ms)",
        ["verification", *(f"{size:g} GB" for size in bench.flat)],
        [[mode, *(f"{cpu[mode, size]:.2f} ({wall[mode, size]:.2f})" for size in bench.flat)] for mode in _MODES],
        caption="marked: `once`, verified before; first: `once`, marks removed. Bar: 5 ms of CPU for off and marked.",
    )
    bench.result["usable_ms"] = {
        mode: {f"{size:g}": rounded(cpu[mode, size]) for size in bench.flat} for mode in _MODES
    }
    for mode in ("off", "marked"):
        bench.bars[f"usable_ms_{mode}"] = at_most(rounded(max(cpu[mode, size] for size in bench.flat)), 5)


def measure_write(bench: Bench) -> None:
    source = bench.source(bench.gigabytes)
    costs: Costs = defaultdict(list)
    for _, name in in_turns("write", bench.runs, bench.systems):
        with bench.fresh(name) as directory:
            costs[name].append(bench.case("write", name=name, source_path=source, directory=directory))
    print_table(
        f"Writing {bench.gigabytes:g} GB that are in memory, into a fresh directory",
        ["", "CPU ms", "wall ms", "CPU, × of ours", "MB on disk", "fsync, digests"],
        [
            [*_cost_row(name, costs), f"{costs[name][0]['num_bytes'] / MB:.0f}", "yes" if name in _OURS else "no"]
            for name in bench.systems
        ],
        caption="Ours are on disk and digested when the call returns; peers leave theirs to the kernel, whose own "
        "threads' CPU is in no row. Ratios as above. Bar: 5.",
    )
    bench.note_ratios("write_cpu_ratio", costs, _WRITE_PEERS, 5)


def measure_memory(bench: Bench) -> None:
    directories = {name: bench.written(name, bench.gigabytes) for name in bench.systems}
    added: Costs = defaultdict(list)
    for _, name in in_turns("memory", bench.runs, bench.systems):
        added[name] += _two_consumers(name, directories[name])
    found = {kind: _medians(added, kind, 1 / MB) for kind in ("private", "proportional", "resident")}
    print_table(
        f"What a consumer of {bench.gigabytes:g} GB adds, two at once, every page touched; MB",
        ["", "private", "PSS", "RSS"],
        [[SYSTEMS[name].label, *(f"{one[name]:.1f}" for one in found.values())] for name in bench.systems],
        caption="Private: in no other process. PSS: pages in both count half, so half of RSS means one shared copy. "
        "Bar: 10 MB private.",
    )
    bench.result["private_mb"] = private = rounded(max(found["private"][name] for name in _OURS))
    bench.bars["private_mb"] = at_most(private, 10)


def measure_verify(bench: Bench) -> None:
    directory = bench.written("headrace-store", bench.gigabytes)
    modes = {"off": ("off", False), "off, read ahead": ("off", True), "eager": ("eager", False)}
    cases = {
        name: {"action": "scan", "verification": verification, "ahead": ahead, "directory": directory}
        for name, (verification, ahead) in modes.items()
    }
    costs = bench.costs("verify", cases)
    totals = {cost["total"] for name in cases for cost in costs[name]}
    if len(totals) > 1:
        raise SystemExit(f"The scan gave different results in different runs: {sorted(totals)}.")
    cpu, wall = _medians(costs, "cpu_seconds", 1000), _medians(costs, "wall_seconds", 1000)
    disk = _medians(costs, "disk_bytes", 1 / MB)
    print_table(
        f"A scan of {bench.gigabytes:g} GB from a cold cache, by verification",
        ["verification", "CPU ms", "wall ms", "MB from disk"],
        [[name, f"{cpu[name]:.0f}", f"{wall[name]:.0f}", f"{disk[name]:.0f}"] for name in cases],
        caption="A scan adds up every byte. Overhead: eager's wall time over the faster of the two without. Bar: 10%.",
    )
    overhead = rounded(wall["eager"] / min(wall["off"], wall["off, read ahead"]) - 1)
    bench.result["verify_overhead"] = overhead
    bench.bars["verify_overhead"] = at_most(overhead, 0.1)


def measure_selective(bench: Bench) -> None:
    names = [name for name in _SELECTIVE if name == "headrace" or name in bench.peers]
    directories = {}
    for name in names:
        progress.print(f"{_SELECTIVE[name]} writes five partitions")
        directory = bench.directory / f"partitions-{name}"
        directory.mkdir()
        directories[name] = str(directory)
        source = bench.source(bench.gigabytes)
        bench.case("write_partitions", name=name, source_path=source, directory=str(directory))
    cases = {
        (name, column): {"action": "select", "name": name, "directory": directories[name], "column": column}
        for column in _COLUMNS
        for name in names
    }
    cpu = _medians(bench.costs("selective", cases), "cpu_seconds", 1000)

    def cell(name: str, column: str) -> str:
        ratio = "" if name == "headrace" else f" ({cpu[name, column] / cpu['headrace', column]:.1f}×)"
        return f"{cpu[name, column]:.2f}{ratio}"

    print_table(
        f"One column of one partition of five, {bench.gigabytes:g} GB each, page cache warm: CPU ms (× of ours)",
        ["", *_COLUMNS],
        [[_SELECTIVE[name], *(cell(name, column) for column in _COLUMNS)] for name in names],
        caption="Opened in a new process, which read another partition before; every byte of the column added up. "
        "Peers have a data set a partition, at their libraries' defaults. The JSON has each peer's worst column. "
        "Bar: 3.",
    )
    for name in names[1:]:
        ratio = rounded(min(cpu[name, column] / cpu["headrace", column] for column in _COLUMNS))
        bench.result["selective_ratio"][name] = ratio
        bench.bars[f"selective_ratio_{name}"] = at_least(ratio, 3)


_GROUPS = {
    "usable": measure_usable,
    "write": measure_write,
    "memory": measure_memory,
    "verify": measure_verify,
    "selective": measure_selective,
}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("handoff", __doc__)
    parser.add_argument("--gigabytes", type=float, default=0.5, help="size of the table (10^9 bytes)")
    parser.add_argument(
        "--flat", type=by_commas(float), default=[0.05, 0.5, 2.0], help="sizes at which opening must cost the same"
    )
    parser.add_argument("--runs", type=whole(), default=5, help="measurements of each, of which the median counts")
    parser.add_argument("--peers", type=some_of(_PEERS), default=_PEERS, help=f"of {','.join(_PEERS)}")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="where a temporary directory is made")
    parser.add_argument("--only", choices=_GROUPS, help="one group of measurements")
    options = parser.parse_args(arguments)
    require_peers({peer: module for peer in options.peers if (module := SYSTEMS[peer].module)})
    with scratch("bench", options.directory) as directory:
        bench = Bench(directory, options.gigabytes, options.flat, options.runs, options.peers)
        _check_space(bench)
        for group in [options.only] if options.only else _GROUPS:
            _GROUPS[group](bench)
    return finish(bench.result, bench.bars, options.json)


def _check_space(bench: Bench) -> None:
    """Every system's copy, one being written, five partitions of three, and the flat sizes with their sources."""
    needed = int(GB * (bench.gigabytes * (len(bench.systems) + 2 + 15) + 2 * sum(bench.flat)))
    free = shutil.disk_usage(bench.directory).free
    if free < 1.2 * needed:
        raise SystemExit(
            f"{bench.directory.parent} has {free / GB:.0f} GB free, the benchmark wants {1.2 * needed / GB:.0f} GB. "
            "Ask for a smaller --gigabytes or --flat, or name another --directory."
        )


def _two_consumers(name: str, directory: str) -> list[dict[str, int]]:
    """Both hold the whole table when either looks."""
    consumers = [Child(_CASE, {"action": "memory", "name": name, "directory": directory}) for _ in range(2)]
    try:
        for said, answer in (("ready", "look"), ("looked", "end")):
            for consumer in consumers:
                consumer.wait_for(said)
            for consumer in consumers:
                consumer.say(answer)
        return [consumer.result().body for consumer in consumers]
    except BaseException:
        for consumer in consumers:
            consumer.kill()
        raise


def _medians(costs: Costs, what: str, factor: float = 1.0) -> dict[Any, float]:
    return {case: factor * median(cost[what] for cost in one) for case, one in costs.items()}


def _cost_row(name: str, costs: Costs) -> list[str]:
    cpu, wall = _medians(costs, "cpu_seconds", 1000), _medians(costs, "wall_seconds", 1000)
    rival = SYSTEMS[name].rival
    return [
        SYSTEMS[name].label,
        f"{cpu[name]:.2f}",
        f"{wall[name]:.2f}",
        f"{cpu[name] / cpu[rival]:.1f}" if rival else "",
    ]


if __name__ == "__main__":
    sys.exit(main())
