"""Weights of this node's disk into a process: cold and warm, by safetensors; four processes at once, one copy.

Nothing here is a loader of ours: `open_directory` hands out files, and safetensors maps them. The limit is what
O_DIRECT reads in four threads, without the page cache.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    MB,
    Child,
    at_least,
    at_most,
    drop_from_page_cache,
    in_turns,
    median,
    num_bytes_below,
    print_table,
    read_into_page_cache,
    rounded,
    run_child,
)
from benchmarks.parts import Outcome
from benchmarks.weights.models import of_size, write_model
from benchmarks.weights.slow_store import Given

_BLOCK_BYTES = 8 * 1024 * 1024
_NUM_THREADS = 4
_MODULE = "benchmarks.weights.loader"
_RUNS = 9


def run(given: Given, root: Path) -> Outcome:
    """Cold and warm loads beside the disk's limit; what four processes hold together."""
    from headrace.store.indexing import index_directory
    from headrace.store.local import LocalStore
    from headrace.store.sealed_directory import find_directory, open_directory, seal_directory

    source = write_model(root / "model", of_size(given.gigabytes), num_shards=given.shards)
    store = LocalStore(root / "store")
    digest = seal_directory(store, source).digest
    index_directory(store, digest)
    whole = find_directory(store, digest)
    assert whole
    # As after a collection: the files are put together on this node.
    store.create(f"{whole.manifest_key.removesuffix('.json')}.collected.json", b"{}")
    store.delete_prefix(whole.key)
    directory = open_directory(store, digest)
    num_bytes = num_bytes_below(directory)
    loaders: list[str] = [
        "headrace",
        "safetensors",
        *(peer for peer in given.peers if peer in ("runai", "fastsafetensors")),
    ]
    walls: dict[tuple[str, str], list[float]] = {}
    for heat in ("cold", "warm"):
        cases: list[str] = [*loaders, "O_DIRECT"] if heat == "cold" else loaders
        for _, name in in_turns(f"local_load {heat}", _RUNS, cases):
            if heat == "cold":
                drop_from_page_cache(root)
            else:
                read_into_page_cache(directory)
            task = {"how": name, "store": str(store.directory), "digest": digest, "directory": str(directory)}
            seconds = _direct(directory) if name == "O_DIRECT" else run_child(_MODULE, task).body["wall"]
            walls.setdefault((heat, name), []).append(seconds)
    medians = {f"{heat} {name}": median(found) for (heat, name), found in walls.items()}
    print_table(
        f"{num_bytes / MB:.0f} MB in {given.shards} shards from this disk; median of {_RUNS}",
        ["", "s", "MB/s"],
        [[name, f"{wall:.2f}", f"{num_bytes / MB / wall:.0f}"] for name, wall in medians.items()],
    )
    copies = _copies(store.directory, digest, directory, num_bytes)
    return Outcome(
        body={"num_bytes": num_bytes, "seconds": {name: rounded(wall) for name, wall in medians.items()}},
        bars={
            "local_load": at_least(rounded(medians["cold O_DIRECT"] / medians["cold headrace"]), 0.85),
            "local_load_copies": at_most(rounded(copies), 1.05),
        },
    )


def _direct(directory: Path) -> float:
    from benchmarks.measuring import Cost, measured

    def read(path: Path) -> None:
        import mmap

        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, _BLOCK_BYTES)
        try:
            position = 0
            while num_read := os.preadv(descriptor, [buffer], position):
                position += num_read
        finally:
            os.close(descriptor)

    cost = Cost()
    with measured(cost), ThreadPoolExecutor(_NUM_THREADS) as threads:
        list(threads.map(read, sorted(directory.glob("*.safetensors"))))
    return cost.wall_seconds


def _copies(store: Path, digest: str, directory: Path, num_bytes: int) -> float:
    """How many times the weights are in memory, with four processes that have touched them all: their PSS together."""
    task: dict[str, Any] = {"how": "headrace", "store": str(store), "digest": digest, "directory": str(directory)}
    children = [Child(_MODULE, {**task, "stays": True}) for _ in range(4)]
    for child in children:
        child.wait_for("loaded")
    for child in children:
        child.say("measure")
    for child in children:
        child.wait_for("measured")
    for child in children:
        child.say("end")
    return sum(child.result().body["proportional"] for child in children) / num_bytes
