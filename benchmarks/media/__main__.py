"""Many small media items: ours beside loose files, tar, Parquet and Lance, interleaved in one run.

`python -m benchmarks.media` prints a table of medians, then one line of JSON. Conditions, which decide such numbers:

- Every run has a fresh directory. Items are random bytes: nothing compresses.
- fsync: on by default, for all: after writing, every file and directory that a peer made is fsynced, inside its time.
  `--no-fsync` switches it off for all, for ours by making os.fsync do nothing in this process.
- Reads are of random ids, another draw each run, the same for all. Opening is a figure of its own (tar reads all its
  headers then, ours takes its lease); ours looks at its index, and sorts it, inside the first read. "cold":
  every file was fsynced and dropped from this machine's page cache (POSIX_FADV_DONTNEED); what lies below, such as a
  host's cache, is not. "many" asks for all at once, "one" for one after the other.
- Lance and Parquet are told the row numbers, and hand out Arrow; loose files, tar and ours give Python bytes, ours by
  id and each compared with its digest.
- Delete: loose files, tar, Parquet and Lance lose their directory; ours loses manifest, index and shards.
"""

import argparse
import os
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.measuring import (
    MB,
    Cost,
    at_least,
    drop_from_page_cache,
    finish,
    in_turns,
    measured,
    median,
    num_bytes_below,
    parser_of,
    print_table,
    read_into_page_cache,
    require_peers,
    rounded,
    scratch,
    whole,
)
from benchmarks.media.peers import MODULES, PEERS, Bodies, Headrace, Lance, LooseFiles, Peer, make_bodies

# Seconds of wall time and of CPU, and counts, by what was done; one value a run.
Figures = dict[str, list[float]]


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("media", __doc__)
    parser.add_argument("--items", type=whole(), default=10_000)
    parser.add_argument("--kilobytes", type=whole(), default=20, help="size of an item")
    parser.add_argument("--reads", type=whole(), default=1000, help="random reads of a measurement")
    parser.add_argument("--runs", type=whole(), default=5)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: the temporary directory")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all")
    parser.add_argument("--fsync", action=argparse.BooleanOptionalAction, default=True, help="for all, or for none")
    options = parser.parse_args(arguments)
    require_peers({name: MODULES[name] for name in options.peers if name in MODULES})
    peers: list[Peer] = [*(PEERS[name]() for name in options.peers), Headrace()]
    if not options.fsync:
        os.fsync = lambda descriptor: None
    bodies = make_bodies(options.items, options.kilobytes * 1000)
    figures: dict[str, Figures] = {peer.label: defaultdict(list) for peer in peers}
    with scratch("media", options.directory) as root:
        for run, peer in in_turns("media", options.runs, peers, num_warm_ups=1):
            found = _run(peer, bodies, root / "items", seed=run, options=options)
            for name, value in found.items():
                figures[peer.label][name] += [value] if run >= 0 else []
    medians = {label: {name: median(values) for name, values in one.items()} for label, one in figures.items()}
    return _report(medians, options)


def _run(peer: Peer, bodies: Bodies, directory: Path, *, seed: int, options: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    directory.mkdir()
    try:
        calls = _num_calls()
        with measured() as cost:
            peer.write(bodies, directory)
            if options.fsync and not peer.is_durable:
                _fsync_all(directory)
        _note(found, "write", cost)
        found["calls"] = _num_calls() - calls
        found["entries"] = sum(1 for _ in (directory / peer.place).rglob("*"))
        found["megabytes"] = num_bytes_below(directory / peer.place) / MB
        ids = list(bodies)
        wanted = random.Random(seed).sample(ids, min(options.reads, len(ids)))
        for way in ("many", "one") if peer.reads_one_by_one else ("many",):
            for state, prepare in (("cold", drop_from_page_cache), ("warm", read_into_page_cache)):
                prepare(directory / peer.place)
                with measured() as opening:
                    reader = peer.reader(directory, ids)
                with measured() as cost:
                    if way == "many":
                        reader.many(wanted)
                    else:
                        for item_id in wanted:
                            reader.one(item_id)
                _note(found, f"{way}_{state}", cost)
                found[f"open_{way}_{state}"] = opening.wall_seconds
                del reader
        with measured() as cost:
            peer.delete(directory)
        _note(found, "delete", cost)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return found


def _note(found: dict[str, float], what: str, cost: Cost) -> None:
    found[what], found[f"{what}_cpu"] = cost.wall_seconds, cost.cpu_seconds


def _num_calls() -> int:
    """Read and write system calls of this process so far, whichever language made them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    counts = dict(line.split(": ") for line in lines)
    return int(counts["syscr"]) + int(counts["syscw"])


def _fsync_all(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _report(medians: dict[str, dict[str, float]], options: argparse.Namespace) -> int:
    columns = {
        "write s": "write",
        "CPU s": "write_cpu",
        "calls": "calls",
        "entries": "entries",
        "MB": "megabytes",
        "delete s": "delete",
        "delete CPU s": "delete_cpu",
        "open cold s": "open_many_cold",
        "many cold s": "many_cold",
        "warm s": "many_warm",
        "CPU s ": "many_warm_cpu",
        "one cold s": "one_cold",
        "warm s ": "one_warm",
        "CPU s  ": "one_warm_cpu",
    }
    rows = [[label, *(_cell(name, one.get(name)) for name in columns.values())] for label, one in medians.items()]
    fsync = "everything fsynced by everybody" if options.fsync else "nothing fsynced by anybody"
    print_table(
        f"{options.items} items of {options.kilobytes} KB: medians of {options.runs}, {fsync}, fresh directories",
        ["", *columns],
        rows,
        caption=f"many, one: {options.reads} random items at once, or one by one; cold: dropped from the page cache. "
        "calls: read and write system calls while writing; entries: files and directories that are left.",
    )
    ratios = {
        "write_ratio": _ratio(medians, LooseFiles.label, "write"),
        "write_cpu_ratio": _ratio(medians, LooseFiles.label, "write_cpu"),
        "delete_ratio": _ratio(medians, LooseFiles.label, "delete"),
        "random_read_ratio_lance": _ratio(medians, Lance.label, "many_cold"),
        "random_read_ratio_lance_warm": _ratio(medians, Lance.label, "many_warm"),
        "random_read_ratio_lance_one_cold": _ratio(medians, Lance.label, "one_cold"),
        "random_read_ratio_lance_one_warm": _ratio(medians, Lance.label, "one_warm"),
        "random_read_ratio_lance_with_opening": _ratio(medians, Lance.label, "open_many_cold", "many_cold"),
    }
    # Nobody is faster: loose files at writing and deleting, Lance at reading many. Fresh directories are where deleting
    # loose files is cheapest.
    barred = ("write_ratio", "delete_ratio", "random_read_ratio_lance", "random_read_ratio_lance_warm")
    bars = {name: at_least(ratio, 1.0) for name in barred if (ratio := ratios[name]) is not None}
    names = ("items", "kilobytes", "reads", "runs", "fsync")
    return finish({**ratios, **{name: getattr(options, name) for name in names}}, bars, options.json)


def _ratio(medians: dict[str, dict[str, float]], label: str, *names: str) -> float | None:
    """How many times longer than ours a peer takes, over the sum of these; None: it was left out."""
    if label not in medians:
        return None
    peer, ours = (sum(medians[one][name] for name in names) for one in (label, Headrace.label))
    return rounded(peer / ours)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if name in ("calls", "entries", "megabytes") else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
