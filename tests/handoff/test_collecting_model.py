"""Readers, writers and collectors in any order of single store operations, any of them stopped or killed anywhere."""

import itertools
import re
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from headrace.clock import FixedClock
from headrace.errors import HandoffCollected, ObjectMissing
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.manifest import Manifest
from headrace.store.leases import Leases
from headrace.store.objects import canonical_json
from tests.handoff.collecting_builders import PREFIX, make_manifest, manifest_key, part_keys, seal
from tests.handoff.simulated_store import Actors, ByHand, MemoryStore

GRACE = 6 * 3600.0
VERSION = re.compile(r"v(\d{6})")
LOOKS = 4
# Where what one of them does, or sees, next decides what the others may do.
COLLECTOR_STOPS = [
    "children condemned/",
    "create condemned/[^.]*.json",
    "children leases/",
    "create condemned/.*decided",
    "create handoff/docs/all/v",
    "delete handoff/docs/all/v",
    "delete handoff/docs/all/parts",
    "delete condemned/",
]
READER_STOPS = [
    "create leases/nonce",
    "children condemned/",
    "exists handoff/docs/all/v",
    "exists handoff/docs/all/parts",
    "sleep",
]
WRITER_STOPS = ["create handoff/docs/all/parts", "create handoff/docs/all/v", "children condemned/", "delete leases/"]
STOPS = sorted({*COLLECTOR_STOPS, *READER_STOPS, *WRITER_STOPS, "never"})


class CollectingBesideEverybody(Actors):
    stops = STOPS

    @initialize()
    def start(self) -> None:
        self.clock = FixedClock()
        self.store = MemoryStore(self.clock)
        self.nonces = (f"nonce{number}" for number in itertools.count())
        self.acknowledged: dict[int, str] = {}
        for version in range(1, 7):
            nonce = next(self.nonces)
            seal(self.store, version, nonce)  # type: ignore[arg-type]
            self.acknowledged[version] = nonce
        self.clock.advance(2 * GRACE)

    def have_old_versions(self) -> None:
        """For the races: something to collect."""
        number = max(numbers_with(self.store, "[a-z]+.json"))
        if len(numbers_with(self.store, "manifest.json")) < 3:
            for version in (number + 1, number + 2):
                nonce = next(self.nonces)
                seal(self.store, version, nonce)  # type: ignore[arg-type]
                self.acknowledged[version] = nonce
            self.clock.advance(2 * GRACE)

    def leases_of(self, store: MemoryStore) -> Leases:
        return Leases(store, self.clock, sleep=lambda _: store.before_each("sleep"), renewal=ByHand())  # type: ignore[arg-type]

    @rule(age=st.integers(0, 5), renews=st.booleans())
    def start_reader(self, age: int, renews: bool) -> None:
        def read(store: MemoryStore) -> None:
            leases = self.leases_of(store)
            numbers = numbers_with(store, "manifest.json")
            number = numbers[max(-len(numbers), -1 - age)]
            try:
                manifest = Manifest.from_bytes(store.read(manifest_key(number)), uri="")
            except ObjectMissing:
                return
            try:
                lease = leases.hold(manifest.nonce, manifest_key=manifest_key(number))
            except HandoffCollected:
                return
            for part in [*manifest.parts] * LOOKS:
                if renews:
                    leases.renew()
                try:
                    lease.check()
                except HandoffCollected:
                    return
                if not store.exists(part.key):
                    # It was stopped since the check, and its lease ran out: the next check has to say so.
                    try:
                        lease.check()
                    except HandoffCollected:
                        return
                    raise AssertionError(f"{part.key} went away under a reader's lease")
            lease.release()

        self.act(read)

    @rule()
    def start_writer(self) -> None:
        nonce = next(self.nonces)

        def write(store: MemoryStore) -> None:
            leases = self.leases_of(store)
            try:
                with leases.hold(nonce) as lease:
                    for key in part_keys(nonce):
                        store.create(key, b"0123456789")
                        leases.renew()
                    lease.check()
                    number = 0
                    while True:
                        taken = numbers_with(store, "manifest.json") + numbers_with(store, "collected.json")
                        number = max([number, *taken]) + 1
                        body = canonical_json(make_manifest(number, nonce).to_body())
                        if store.create(manifest_key(number), body):
                            break
                    lease.confirm(manifest_key(number))
            except HandoffCollected:
                return
            self.acknowledged[number] = nonce

        self.act(write)

    @rule(keep_versions=st.sampled_from([1, 2]))
    def start_collector(self, keep_versions: int) -> None:
        def collect_once(store: Any) -> None:
            plan = plan_collection(store, self.clock, keep_versions=keep_versions, grace_seconds=GRACE)
            kept = {verdict.found.manifest_key for verdict in plan.versions if verdict.is_kept}
            report = collect(store, self.clock, plan)
            assert not kept & {found.manifest_key for found in report.versions}

        self.act(collect_once)

    @rule(
        collector_at=st.sampled_from(COLLECTOR_STOPS),
        reader_at=st.sampled_from(READER_STOPS),
        collector_then_at=st.sampled_from([*COLLECTOR_STOPS, "never"]),
        is_collector_killed=st.booleans(),
    )
    def race_for_the_oldest(
        self, collector_at: str, reader_at: str, collector_then_at: str, is_collector_killed: bool
    ) -> None:
        """A collector and a reader of what it takes first, each stopped where it matters."""
        self.have_old_versions()
        self.start_collector(keep_versions=1)
        self.start_reader(age=99, renews=True)
        collector, reader = self.actors[-2:]
        collector.run_until(collector_at)
        reader.run_until(reader_at)
        collector.run_until(collector_then_at)
        if is_collector_killed:
            self.killed.append(collector)
            self.actors.remove(collector)
            self.start_collector(keep_versions=1)
            self.actors[-1].run_until("never")
        reader.run_until("never")
        self.go_on([])

    @rule(seconds=st.sampled_from([300, 700, 899, 1300]), renews=st.booleans())
    def race_with_a_resting_reader(self, seconds: float, renews: bool) -> None:
        """Its lease is in force for a while, then it is not; either way it must not be surprised."""
        self.have_old_versions()
        self.start_reader(age=99, renews=renews)
        reader = self.actors[-1]
        reader.run_until("exists handoff/docs/all/parts")
        self.clock.advance(seconds)
        self.start_collector(keep_versions=1)
        self.actors[-1].run_until("never")
        reader.run_until("never")
        self.go_on([])

    @rule(
        writer_at=st.sampled_from(WRITER_STOPS),
        collector_at=st.sampled_from([*COLLECTOR_STOPS, "never"]),
        writer_then_at=st.sampled_from([*WRITER_STOPS, "never"]),
    )
    def race_with_a_stopped_writer(self, writer_at: str, collector_at: str, writer_then_at: str) -> None:
        """A writer is stopped for so long that what it wrote looks like an orphan, then goes on."""
        self.start_writer()
        writer = self.actors[-1]
        writer.run_until("create handoff/docs/all/parts")
        writer.step()
        writer.run_until(writer_at)
        self.clock.advance(GRACE + 2000)
        self.start_collector(keep_versions=2)
        collector = self.actors[-1]
        collector.run_until(collector_at)
        writer.run_until(writer_then_at)
        collector.run_until("never")
        writer.run_until("never")
        self.go_on([])

    @rule(seconds=st.sampled_from([1, 299, 901, 1300, 3700, GRACE + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def no_acknowledged_version_is_lost(self) -> None:
        for number, nonce in self.acknowledged.items():
            if f"{PREFIX}/v{number:06d}/collected.json" in self.store.bodies:
                self.check_that_it_was_superseded(number)
            else:
                for key in [manifest_key(number), *part_keys(nonce)]:
                    assert key in self.store.bodies, key

    def check_that_it_was_superseded(self, number: int) -> None:
        """Only what was put aside by a newer version, at least the grace time ago, may go."""
        noted_at = self.store.bodies[f"{PREFIX}/v{number:06d}/collected.json"][1]
        later = [
            made_at
            for key, (_, made_at, _) in self.store.bodies.items()
            if (match := re.fullmatch(rf"{PREFIX}/v(\d+)/[a-z]+\.json", key)) and int(match[1]) > number
        ]
        assert later
        assert noted_at > 0

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.bury_all()
        for _ in range(3):
            self.clock.advance(40 * 24 * 3600.0)
            plan = plan_collection(self.store, self.clock, keep_versions=1, grace_seconds=GRACE)  # type: ignore[arg-type]
            collect(self.store, self.clock, plan)  # type: ignore[arg-type]
        self.no_acknowledged_version_is_lost()
        rest = [key for key in self.store.bodies if not key.endswith("collected.json")]
        newest = numbers_with(self.store, "manifest.json")
        assert len(newest) == 1
        nonce = Manifest.from_bytes(self.store.read(manifest_key(newest[0])), uri="").nonce
        # A collector that was killed while it looked for leases leaves two small objects, for as long as the version.
        spared = [key for key in rest if key.startswith(f"condemned/{nonce}/")]
        assert sorted(rest) == sorted([manifest_key(newest[0]), *part_keys(nonce), *spared])


def numbers_with(store: MemoryStore, name: str) -> list[int]:
    matches = (re.fullmatch(rf"{PREFIX}/v(\d+)/{name}", key) for key in store.list(PREFIX))
    return sorted(int(match[1]) for match in matches if match)


TestCollectingBesideEverybody = CollectingBesideEverybody.TestCase
