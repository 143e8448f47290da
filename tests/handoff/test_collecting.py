import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock, SystemClock
from headrace.errors import HandoffCollected, HandoffMissing, InvalidInput
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.retention import FoundParts, FoundVersion, Snapshot, decide_parts, decide_versions
from headrace.handoff.versions import HandoffStore
from headrace.keys import partition_path
from headrace.store.leases import CLOCK_SKEW_SECONDS, TTL_SECONDS, Leases
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json
from headrace.store.protection import Named, Protections
from headrace.store.tombstones import Condemned, Tombstone
from headrace.version_sets.sets import VersionSets
from tests.generation.builders import make_version_set
from tests.handoff.collecting_builders import PREFIX, manifest_key, part_keys, seal
from tests.handoff.simulated_store import ByHand, MemoryStore

VERSION_SET = make_version_set()

DAY = 24 * 3600.0
NOW = 1000 * DAY


def make_version(version: int, *, age_days: float = 100, **given: Any) -> FoundVersion:
    fields: dict[str, Any] = {
        "asset": "docs",
        "partition": "all",
        "version": version,
        "manifest_key": manifest_key(version, f"handoff/docs/{given.get('partition', 'all')}"),
        "sealed_at": NOW - age_days * DAY,
        "nonce": f"n{version}",
        "content_digest": f"content {version}",
        "num_bytes": 10,
    }
    return FoundVersion(**fields | given)


def kept(snapshot: Snapshot, *, keep_versions: int = 2, named: Sequence[Named] = ()) -> list[int]:
    verdicts = decide_versions(snapshot, Protections(named), keep_versions=keep_versions, grace_seconds=DAY)
    return [verdict.found.version for verdict in verdicts if verdict.is_kept]


def names(version: int, **given: Any) -> Named:
    return Named(key=manifest_key(version), reason="somebody names it", **given)


FOUR = tuple(map(make_version, (1, 2, 3, 4)))
RETENTION: dict[str, tuple[Snapshot, dict[str, Any], list[int]]] = {
    "the newest two stay": (Snapshot(now=NOW, versions=FOUR), {}, [3, 4]),
    "or the newest three": (Snapshot(now=NOW, versions=FOUR), {"keep_versions": 3}, [2, 3, 4]),
    "what is named stays": (Snapshot(now=NOW, versions=FOUR), {"named": [names(1)]}, [1, 3, 4]),
    "or all that lies below a name": (
        Snapshot(now=NOW, versions=FOUR),
        {"named": [Named(key="handoff/docs/", reason="a claim cannot be read")]},
        [1, 2, 3, 4],
    ),
    "what is leased stays": (Snapshot(now=NOW, versions=FOUR, leased=frozenset({"n2"})), {}, [2, 3, 4]),
    "what a finished claim read stays while the newest hold the same": (
        Snapshot(now=NOW, versions=(*FOUR, make_version(5, content_digest="content 1"))),
        {"named": [names(1, while_newest=True), names(2, while_newest=True)]},
        [1, 4, 5],
    ),
    "what was superseded an hour ago stays, however old it is": (
        Snapshot(now=NOW, versions=(*FOUR, make_version(5, age_days=0.9), make_version(6, age_days=0.1))),
        {"keep_versions": 1},
        [4, 5, 6],
    ),
    "what cannot be read stays and does not count as a good one": (
        Snapshot(now=NOW, versions=(*FOUR, make_version(5, nonce="", damage="ManifestDamaged"))),
        {},
        [3, 4, 5],
    ),
    "what was sealed after its parts were taken goes and does not count": (
        Snapshot(now=NOW, versions=FOUR, taken=frozenset({"n4"})),
        {},
        [2, 3],
    ),
    "partitions are counted one by one": (
        Snapshot(now=NOW, versions=(*FOUR, *(make_version(n, partition="other", nonce=f"o{n}") for n in (1, 2)))),
        {},
        [3, 4, 1, 2],
    ),
}


@pytest.mark.parametrize(("snapshot", "given", "wanted"), RETENTION.values(), ids=RETENTION)
def test_what_stays(snapshot: Snapshot, given: dict[str, Any], wanted: list[int]) -> None:
    assert kept(snapshot, **given) == wanted


def test_a_partition_keeps_at_least_its_newest() -> None:
    with pytest.raises(InvalidInput, match="keep_versions must be at least 1, got 0"):
        kept(Snapshot(now=NOW, versions=FOUR), keep_versions=0)


PARTS = FoundParts(asset="docs", partition="all", nonce="o", prefix="p", num_bytes=5, written_at=NOW - 2 * DAY)
ORPHANS: dict[str, tuple[Snapshot, bool]] = {
    "old and unnamed: goes": (Snapshot(now=NOW, versions=(), unnamed=(PARTS,)), False),
    "being written: stays": (Snapshot(now=NOW, versions=(), unnamed=(PARTS,), leased=frozenset({"o"})), True),
    "young: stays": (Snapshot(now=NOW - 1.5 * DAY, versions=(), unnamed=(PARTS,)), True),
    "beside a manifest that nobody can read: stays": (
        Snapshot(now=NOW, versions=(make_version(1, nonce="", damage="ManifestDamaged"),), unnamed=(PARTS,)),
        True,
    ),
}


@pytest.mark.parametrize(("snapshot", "is_kept"), ORPHANS.values(), ids=ORPHANS)
def test_what_no_manifest_names(snapshot: Snapshot, is_kept: bool) -> None:
    assert [verdict.is_kept for verdict in decide_parts(snapshot, grace_seconds=DAY)] == [is_kept]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def memory(clock: FixedClock) -> MemoryStore:
    """Four versions and an orphan, all ten days old; version 1 held by nobody."""
    memory = MemoryStore(clock)
    for version in (1, 2, 3, 4):
        seal(memory, version, f"n{version}", attributes={"claim": f"c{version}"})  # type: ignore[arg-type]
    for key in part_keys("orphan"):
        memory.create(key, b"0123456789")
    clock.advance(10 * DAY)
    return memory


def run(memory: Any, clock: FixedClock, **given: Any) -> Any:
    return collect(memory, clock, plan_collection(memory, clock, **given))


def test_a_dry_run_deletes_nothing_and_says_what_would_go_and_why(memory: MemoryStore, clock: FixedClock) -> None:
    before = dict(memory.bodies)
    plan = plan_collection(memory, clock)  # type: ignore[arg-type]
    assert memory.bodies == before
    assert [found.label for found in plan.collected] == ["docs[all] v1", "docs[all] v2"]
    assert [found.nonce for found in plan.orphans] == ["orphan"]
    manifests = sum(len(memory.bodies[manifest_key(version)][0]) for version in (1, 2))
    assert plan.num_bytes == manifests + 3 * 20
    assert {verdict.reason for verdict in plan.versions} == {"older than the newest 2", "among the newest 2"}


def test_a_collected_version_leaves_a_note_and_nothing_else(memory: MemoryStore, clock: FixedClock) -> None:
    report = run(memory, clock)
    assert [found.version for found in report.versions] == [1, 2]
    assert report.num_bytes > 0
    assert report.kept_after_all == ()
    kept_keys = [manifest_key(version) for version in (3, 4)] + part_keys("n3") + part_keys("n4")
    notes = [f"{PREFIX}/v00000{version}/collected.json" for version in (1, 2)]
    assert sorted(memory.list("handoff")) == sorted(kept_keys + notes)
    note = json.loads(memory.read(notes[0]))
    assert (note["asset"], note["partition"], note["version"], note["attributes"]) == (
        "docs",
        "all",
        1,
        {"claim": "c1"},
    )
    assert note["content_digest"] == "n1"
    # What remains is the orphan's tombstone, for a writer that wakes up late; a month later that goes too.
    assert {key.split("/")[1] for key in memory.list("condemned")} == {"orphan"}
    clock.advance(40 * DAY)
    run(memory, clock)
    assert memory.list("condemned") + memory.list("leases") == []


def test_collecting_twice_changes_nothing_more(memory: MemoryStore, clock: FixedClock) -> None:
    run(memory, clock)
    after = dict(memory.bodies)
    report = run(memory, clock)
    assert (report.gone, report.num_bytes) == ((), 0)
    assert memory.bodies == after


def test_a_version_that_was_leased_since_the_plan_stays(memory: MemoryStore, clock: FixedClock) -> None:
    plan = plan_collection(memory, clock)  # type: ignore[arg-type]
    leases = Leases(memory, clock, renewal=ByHand())  # type: ignore[arg-type]
    lease = leases.hold("n1", manifest_key=manifest_key(1))
    report = collect(memory, clock, plan)  # type: ignore[arg-type]
    assert [(found.nonce, fate) for found, fate in report.kept_after_all] == [("n1", "leased")]
    assert memory.exists(part_keys("n1")[0])
    lease.check()
    assert memory.list("condemned/n1") == []
    # Killed rather than released: its lease runs out.
    clock.advance(TTL_SECONDS + CLOCK_SKEW_SECONDS + 2)
    assert [found.version for found in run(memory, clock).versions] == [1]


def test_an_orphan_that_was_sealed_since_the_plan_stays(memory: MemoryStore, clock: FixedClock) -> None:
    plan = plan_collection(memory, clock)  # type: ignore[arg-type]
    seal(memory, 5, "orphan")  # type: ignore[arg-type]
    report = collect(memory, clock, plan)  # type: ignore[arg-type]
    assert [(found.nonce, fate) for found, fate in report.kept_after_all] == [("orphan", "sealed")]
    assert memory.exists(part_keys("orphan")[0])


def test_a_plan_of_yesterday_is_refused(memory: MemoryStore, clock: FixedClock) -> None:
    plan = plan_collection(memory, clock)  # type: ignore[arg-type]
    clock.advance(3601)
    with pytest.raises(InvalidInput, match="60 minutes old, it may be 60 at most"):
        collect(memory, clock, plan)  # type: ignore[arg-type]


def test_a_kept_version_is_freed_from_a_dead_collector_s_tombstone(memory: MemoryStore, clock: FixedClock) -> None:
    """And if that collector only slept, it finds itself overruled."""
    slept = Tombstone(nonce="n4", collector="slept")
    wanted = Condemned(prefix=f"{PREFIX}/parts/n4", manifest_key=manifest_key(4), clears=True)
    slept.create(memory, wanted)  # type: ignore[arg-type]
    leases = Leases(memory, clock, sleep=lambda _: None, renewal=ByHand())  # type: ignore[arg-type]
    with pytest.raises(HandoffCollected):
        leases.hold("n4", manifest_key=manifest_key(4))
    run(memory, clock)
    with pytest.raises(HandoffCollected):
        leases.hold("n4", manifest_key=manifest_key(4))
    clock.advance(3700)
    run(memory, clock)
    leases.hold("n4", manifest_key=manifest_key(4)).check()
    assert slept.decide(memory, "collect", at="much later") == "spare"  # type: ignore[arg-type]


def test_leases_that_ran_out_are_cleared_away_and_others_stay(memory: MemoryStore, clock: FixedClock) -> None:
    memory.create(f"leases/n4/dead-{clock.now() - 1000:.0f}", b"")
    memory.create(f"leases/n4/perhaps-{clock.now() - 100:.0f}", b"")
    memory.create("leases/n4/what is this", b"")
    assert run(memory, clock).num_leases == 1
    assert [key.split("/")[2].split("-")[0] for key in memory.list("leases")] == ["perhaps", "what is this"]


def claim(memory: MemoryStore, attempt: int, outcome: str | None, *, version: int) -> str:
    """One attempt at a partition that reads `docs[all]`; its id."""
    prefix = f"claims/generated_content/{partition_path('all')}/{'d' * 16}"
    body = {
        "id": f"claim{attempt}",
        "partition": "all",
        "inputs": {"docs": version},
        "inputs_digest": "d" * 64,
        "attempt": attempt,
        "campaign": "docs",
        "version_set": VERSION_SET.id,
        "micro_batch_rows": 2,
        "on_abort": "repin",
        "reason": "first attempt",
        "root_run_id": "r1",
        "created_at": "2026-11-22T00:00:00Z",
    }
    memory.create(f"{prefix}/a{attempt:04d}.json", canonical_json(body))
    if outcome:
        memory.create(
            f"{prefix}/a{attempt:04d}.settled.json", canonical_json({"outcome": outcome, "reason": "made", "at": "now"})
        )
    memory.create(f"batches/claim{attempt}/b00000.arrow", b"rows")
    return body["id"]


@pytest.mark.parametrize(
    ("outcome", "wanted"), [(None, [1, 3, 4]), ("void", [1, 3, 4]), ("sealed", [3, 4])], ids=["open", "void", "sealed"]
)
def test_what_the_last_attempt_reads_stays_until_it_is_sealed(
    memory: MemoryStore, clock: FixedClock, outcome: str | None, wanted: list[int]
) -> None:
    claim(memory, 1, "sealed", version=2)
    claim(memory, 2, outcome, version=1)
    plan = plan_collection(memory, clock)  # type: ignore[arg-type]
    assert [verdict.found.version for verdict in plan.versions if verdict.is_kept] == wanted


def test_what_a_run_pinned_and_has_not_claimed_yet_stays(memory: MemoryStore, clock: FixedClock) -> None:
    pin = {"inputs": {"docs": 1}, "inputs_digest": "e" * 64, "after_attempt": 0}
    memory.create("claims/generated_content/all/runs/r1.json", canonical_json(pin))
    assert [found.version for found in plan_collection(memory, clock).collected] == [2]  # type: ignore[arg-type]


def test_micro_batches_go_when_nobody_can_need_them(memory: MemoryStore, clock: FixedClock) -> None:
    VersionSets(memory).put(VERSION_SET)
    for attempt, outcome in enumerate(["void", "sealed", "sealed", None], 1):
        claim(memory, attempt, outcome, version=4)
    # The third one's settlement is there and its rows are not published: whoever opens it next needs the batches.
    for asset in ("generated_content", "execution"):
        prefix = f"handoff/{asset}/all"
        seal(memory, 1, f"{asset} rows", prefix=prefix, attributes={"claim": "claim2"})  # type: ignore[arg-type]
    assert run(memory, clock).leavings == []
    clock.advance(2 * DAY)
    assert [one.kind for one in run(memory, clock).leavings] == ["micro-batches"] * 2
    assert memory.children("batches") == ["claim3", "claim4"]


def test_the_number_of_a_collected_version_is_not_given_out_again(tmp_path: Path) -> None:
    import pyarrow as pa

    store = LocalStore(tmp_path)
    handoffs = HandoffStore(store)
    for number in (1, 2, 3):
        handoffs.publish("docs", "all", pa.table({"x": [number]}), code_version="1", run_id="r")
    plan = plan_collection(store, SystemClock(), keep_versions=1, grace_seconds=-1)
    assert [found.version for found in collect(store, SystemClock(), plan).versions] == [1, 2]
    assert handoffs.versions("docs", "all") == [3]
    with pytest.raises(HandoffCollected):
        handoffs.open("docs", "all", 1)
    with pytest.raises(HandoffMissing):
        handoffs.open("docs", "all", 4)
    assert handoffs.publish("docs", "all", pa.table({"x": [4]}), code_version="1", run_id="r").version == 4


def test_a_mapped_table_outlives_the_collector(tmp_path: Path) -> None:
    import pyarrow as pa

    store = LocalStore(tmp_path)
    handoffs = HandoffStore(store)
    handoffs.publish("docs", "all", pa.table({"x": [1]}), code_version="1", run_id="r")
    reader = handoffs.open("docs", "all")
    table = reader.table()
    handoffs.publish("docs", "all", pa.table({"x": [2]}), code_version="1", run_id="r")
    plan = plan_collection(store, SystemClock(), keep_versions=1, grace_seconds=-1)
    assert [verdict.reason for verdict in plan.versions] == ["leased: it is being read", "among the newest 1"]
    collect(store, SystemClock(), plan)
    assert reader.table().equals(table)


WRITER_AND_COLLECTOR = """
import sys, time
from pathlib import Path
import pyarrow as pa
from headrace.clock import SystemClock
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
store, stop, until, number = LocalStore(Path(sys.argv[1])), Path(sys.argv[3]), time.time() + 100, 0
while not stop.exists() and time.time() < until:
    if sys.argv[2] == "write":
        number += 1
        table = pa.table({"x": [number] * 1000})
        HandoffStore(store).publish("docs", "all", table, code_version="1", run_id="r")
    else:
        collect(store, SystemClock(), plan_collection(store, SystemClock(), keep_versions=1, grace_seconds=-1))
"""


@pytest.mark.process
def test_collectors_beside_fifty_readers_break_none(tmp_path: Path) -> None:
    import pyarrow as pa

    store, stop = LocalStore(tmp_path / "store"), tmp_path / "stop"
    HandoffStore(store).publish("docs", "all", pa.table({"x": [0] * 1000}), code_version="1", run_id="r")
    script = [sys.executable, "-c", WRITER_AND_COLLECTOR, str(store.directory)]
    others = [subprocess.Popen([*script, role, str(stop)]) for role in ("write", "collect", "collect")]
    reads: list[int] = []
    errors: list[BaseException] = []

    def read() -> None:
        while any(other.poll() is None for other in others):
            try:
                # A store of its own each time: no lease is shared among the threads.
                values = HandoffStore(store, verification="off").open("docs", "all").table()["x"].to_pylist()
                assert len(values) == 1000
                assert len(set(values)) == 1
                reads.append(values[0])
            except HandoffCollected:
                continue
            except BaseException as error:  # noqa: BLE001 (shown by the test)
                errors.append(error)
                return
            time.sleep(0.2)

    readers = [threading.Thread(target=read) for _ in range(50)]
    for reader in readers:
        reader.start()
    began = time.monotonic()
    # A second of it; on a busy machine as long as it takes for several versions to come and go.
    while not errors and time.monotonic() < began + (1 if len(set(reads)) > 3 else 90):
        time.sleep(0.1)
    stop.touch()
    for reader in readers:
        reader.join()
    assert [other.wait() for other in others] == [0, 0, 0]
    assert errors == []
    assert len(set(reads)) > 3
