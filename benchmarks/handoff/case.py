"""One measurement of `benchmarks.handoff`, in a process of its own: `python -m benchmarks.handoff.case TASK`.

TASK is JSON: an `action`, which is a function of this module, and its arguments. The result is the last line, as JSON.
"""

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.handoff.peers import ASSET, PARTITION, SYSTEMS, as_table, handoffs, publish, touch_values
from benchmarks.handoff.table import read_source, write_source
from benchmarks.measuring import (
    Memory,
    drop_from_page_cache,
    measured,
    num_bytes_below,
    read_into_page_cache,
)
from headrace.store.local import LocalStore

_PAGE_BYTES = 4096
NUM_PARTITIONS = 5
_CHOSEN = "shard-3"


def source(path: str, num_bytes: int) -> dict[str, Any]:
    return {"num_rows": write_source(Path(path), num_bytes)}


def write(name: str, source_path: str, directory: str) -> dict[str, Any]:
    target = SYSTEMS[name].ways()
    frame = _frame(target.frame, source_path)
    return asdict(target.write(frame, Path(directory))) | {"num_bytes": num_bytes_below(Path(directory))}


def usable(name: str, directory: str) -> dict[str, Any]:
    reader = SYSTEMS[name].ways()
    read_into_page_cache(Path(directory))
    cost, _ = reader.read(Path(directory), lambda table, before: None)
    return asdict(cost)


def usable_in_mode(mode: str, directory: str) -> dict[str, Any]:
    """`off`; `marked`: verified before; `first`: opened by this machine for the first time, marks removed."""
    place = Path(directory)
    read_into_page_cache(place)
    if mode == "first":
        shutil.rmtree(LocalStore(place).node_directory() / "verified", ignore_errors=True)
    with measured() as cost:
        table = handoffs(place, "off" if mode == "off" else "once").open(ASSET, PARTITION).table()
        touch_values(table)
    return asdict(cost)


def memory(name: str, directory: str) -> dict[str, Any]:
    """What this consumer adds, all pages touched, while the others hold theirs: see `_two_consumers`."""
    reader = SYSTEMS[name].ways()

    def hold(table: Any, before: Memory) -> dict[str, Any]:
        for body in _buffers(as_table(table)):
            body[::_PAGE_BYTES].max()
        _say("ready")
        added = Memory.now().since(before)
        _say("looked")
        return added

    _, added = reader.read(Path(directory), hold)
    return added


def scan(verification: str, directory: str, ahead: bool) -> dict[str, Any]:
    """Opens from a cold cache and adds up every byte. `ahead`: tells the kernel first that all will be read."""
    place = Path(directory)
    drop_from_page_cache(place)
    with measured() as cost:
        if ahead:
            _read_ahead(place)
        table = handoffs(place, verification).open(ASSET, PARTITION).table()  # pyright: ignore[reportArgumentType]
        total = _sum(table)
    return asdict(cost) | {"total": total}


def write_partitions(name: str, source_path: str, directory: str) -> dict[str, Any]:
    """Five partitions with the same rows; Lance and Parquet get a data set each, which spares them a filter."""
    table = _frame(pa.Table, source_path)
    for number in range(NUM_PARTITIONS):
        place = Path(directory) / f"shard-{number}"
        if name == "headrace":
            publish(table, Path(directory), place.name)
        elif name == "parquet":
            import pyarrow.parquet

            place.mkdir()
            pyarrow.parquet.write_table(table, place / "samples.parquet")
        else:
            import lance  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)

            lance.write_dataset(table, str(place))
    if name == "headrace":
        handoffs(Path(directory)).open(ASSET, _CHOSEN).table()  # leaves the mark
    return {}


def select(name: str, directory: str, column: str) -> dict[str, Any]:
    """One column of one partition, every byte of it added up. Another one is read before: libraries import lazily."""
    place = Path(directory)
    read_into_page_cache(place / _CHOSEN if name != "headrace" else place)
    _read_column(name, place, "shard-0", column)
    with measured() as cost:
        total = _sum(_read_column(name, place, _CHOSEN, column))
    return asdict(cost) | {"total": total}


def _read_column(name: str, directory: Path, partition: str, column: str) -> pa.Table:
    if name == "headrace":
        return handoffs(directory).open(ASSET, partition).table([column])
    if name == "parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(directory / partition / "samples.parquet", columns=[column])
    import lance  # pyright: ignore[reportMissingImports]

    return lance.dataset(str(directory / partition)).to_table(columns=[column])


def _frame(kind: type, source_path: str) -> Any:
    table = read_source(Path(source_path))
    return pl.from_arrow(table) if kind is pl.DataFrame else table


def _buffers(table: pa.Table) -> Iterator[np.ndarray]:
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                if buffer is not None and buffer.size:
                    yield np.frombuffer(buffer, np.uint8)


def _sum(table: pa.Table) -> int:
    """Of all bytes, as words of eight."""
    total = 0
    for body in _buffers(table):
        words = len(body) // 8 * 8
        total += int(body[:words].view(np.uint64).sum(dtype=np.uint64))
    return total % 2**64


def _read_ahead(directory: Path) -> None:
    for path in directory.rglob("*.arrow"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        os.close(descriptor)


def _say(word: str) -> None:
    """Waits until the parent answers."""
    print(word, flush=True)
    sys.stdin.readline()


_ACTIONS = [source, write, usable, usable_in_mode, memory, scan, write_partitions, select]

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # Dagster's events of every step
    task = json.loads(sys.argv[1])
    action = {each.__name__: each for each in _ACTIONS}[task.pop("action")]
    print(json.dumps(action(**task)), flush=True)
