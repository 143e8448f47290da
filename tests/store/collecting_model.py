"""What the models of sealed weights beside collectors share: two sealed contents, of which somebody names one."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from headrace.clock import FixedClock
from headrace.handoff.collecting import CollectionPlan, collect, plan_collection
from headrace.store.protection import Answer, Named
from headrace.store.sealed_directory import directory_key, seal_directory
from simulation.disk import Disk
from simulation.stores import MemoryStore
from tests.handoff.simulated_store import Actors

HOURS = 3600.0
_GRACE = 6 * HOURS
CONTENTS = ("named", "other")


class SealedBesideCollectors(Actors):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.clock = FixedClock()
        self.store: Any = MemoryStore(self.clock, Disk(self.root / "files"))

    def seal_sources(self, sources: Mapping[str, Path]) -> None:
        """Seals the directory of each of `CONTENTS`, long enough ago that none is young."""
        self.sources = sources
        self.digests = {
            content: seal_directory(self.store, source, clock=self.clock).digest for content, source in sources.items()
        }
        self.clock.advance(30 * HOURS)

    def plan(self, store: Any) -> CollectionPlan:
        named = Answer(named=[Named(key=directory_key(self.digests["named"]), reason="somebody names them")])
        return plan_collection(store, self.clock, grace_seconds=_GRACE, protectors={"somebody": lambda asked: named})

    def collect_for_months(self, times: int) -> None:
        for _ in range(times):
            self.clock.advance(40 * 24 * HOURS)
            collect(self.store, self.clock, self.plan(self.store))

    @rule()
    def start_collector(self) -> None:
        def collect_once(store: Any) -> None:
            collect(store, self.clock, self.plan(store))

        self.act(collect_once)

    def teardown(self) -> None:
        if hasattr(self, "digests"):
            self.bury_all()
            self.check_the_end()
        self.directory.cleanup()

    def check_the_end(self) -> None:
        """What must be so once nobody acts any more."""
        raise NotImplementedError

    def race_with(
        self, start: Callable[[], None], collector_at: str, other_at: str, collector_then_at: str, hours: float
    ) -> None:
        """A collector and the actor that `start` starts each stop once, and both end."""
        self.clock.advance(30 * HOURS)
        self.start_collector()
        start()
        collector, other = self.actors[-2:]
        collector.run_until(collector_at)
        other.run_until(other_at)
        self.clock.advance(hours * HOURS)
        collector.run_until(collector_then_at)
        other.run_until("never", steps_max=500)
        self.go_on([])

    @rule(hours=st.sampled_from([0.1, 2, 7, 13, 30]))
    def time_passes(self, hours: float) -> None:
        self.clock.advance(hours * HOURS)
