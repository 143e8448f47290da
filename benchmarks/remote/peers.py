"""The ways to read ranges of objects that are compared: ours into an empty node cache, obstore's and s3fs' own."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import measured
from headrace.handoff.sealed import Handoff
from headrace.handoff.versions import HandoffStore
from headrace.store.node_cache import NodeCache
from headrace.store.s3 import S3Store
from pipelines.object_store import ObjectStoreServer

MIB = 1024 * 1024
SELECTED = ["c0", "c1", "c4", "c5"]
_PAGE_BYTES = 4096
# Lengths and numbers of requests that obstore may choose from.
TUNINGS = [(length * MIB, number) for length in (4, 8, 16) for number in (8, 12, 16)]

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


def read_ours(remote: Remote, run: int) -> None:
    table = remote.handoff(cache_directory(remote, run)).table(SELECTED)
    for column in table.columns:
        for chunk in column.chunks:
            _touch(chunk.buffers()[1])


def read_obstore(remote: Remote, length: int, num_requests: int) -> None:
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


def best_tuning(remote: Remote) -> tuple[int, int]:
    read_obstore(remote, *TUNINGS[0])
    walls: dict[tuple[int, int], list[float]] = {tuning: [] for tuning in TUNINGS}
    for _ in range(2):
        for tuning in TUNINGS:
            with measured() as cost:
                read_obstore(remote, *tuning)
            walls[tuning].append(cost.wall_seconds)
    return min(walls, key=lambda tuning: min(walls[tuning]))


def read_s3fs(remote: Remote) -> None:
    files = _s3fs(remote)
    opened: dict[str, Any] = {}
    for key, offset, num_bytes in remote.ranges:
        if key not in opened:
            opened[key] = files.open(f"{remote.server.bucket}/{key}", "rb", cache_type="none")
        opened[key].seek(offset)
        _touch(opened[key].read(num_bytes))


def read_s3fs_concurrently(remote: Remote) -> None:
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


def cache_directory(remote: Remote, run: int) -> Path:
    return remote.scratch / f"cache-{run}"
