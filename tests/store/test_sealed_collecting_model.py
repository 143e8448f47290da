"""Sealers, readers and collectors of weights in any order of single store operations, stopped or killed anywhere."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from headrace.errors import HandoffCollected, HandoffCorrupt
from headrace.handoff.collecting import collect
from headrace.store.leases import HELD_SECONDS
from headrace.store.sealed_directory import (
    collected_key,
    directory_key,
    find_directory,
    open_directory,
    seal_directory,
)
from tests.store.collecting_model import CONTENTS, HOURS, SealedBesideCollectors

# Where what one of them does, or sees, next decides what the others may do.
STOPS = (
    "create condemned/[^.]*.json",
    "children leases/",
    "create condemned/.*decided",
    "create weights/.*collected",
    "delete_prefix weights/parts",
    "delete weights/parts",
    "delete condemned/",
    "create leases/",
    "children condemned/",
    "exists weights/.*collected",
    "part weights/",
    "create weights/.*/manifest",
    "fetch weights/",
    "never",
)


class WeightsBesideCollectors(SealedBesideCollectors):
    stops = STOPS

    @initialize()
    def start(self) -> None:
        sources = {content: self.root / content for content in CONTENTS}
        for content, source in sources.items():
            source.mkdir()
            (source / "model.safetensors").write_text(content * 5)
        # Until when the files below a prefix must be there, for what was sealed or opened.
        self.held: list[tuple[float, str, str]] = []
        self.seal_sources(sources)

    def hold(self, began: float, key: str, content: str) -> None:
        self.held.append((began + HELD_SECONDS / 2, key, content))

    @rule(content=st.sampled_from(CONTENTS))
    def start_sealer(self, content: str) -> None:
        def seal(store: Any) -> None:
            sealed = seal_directory(store, self.sources[content], clock=self.clock)
            # From its last look on.
            self.hold(self.clock.now(), sealed.key, content)

        self.act(seal)

    @rule(content=st.sampled_from(CONTENTS))
    def start_reader(self, content: str) -> None:
        def read(store: Any) -> None:
            began = self.clock.now()
            try:
                found = open_directory(store, self.digests[content], clock=self.clock)
            except HandoffCollected:
                assert content != "named"
                return
            except HandoffCorrupt:
                # It was stopped for days between its hold and the files, which may be gone by then.
                assert content != "named"
                assert self.clock.now() >= began + HELD_SECONDS / 2
                return
            if self.clock.now() < began + HELD_SECONDS / 2:
                assert (found / "model.safetensors").read_text() == content * 5

        self.act(read)

    @rule(
        collector_at=st.sampled_from(STOPS),
        other_at=st.sampled_from(STOPS),
        collector_then_at=st.sampled_from(STOPS),
        is_sealer=st.booleans(),
        hours=st.sampled_from([0, 0, 30]),
    )
    def race_for_what_nobody_names(
        self, collector_at: str, other_at: str, collector_then_at: str, is_sealer: bool, hours: float
    ) -> None:
        start = self.start_sealer if is_sealer else self.start_reader
        self.race_with(lambda: start("other"), collector_at, other_at, collector_then_at, hours)

    @rule(
        sealer_at=st.sampled_from(["part weights/", "create weights/.*/manifest", "create leases/"]),
        collector_at=st.sampled_from(STOPS),
    )
    def race_with_a_sealer_that_was_stopped_for_days(self, sealer_at: str, collector_at: str) -> None:
        """What it has written looks like an orphan, which a collector takes."""
        self.clock.advance(30 * HOURS)
        collect(self.store, self.clock, self.plan(self.store))
        self.start_sealer("other")
        sealer = self.actors[-1]
        sealer.run_until("part weights/")
        sealer.run_until(sealer_at)
        self.clock.advance(40 * HOURS)
        self.start_collector()
        collector = self.actors[-1]
        collector.run_until(collector_at)
        sealer.run_until("never")
        collector.run_until("never")
        self.go_on([])

    @invariant()
    def what_is_held_or_named_is_whole(self) -> None:
        if not hasattr(self, "held"):
            return
        for until, key, content in self.held:
            if self.clock.now() < until:
                assert self.store.bodies[f"{key}/model.safetensors"].body == (content * 5).encode()
        quiet = self.store.seen_by(lambda operation: None)
        named = find_directory(quiet, self.digests["named"])
        assert named
        assert quiet.exists(f"{named.key}/model.safetensors")

    def check_the_end(self) -> None:
        self.collect_for_months(3)
        self.what_is_held_or_named_is_whole()
        assert find_directory(self.store, self.digests["other"]) is None
        parts = self.store.children("weights/parts")
        assert len(parts) == 1
        # Every manifest whose files went has its note.
        manifests = [key for key in self.store.list(directory_key(self.digests["other"])) if "collected" not in key]
        assert all(self.store.exists(collected_key(key)) for key in manifests)
        # A collector that was killed while it looked for leases leaves two small objects, for as long as the weights.
        assert set(self.store.children("condemned")) <= set(parts)
        sealed = seal_directory(self.store, self.sources["other"], clock=self.clock)
        assert (open_directory(self.store, sealed.digest, clock=self.clock) / "model.safetensors").is_file()


TestWeightsBesideCollectors = WeightsBesideCollectors.TestCase
