"""Sealers, indexers, readers and collectors in any order of single store operations, stopped or killed anywhere: no
byte is lost or mixed."""

import shutil
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from headrace.errors import HandoffCollected, HandoffCorrupt, HandoffMissing
from headrace.handoff.collecting import collect
from headrace.store.indexing import index_directory
from headrace.store.leases import HELD_SECONDS
from headrace.store.sealed_directory import (
    SealedDirectory,
    find_directory,
    find_index,
    open_directory,
    read_index,
    seal_directory,
)
from headrace.store.tensors.index import segment_key
from tests.store.collecting_model import CONTENTS, HOURS, SealedBesideCollectors
from tests.store.tensors.weights_builder import make_tensors, sha256_of_files, sibling_of, write_weights

# Where what one of them does, or sees, next decides what the others may do.
STOPS = (
    "create condemned/[^.]*.json",
    "children leases/",
    "create condemned/.*decided",
    "create weights/.*collected",
    "delete_prefix weights/parts",
    "delete weights/parts",
    "delete weights/segments",
    "create leases/",
    "children condemned/",
    "part weights/segments",
    "create weights/parts",
    "exists weights/segments",
    "create weights/.*/manifest",
    "read weights/parts",
    "never",
)


class TensorsBesideCollectors(SealedBesideCollectors):
    stops = STOPS

    @initialize()
    def start(self) -> None:
        tensors = make_tensors(layers=2, rows=4)
        self.seal_sources(
            {
                # The second shares all but one tensor with the first.
                "named": write_weights(self.root / "named", tensors),
                "other": write_weights(self.root / "other", sibling_of(tensors, "lm_head")),
            }
        )
        self.sha256 = {content: sha256_of_files(source) for content, source in self.sources.items()}
        self.node = self.root / "files/node"

    def act_in_whole_reads(self, program: Any) -> None:
        """A node puts files together under a lock, which a real kill releases: there nobody is stopped here."""

        def run(store: Any) -> None:
            def before(operation: str) -> None:
                if not operation.startswith("read weights/segments"):
                    store.before_each(operation)

            program(store.seen_by(before))

        self.act(run)

    @rule(content=st.sampled_from(CONTENTS))
    def start_sealer(self, content: str) -> None:
        self.act_in_whole_reads(lambda store: seal_directory(store, self.sources[content], clock=self.clock))

    @rule(content=st.sampled_from(CONTENTS))
    def start_indexer(self, content: str) -> None:
        def index(store: Any) -> None:
            began = self.clock.now()
            try:
                index_directory(store, self.digests[content], clock=self.clock)
            except (HandoffCollected, HandoffMissing):
                assert content != "named"
            except HandoffCorrupt as error:
                # Or its lease ran out while it was stopped, and the whole files went once others had indexed them.
                if "in 3 tries" not in str(error) and self.clock.now() < began + HELD_SECONDS / 2:
                    raise

        self.act_in_whole_reads(index)

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
                # Its lease ran out while it was stopped.
                assert self.clock.now() >= began + HELD_SECONDS / 2
                return
            if self.clock.now() < began + HELD_SECONDS / 2:
                assert sha256_of_files(found) == self.sha256[content]

        self.act_in_whole_reads(read)

    @rule(
        collector_at=st.sampled_from(STOPS),
        other_at=st.sampled_from(STOPS),
        collector_then_at=st.sampled_from(STOPS),
        who=st.sampled_from(["indexer", "sealer", "reader"]),
        content=st.sampled_from(CONTENTS),
        hours=st.sampled_from([0, 0, 30]),
    )
    def race(
        self, collector_at: str, other_at: str, collector_then_at: str, who: str, content: str, hours: float
    ) -> None:
        start = {"indexer": self.start_indexer, "sealer": self.start_sealer, "reader": self.start_reader}[who]
        self.race_with(lambda: start(content), collector_at, other_at, collector_then_at, hours)

    @rule(content=st.sampled_from(CONTENTS))
    def index_at_once_and_collect(self, content: str) -> None:
        try:
            index_directory(self.store, self.digests[content], clock=self.clock)
        except (HandoffCollected, HandoffMissing):
            assert content != "named"
        self.clock.advance(30 * HOURS)
        collect(self.store, self.clock, self.plan(self.store))

    @rule()
    def the_node_loses_its_cache(self) -> None:
        shutil.rmtree(self.node, ignore_errors=True)

    @invariant()
    def what_is_named_is_whole_in_the_store(self) -> None:
        if not hasattr(self, "sha256"):
            return
        quiet = self.store.seen_by(lambda operation: None)
        whole = [find_directory(quiet, self.digests["named"]), find_index(quiet, self.digests["named"])]
        assert any(sealed and self.is_whole(quiet, sealed) for sealed in whole)

    def is_whole(self, store: Any, sealed: SealedDirectory) -> bool:
        """By the bytes of the store alone."""
        if not sealed.is_indexed:
            bodies = {file.name: self.store.bodies.get(f"{sealed.key}/{file.name}") for file in sealed.files}
            return all(
                body and body.body == (self.sources["named"] / name).read_bytes() for name, body in bodies.items()
            )
        index = read_index(store, sealed)
        files = [b"" for _ in index.files]
        for run in index.runs:
            segment = self.store.bodies.get(segment_key("weights", index.segments[run.segment].nonce))
            files[run.file] += segment.body[run.at : run.at + run.num_bytes] if segment else b""
        wanted = [(self.sources["named"] / file.name).read_bytes() for file in index.files]
        return files == wanted

    def check_the_end(self) -> None:
        self.collect_for_months(4)
        self.what_is_named_is_whole_in_the_store()
        assert (
            sha256_of_files(open_directory(self.store, self.digests["named"], clock=self.clock)) == self.sha256["named"]
        )
        assert find_directory(self.store, self.digests["other"]) is None
        # Nothing is left of what nobody names: of one version, its files or its index with its segments.
        assert len(self.store.children("weights/parts")) == 1
        sealed = find_directory(self.store, self.digests["named"])
        assert sealed
        named = {one.nonce for one in read_index(self.store, sealed).segments} if sealed.is_indexed else set()
        assert set(self.store.children("weights/segments")) == named
        seal_directory(self.store, self.sources["other"], clock=self.clock)
        index_directory(self.store, self.digests["other"], clock=self.clock)
        assert (
            sha256_of_files(open_directory(self.store, self.digests["other"], clock=self.clock)) == self.sha256["other"]
        )


TestTensorsBesideCollectors = TensorsBesideCollectors.TestCase
