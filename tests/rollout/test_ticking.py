"""What a tick costs the store, for a process that begins and for one that goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.rollout import states
from headrace.rollout.controller import Action
from headrace.rollout.ticking import Rollout
from headrace.serving.subject import ServiceSubject
from headrace.version_sets.sets import VersionSet, VersionSets
from tests.serving.builders import make_service
from tests.store.counting import CountingStore

NAME = "answers"


class Site:
    """A service whose rollout has gone back and forth."""

    def __init__(self, directory: Path) -> None:
        self.store, self.clock = CountingStore(directory), FixedClock()
        self.service = make_service(name=NAME)
        self.rollout = Rollout(self.store, NAME, self.clock)
        # What the file asks for is stable, so that nothing waits to be tried.
        self.wanted = self.service.version_set({})
        self.add(states.INITIALIZED, self.wanted)
        other = self._other()
        for _ in range(10):
            self.add(states.PROPOSED, other)
            self.add(states.WITHDRAWN, other)
        self.add(states.PROPOSED, other)
        self.add(states.STARTED, other, step=0, weight=0.1, cap=None)
        self.add(states.ABORTED, other)

    def add(self, event: str, version_set: VersionSet, **fields: Any) -> None:
        VersionSets(self.store).put(version_set)
        said = {"version_set": version_set.id, "weights_digest": version_set.weights_digest, "num_rows": 0}
        self.clock.advance(1)
        journal = self.rollout.journal
        journal.append(event, said | {"reason": event, **fields}, expected=journal.head())

    def tick(self, rollout: Rollout) -> list[Action]:
        return rollout.tick(ServiceSubject.of(self.service, self.store), ())

    def _other(self) -> VersionSet:
        role = self.service.roles["writer"]
        shorter = replace(role, decoding=replace(role.decoding, max_new_tokens=7))
        return replace(self.service, roles={"writer": shorter}).version_set({})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def asked_for(site: Site, act: Any) -> int:
    before = site.store.num_asked
    act()
    return site.store.num_asked - before


def test_a_tick_and_its_page_read_each_entry_once_and_little_beside(site: Site) -> None:
    """One listing, an entry each, and at most six others."""
    fresh = Rollout(site.store, NAME, site.clock)

    def act() -> None:
        assert site.tick(fresh)[-1].kind == "none"
        assert fresh.status(ServiceSubject.of(site.service, site.store)).state

    assert asked_for(site, act) <= site.rollout.journal.head() + 1 + 6


def test_a_process_that_ticks_again_reads_what_is_new(site: Site) -> None:
    site.tick(site.rollout)
    assert asked_for(site, lambda: site.tick(site.rollout)) <= 8
    Rollout(site.store, NAME, site.clock).journal.append(
        states.PROPOSED, {"version_set": "f" * 64, "weights_digest": "w", "reason": "new"}, expected=24
    )
    assert asked_for(site, lambda: site.tick(site.rollout)) <= 8
