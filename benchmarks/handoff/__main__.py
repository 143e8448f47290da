"""Hands one table from process to process, as the peers do it and as Headrace does: `python -m benchmarks.handoff`.

Every measurement is a new process with its imports done before the clock runs; systems take turns within a run, and
medians are shown. We fsync what we write, and digest it twice; no peer does either.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    GB,
    MB,
    Child,
    end_tidily_when_terminated,
    median,
    print_json,
    print_table,
    progress,
    require_peers,
    rounded,
    run_child,
)

_CASE = "benchmarks.handoff.case"
# Which of ours a peer is held against: the same frame, through the same calls.
RIVALS = {
    "pickle-arrow": "headrace-arrow",
    "pickle-polars": "headrace-polars",
    "parquet": "headrace-polars",
    "datasets": "headrace-store",
    "lance": "headrace-store",
}
_LABELS = {
    "headrace-store": "Headrace, HandoffStore",
    "headrace-arrow": "Headrace, IO manager, pa.Table",
    "headrace-polars": "Headrace, IO manager, polars",
    "pickle-arrow": "Dagster pickle, pa.Table",
    "pickle-polars": "Dagster pickle, polars",
    "parquet": "dagster-polars Parquet",
    "datasets": "Hugging Face datasets",
    "lance": "Lance",
}
_MODULES = {"parquet": "dagster_polars", "datasets": "datasets", "lance": "lance"}
# Peers whose ratio has a bar, and with it a place in the JSON.
_USABLE_PEERS = ["pickle-arrow", "pickle-polars", "parquet"]
_WRITE_PEERS = [*_USABLE_PEERS, "datasets"]
_SELECTIVE_PEERS = ["parquet", "lance"]
_MODES = ["off", "marked", "first"]
_COLUMNS = ["prompt", "token_ids", "embedding"]
_GROUPS = ["usable", "write", "memory", "verify", "selective"]


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

    @property
    def systems(self) -> list[str]:
        """Peers, and those of ours that they are held against."""
        return ["headrace-store", "headrace-arrow", "headrace-polars", *self.peers]

    def case(self, action: str, **arguments: Any) -> dict[str, Any]:
        return run_child(_CASE, {"action": action, **arguments}).body

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
            progress.print(f"{_LABELS[name]} writes {gigabytes:g} GB to be read")
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

    def turns(self, what: str, cases: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for run in range(self.runs):
            progress.print(f"{what}: run {run + 1} of {self.runs}")
            for case in cases:
                yield run, case


def measure_usable(bench: Bench) -> None:
    directories = {name: bench.written(name, bench.gigabytes) for name in bench.systems}
    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in bench.systems}
    for _, name in bench.turns("usable", bench.systems):
        costs[name].append(bench.case("usable", name=name, directory=directories[name]))
    cpu = {name: median(cost["cpu_seconds"] for cost in costs[name]) for name in bench.systems}
    rows = [_cost_row(name, costs[name], cpu, RIVALS.get(name)) for name in bench.systems]
    print_table(
        f"To a usable table in a new process, {bench.gigabytes:g} GB, page cache warm, imports aside",
        ["", "CPU ms", "wall ms", "CPU, × of ours"],
        rows,
        caption="Usable: a table is there and a value of each column was read. Ours: once-verified before, as any "
        "second reader on a machine finds it. Ratios: against ours with the same frame and calls (IO manager to IO "
        "manager; datasets and Lance to HandoffStore). Bar: 100 for the three with Dagster.",
    )
    bench.result["usable_cpu_ratio"] = _ratios(cpu, bench.peers, _USABLE_PEERS)


def measure_flat(bench: Bench) -> None:
    directories = {size: bench.written("headrace-store", size) for size in bench.flat}
    cases = [(mode, size) for size in bench.flat for mode in _MODES]
    costs: dict[tuple[str, float], list[dict[str, Any]]] = {case: [] for case in cases}
    for _, (mode, size) in bench.turns("flat", cases):
        costs[mode, size].append(bench.case("usable_in_mode", mode=mode, directory=directories[size]))
    cpu = {case: 1000 * median(cost["cpu_seconds"] for cost in costs[case]) for case in cases}
    wall = {case: 1000 * median(cost["wall_seconds"] for cost in costs[case]) for case in cases}
    print_table(
        "To a usable table, by size: HandoffStore in a new process, page cache warm; CPU ms (wall ms)",
        ["verification", *(f"{size:g} GB" for size in bench.flat)],
        [[mode, *(f"{cpu[mode, size]:.2f} ({wall[mode, size]:.2f})" for size in bench.flat)] for mode in _MODES],
        caption="marked: `once`, verified before; first: `once`, marks removed. Bar: 5 ms of CPU for off and marked.",
    )
    bench.result["usable_ms"] = {
        mode: {f"{size:g}": rounded(cpu[mode, size]) for size in bench.flat} for mode in _MODES
    }


def measure_write(bench: Bench) -> None:
    source = bench.source(bench.gigabytes)
    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in bench.systems}
    for _, name in bench.turns("write", bench.systems):
        with bench.fresh(name) as directory:
            costs[name].append(bench.case("write", name=name, source_path=source, directory=directory))
    cpu = {name: median(cost["cpu_seconds"] for cost in costs[name]) for name in bench.systems}
    rows = [
        [
            *_cost_row(name, costs[name], cpu, RIVALS.get(name)),
            f"{costs[name][0]['num_bytes'] / MB:.0f}",
            "yes" if name.startswith("headrace") else "no",
        ]
        for name in bench.systems
    ]
    print_table(
        f"Writing {bench.gigabytes:g} GB that are in memory, into a fresh directory",
        ["", "CPU ms", "wall ms", "CPU, × of ours", "MB on disk", "fsync, digests"],
        rows,
        caption="Ours are on disk and digested when the call returns; peers leave theirs to the kernel, whose own "
        "threads' CPU is in no row. Ratios as above. Bar: 5.",
    )
    bench.result["write_cpu_ratio"] = _ratios(cpu, bench.peers, _WRITE_PEERS)


def measure_memory(bench: Bench) -> None:
    directories = {name: bench.written(name, bench.gigabytes) for name in bench.systems}
    added: dict[str, list[dict[str, int]]] = {name: [] for name in bench.systems}
    for _, name in bench.turns("memory", bench.systems):
        added[name] += _two_consumers(name, directories[name])
    rows = [
        [
            _LABELS[name],
            *(
                f"{median(each[kind] for each in added[name]) / MB:.1f}"
                for kind in ("private", "proportional", "resident")
            ),
        ]
        for name in bench.systems
    ]
    print_table(
        f"What a consumer of {bench.gigabytes:g} GB adds, two at once, every page touched; MB",
        ["", "private", "PSS", "RSS"],
        rows,
        caption="Private: in no other process. PSS: pages in both count half, so half of RSS means one shared copy. "
        "Bar: 10 MB private.",
    )
    ours = [name for name in bench.systems if name.startswith("headrace")]
    bench.result["private_mb"] = rounded(max(median(each["private"] for each in added[name]) for name in ours) / MB)


def measure_verify(bench: Bench) -> None:
    directory = bench.written("headrace-store", bench.gigabytes)
    cases = {"off": ("off", False), "off, read ahead": ("off", True), "eager": ("eager", False)}
    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    for _, name in bench.turns("verify", list(cases)):
        verification, ahead = cases[name]
        costs[name].append(bench.case("scan", verification=verification, directory=directory, ahead=ahead))
    _check_equal([cost["total"] for name in cases for cost in costs[name]], "scan")
    wall = {name: median(cost["wall_seconds"] for cost in costs[name]) for name in cases}
    rows = [
        [
            name,
            f"{1000 * median(cost['cpu_seconds'] for cost in costs[name]):.0f}",
            f"{1000 * wall[name]:.0f}",
            f"{median(cost['disk_bytes'] for cost in costs[name]) / MB:.0f}",
        ]
        for name in cases
    ]
    print_table(
        f"A scan of {bench.gigabytes:g} GB from a cold cache, by verification",
        ["verification", "CPU ms", "wall ms", "MB from disk"],
        rows,
        caption="A scan adds up every byte. Overhead: eager's wall time over the faster of the two without. Bar: 10%.",
    )
    bench.result["verify_overhead"] = rounded(wall["eager"] / min(wall["off"], wall["off, read ahead"]) - 1)


def measure_selective(bench: Bench) -> None:
    names = ["headrace", *(peer for peer in bench.peers if peer in _SELECTIVE_PEERS)]
    labels = {"headrace": "Headrace, HandoffStore", "parquet": "Parquet (pyarrow)", "lance": "Lance"}
    directories = {}
    for name in names:
        directory = bench.directory / f"partitions-{name}"
        directory.mkdir()
        progress.print(f"{labels[name]} writes five partitions")
        directories[name] = str(directory)
        source = bench.source(bench.gigabytes)
        bench.case("write_partitions", name=name, source_path=source, directory=str(directory))
    cases = [(name, column) for column in _COLUMNS for name in names]
    costs: dict[tuple[str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for _, (name, column) in bench.turns("selective", cases):
        costs[name, column].append(bench.case("select", name=name, directory=directories[name], column=column))
    cpu = {case: 1000 * median(cost["cpu_seconds"] for cost in costs[case]) for case in cases}

    def cell(name: str, column: str) -> str:
        ratio = "" if name == "headrace" else f" ({cpu[name, column] / cpu['headrace', column]:.1f}×)"
        return f"{cpu[name, column]:.2f}{ratio}"

    print_table(
        f"One column of one partition of five, {bench.gigabytes:g} GB each, page cache warm: CPU ms (× of ours)",
        ["", *_COLUMNS],
        [[labels[name], *(cell(name, column) for column in _COLUMNS)] for name in names],
        caption="Opened in a new process, which read another partition before; every byte of the column added up. "
        "Peers have a data set a partition, at "
        "their libraries' defaults. The JSON has each peer's worst column. Bar: 5.",
    )
    bench.result["selective_ratio"] = {
        name: rounded(min(cpu[name, column] / cpu["headrace", column] for column in _COLUMNS)) for name in names[1:]
    }


def main() -> None:
    options = _options()
    end_tidily_when_terminated()
    require_peers({peer: module for peer, module in _MODULES.items() if peer in options.peers})
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=options.directory) as scratch:
        bench = Bench(Path(scratch), options.gigabytes, options.flat, options.runs, options.peers)
        _check_space(bench)
        groups = [options.only] if options.only else _GROUPS
        if "usable" in groups:
            measure_usable(bench)
            measure_flat(bench)
        if "write" in groups:
            measure_write(bench)
        if "memory" in groups:
            measure_memory(bench)
        if "verify" in groups:
            measure_verify(bench)
        if "selective" in groups:
            measure_selective(bench)
        print_json(bench.result, options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.handoff", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--gigabytes", type=float, default=0.5, help="size of the table (10^9 bytes)")
    parser.add_argument(
        "--flat", type=_numbers, default=[0.05, 0.5, 2.0], help="sizes at which opening must cost the same"
    )
    parser.add_argument("--runs", type=int, default=5, help="measurements of each, of which the median counts")
    parser.add_argument("--peers", type=_peers, default=list(RIVALS), help=f"of {','.join(RIVALS)}")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="where a temporary directory is made")
    parser.add_argument("--only", choices=_GROUPS, help="one group of measurements")
    parser.add_argument("--json", type=Path, help="a file for the last line")
    return parser.parse_args()


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _peers(text: str) -> list[str]:
    peers = [name for name in text.split(",") if name]
    if unknown := set(peers) - set(RIVALS):
        raise argparse.ArgumentTypeError(f"must be of {', '.join(RIVALS)}, got {', '.join(sorted(unknown))}")
    return peers


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
        for consumer in consumers:
            consumer.wait_for("ready")
        for consumer in consumers:
            consumer.say("look")
        for consumer in consumers:
            consumer.wait_for("looked")
        for consumer in consumers:
            consumer.say("end")
        return [consumer.result().body for consumer in consumers]
    except BaseException:
        for consumer in consumers:
            consumer.kill()
        raise


def _cost_row(name: str, costs: list[dict[str, Any]], cpu: dict[str, float], rival: str | None) -> list[str]:
    wall = median(cost["wall_seconds"] for cost in costs)
    ratio = f"{cpu[name] / cpu[rival]:.1f}" if rival else ""
    return [_LABELS[name], f"{1000 * cpu[name]:.2f}", f"{1000 * wall:.2f}", ratio]


def _ratios(cpu: dict[str, float], peers: list[str], barred: list[str]) -> dict[str, float]:
    return {peer: rounded(cpu[peer] / cpu[RIVALS[peer]]) for peer in peers if peer in barred}


def _check_equal(values: list[Any], what: str) -> None:
    if len(set(values)) > 1:
        raise SystemExit(f"The {what} gave different results in different runs: {sorted(set(values))}.")


if __name__ == "__main__":
    main()
