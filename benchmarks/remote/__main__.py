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
from pathlib import Path

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
from benchmarks.remote.peers import (
    MIB,
    SELECTED,
    TUNINGS,
    Remote,
    best_tuning,
    cache_directory,
    read_obstore,
    read_ours,
    read_s3fs,
    read_s3fs_concurrently,
)
from headrace.handoff.versions import HandoffStore
from pipelines.object_store import ObjectStoreServer, running_object_store
from simulation.servers.processes import cpu_seconds

_NUM_COLUMNS = 8


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
    selected = [schema.names.index(name) for name in SELECTED]
    ranges = []
    for part in handoff.manifest.parts:
        for segment in part.segments_of(selected):
            key, end = f"store/{part.key}", segment.offset + segment.num_bytes
            last = ranges[-1] if ranges else ("", 0, 0)
            if last[0] == key and last[1] + last[2] == segment.offset:
                ranges[-1] = (key, last[1], end - last[1])
            else:
                ranges.append((key, segment.offset, segment.num_bytes))
    logical_bytes = num_objects * num_rows * 8 * len(SELECTED)
    return Remote(server, scratch, ranges, logical_bytes)


def _compare(remote: Remote, num_runs: int, json_path: Path | None) -> int:
    tuning = best_tuning(remote)
    systems: dict[str, Callable[[int], None]] = {
        "headrace": lambda run: read_ours(remote, run),
        "obstore ranges": lambda run: read_obstore(remote, *tuning),
        "s3fs open and read": lambda run: read_s3fs(remote),
        "s3fs cat_ranges": lambda run: read_s3fs_concurrently(remote),
    }
    costs: dict[str, list[Cost]] = defaultdict(list)
    server_seconds: dict[str, list[float]] = defaultdict(list)
    # The warm-up pays for imports, connections and the server's own caches.
    for run, name in in_turns("remote", num_runs, list(systems), num_warm_ups=1):
        before = cpu_seconds(remote.server.pid)
        with measured() as cost:
            systems[name](run)
        shutil.rmtree(cache_directory(remote, run), ignore_errors=True)
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
        caption=f"obstore: {tuning[1]} requests of {tuning[0] // MIB} MiB at once, its best of {len(TUNINGS)} tunings",
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


if __name__ == "__main__":
    sys.exit(main())
