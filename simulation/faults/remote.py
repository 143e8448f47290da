"""A real S3 server behind a failing proxy: writers, readers and collectors succeed, or report that they did not."""

from collections.abc import Callable
from pathlib import Path

from headrace.clock import SystemClock
from headrace.errors import HandoffCorrupt, HandoffMissing, PublishConflict, StoreUnavailable
from headrace.handoff.versions import HandoffStore
from headrace.store.node_cache import NodeCache
from headrace.store.s3 import S3Store
from pipelines.object_store import ObjectStoreServer, running_object_store
from simulation.faults.cases import ASSET, PARTITION, Tally, check_everything, collect_all, is_content, publish
from simulation.faults.proxy import fault_proxy

# So dense that a publish meets several, so rare that retries succeed.
ONE_REQUEST_IN = 8
PATIENCE_SECONDS = 20.0


def unreliable_server(root: Path, num_times: int, seed: int, advance: Callable[[], None]) -> Tally:
    """Publishes, reads with a cold cache and collects through the proxy; checks past it. Counts the proxy's faults."""
    tally = Tally("S3: 503, lost replies, slow, cut, flipped")
    with running_object_store(root / "server") as server, fault_proxy(server.endpoint, seed) as proxy:
        straight = _store(server, server.endpoint, root / "straight")
        acknowledged: dict[int, int] = {}
        for number in range(1, num_times + 1):
            # A new process and node each time, without knowledge or cache.
            failing = _store(server, proxy.endpoint, root / f"cache-{number}")
            proxy.one_in = ONE_REQUEST_IN
            try:
                acknowledged[publish(failing, number).version] = number
                _read(failing, tally)
                if number % 5 == 0:
                    collect_all(failing, SystemClock(), keep_versions=2)
            except (StoreUnavailable, PublishConflict):
                tally.told += 1
            proxy.one_in = 0
            there = HandoffStore(straight, leased=False).versions(ASSET, PARTITION)
            acknowledged = {version: kept for version, kept in acknowledged.items() if version >= min(there, default=0)}
            advance()
        check_everything(straight, tally, acknowledged, 10_000)
        tally.faults = proxy.made.total()
        tally.notes.append(f"faults made: {dict(proxy.made)}")
    return tally


def _read(objects: S3Store, tally: Tally) -> None:
    handoff = HandoffStore(objects).open(ASSET, PARTITION)
    try:
        if not is_content(handoff, int(handoff.attributes["content"])):
            tally.wrong("silent", f"{handoff.label} has other rows than were sealed")
    except (HandoffCorrupt, HandoffMissing) as error:
        tally.wrong("torn", f"{handoff.label}: {error!r}")


def _store(server: ObjectStoreServer, endpoint: str, cache: Path) -> S3Store:
    return S3Store(
        server.bucket,
        "faults",
        cache=NodeCache(cache),
        options=server.options(endpoint),
        patience_seconds=PATIENCE_SECONDS,
    )
