"""`python -m benchmarks.remote`: selected columns of a handoff in S3, from a cold node, beside s3fs and obstore.

A real SeaweedFS server on loopback holds a table of eight columns as objects of 64 MiB; half of the columns are read.
In one run, in turns: ours (`Handoff.table` into an empty node cache, every digest compared, every page touched), s3fs
as it is used (open, then ranged reads, no cache), s3fs with its concurrent `cat_ranges`, and concurrent ranged reads of
obstore, with whichever length and number of requests is best for it here. All read the same bytes.
"""

import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measuring import (
    Cost,
    at_least,
    finish,
    in_turns,
    measured,
    median,
    parser_of,
    print_table,
    progress,
    require_peers,
    rounded,
    scratch,
    whole,
)
from headrace.handoff.sealed import Handoff
from headrace.handoff.versions import HandoffStore
from headrace.store.node_cache import NodeCache
from headrace.store.s3 import S3Store
from pipelines.object_store import ObjectStoreServer, running_object_store
from simulation.servers.processes import cpu_seconds

MIB = 1024 * 1024
_NUM_COLUMNS = 8
_SELECTED = ["c0", "c1", "c4", "c5"]
_PAGE_BYTES = 4096
# Lengths and numbers of requests that obstore may choose from.
_TUNINGS = [(length * MIB, number) for length in (4, 8, 16) for number in (8, 12, 16)]

Range = tuple[str, int, int]  # key in the bucket, first byte, length


@dataclass(frozen=True)
class Remote:
    """The sealed table, and the ranges of its objects that the selected columns lie in."""

    server: ObjectStoreServer
    scratch: Path
    ranges: list[Range]
    logical_bytes: int

    def store(self, cache: Path) -> S3Store:
        return S3Store(self.server.bucket, "store", cache=NodeCache(cache), options=self.server.options())

    def handoff(self, cache: Path) -> Handoff:
        return HandoffStore(self.store(cache), leased=False).open("table", "all")


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("remote", __doc__)
    parser.add_argument("--objects", type=whole(), default=8, help="how many objects the table is (default 8)")
    parser.add_argument("--megabytes", type=whole(), default=64, help="MiB of each object (default 64)")
    parser.add_argument("--runs", type=whole(), default=5, help="how often each is measured (default 5)")
    parser.add_argument("--directory", type=Path, default=None, help="where server and cache work; a temporary one")
    given = parser.parse_args(arguments)
    require_peers({"s3fs": "s3fs"})
    with scratch("remote", given.directory) as root, running_object_store(root / "server") as server:
        progress.print(f"writing {given.objects} objects of {given.megabytes} MiB …")
        remote = _write(server, root, given.objects, given.megabytes)
        return _compare(remote, given.runs, given.json)


def _write(server: ObjectStoreServer, scratch: Path, num_objects: int, megabytes: int) -> Remote:
    remote = Remote(server, scratch, [], 0)
    num_rows = megabytes * MIB // (8 * _NUM_COLUMNS)
    rng = np.random.default_rng(7)
    schema = pa.schema([(f"c{index}", pa.float64()) for index in range(_NUM_COLUMNS)])

    def batches() -> Iterator[pa.RecordBatch]:
        for _ in range(num_objects):
            columns = [pa.array(rng.random(num_rows)) for _ in range(_NUM_COLUMNS)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    size = megabytes * MIB
    handoffs = HandoffStore(remote.store(scratch / "unused"), leased=False)
    handoff = handoffs.publish(
        "table", "all", batches(), schema=schema, code_version="1", run_id="r", batch_bytes=size, part_bytes=size
    )
    if len(handoff.manifest.parts) != num_objects:
        raise SystemExit(f"The table is {len(handoff.manifest.parts)} objects, not {num_objects}.")
    selected = [schema.names.index(name) for name in _SELECTED]
    ranges = []
    for part in handoff.manifest.parts:
        for segment in part.segments_of(selected):
            key, end = f"store/{part.key}", segment.offset + segment.num_bytes
            last = ranges[-1] if ranges else ("", 0, 0)
            if last[0] == key and last[1] + last[2] == segment.offset:
                ranges[-1] = (key, last[1], end - last[1])
            else:
                ranges.append((key, segment.offset, segment.num_bytes))
    logical_bytes = num_objects * num_rows * 8 * len(_SELECTED)
    return Remote(server, scratch, ranges, logical_bytes)


def _compare(remote: Remote, num_runs: int, json_path: Path | None) -> int:
    tuning = _best_tuning(remote)
    systems: dict[str, Callable[[int], None]] = {
        "headrace": lambda run: _read_ours(remote, run),
        "obstore ranges": lambda run: _read_obstore(remote, *tuning),
        "s3fs open and read": lambda run: _read_s3fs(remote),
        "s3fs cat_ranges": lambda run: _read_s3fs_concurrently(remote),
    }
    costs: dict[str, list[Cost]] = defaultdict(list)
    server_seconds: dict[str, list[float]] = defaultdict(list)
    # The warm-up pays for imports, connections and the server's own caches.
    for run, name in in_turns("remote", num_runs, list(systems), num_warm_ups=1):
        before = cpu_seconds(remote.server.pid)
        with measured() as cost:
            systems[name](run)
        shutil.rmtree(_cache_directory(remote, run), ignore_errors=True)
        if run >= 0:
            costs[name].append(cost)
            server_seconds[name].append(cpu_seconds(remote.server.pid) - before)
    walls = {name: median(cost.wall_seconds for cost in costs[name]) for name in systems}
    print_table(
        f"{len(remote.ranges)} ranges, {remote.logical_bytes / 1e6:.0f} MB of selected columns, cold node cache; "
        f"median of {num_runs}",
        ["", "MB/s", "wall s", "CPU s", "server CPU s", "ours is faster by"],
        [
            [
                name,
                f"{remote.logical_bytes / 1e6 / walls[name]:.0f}",
                f"{walls[name]:.3f}",
                f"{median(cost.cpu_seconds for cost in costs[name]):.3f}",
                f"{median(server_seconds[name]):.3f}",
                f"{walls[name] / walls['headrace']:.2f}",
            ]
            for name in systems
        ],
        caption=f"obstore: {tuning[1]} requests of {tuning[0] // MIB} MiB at once, its best of {len(_TUNINGS)} tunings",
    )
    ratios = {
        "ratio_s3fs": rounded(walls["s3fs open and read"] / walls["headrace"]),
        "ratio_s3fs_cat_ranges": rounded(walls["s3fs cat_ranges"] / walls["headrace"]),
        "ratio_obstore": rounded(walls["obstore ranges"] / walls["headrace"]),
    }
    speeds = {name: rounded(remote.logical_bytes / 1e6 / walls[name]) for name in systems}
    # obstore is what ours reads with, without digests and cache: there is nothing to be gained on it.
    bars = {name: at_least(ratios[name], 1.0) for name in ("ratio_s3fs", "ratio_s3fs_cat_ranges")}
    return finish({**ratios, "mb_per_second": speeds}, bars, json_path)


def _read_ours(remote: Remote, run: int) -> None:
    table = remote.handoff(_cache_directory(remote, run)).table(_SELECTED)
    for column in table.columns:
        for chunk in column.chunks:
            _touch(chunk.buffers()[1])


def _read_obstore(remote: Remote, length: int, num_requests: int) -> None:
    import obstore

    client = remote.store(remote.scratch / "unused")._requests.client

    def read(one: Range) -> None:
        key, offset, num_bytes = one
        bodies.append(obstore.get_range(client, key, start=offset, length=num_bytes))

    bodies: list[Any] = []
    with ThreadPoolExecutor(num_requests) as threads:
        list(threads.map(read, _cut(remote.ranges, length)))
    for body in bodies:
        _touch(body)


def _best_tuning(remote: Remote) -> tuple[int, int]:
    _read_obstore(remote, *_TUNINGS[0])
    walls: dict[tuple[int, int], list[float]] = {tuning: [] for tuning in _TUNINGS}
    for _ in range(2):
        for tuning in _TUNINGS:
            with measured() as cost:
                _read_obstore(remote, *tuning)
            walls[tuning].append(cost.wall_seconds)
    return min(walls, key=lambda tuning: min(walls[tuning]))


def _read_s3fs(remote: Remote) -> None:
    files = _s3fs(remote)
    opened: dict[str, Any] = {}
    for key, offset, num_bytes in remote.ranges:
        if key not in opened:
            opened[key] = files.open(f"{remote.server.bucket}/{key}", "rb", cache_type="none")
        opened[key].seek(offset)
        _touch(opened[key].read(num_bytes))


def _read_s3fs_concurrently(remote: Remote) -> None:
    cut = _cut(remote.ranges, 8 * MIB)
    paths = [f"{remote.server.bucket}/{key}" for key, _, _ in cut]
    starts = [offset for _, offset, _ in cut]
    for body in _s3fs(remote).cat_ranges(paths, starts, [offset + length for _, offset, length in cut]):
        _touch(body)


def _s3fs(remote: Remote) -> Any:
    import s3fs  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)

    environment = remote.server.environment
    return s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=remote.server.endpoint,
        use_listings_cache=False,
    )


def _cut(ranges: list[Range], length: int) -> list[Range]:
    return [
        (key, start, min(length, offset + num_bytes - start))
        for key, offset, num_bytes in ranges
        for start in range(offset, offset + num_bytes, length)
    ]


def _touch(body: Any) -> None:
    np.frombuffer(body, np.uint8)[::_PAGE_BYTES].sum()


def _cache_directory(remote: Remote, run: int) -> Path:
    return remote.scratch / f"cache-{run}"


if __name__ == "__main__":
    sys.exit(main())
