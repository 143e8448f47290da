"""A rollout of a service with two roles, taken as far as a test wants to look at it."""

import json
from pathlib import Path
from typing import Any

from headrace.clock import FixedClock
from headrace.rollout import interventions
from headrace.rollout.caps import CapLeases
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.preparation import PreparationRecord, write_preparation
from headrace.rollout.states import fold
from headrace.store.local import LocalStore
from headrace.store.objects import canonical_json
from headrace.version_sets.sets import Decoding, VersionSet, VersionSets
from tests.rollout.builders import make_member, make_set

ANA: dict[str, Any] = {"by": "ana", "reason": "a look at it"}
_PROMPTS = ("You answer in short and friendly sentences.", "You answer in short and exact sentences.")


def make_service_set(version: int) -> VersionSet:
    """From version 3 on with another prompt and another temperature."""
    changed = version > 2
    writer = make_member(
        "writer",
        model_version=str(version),
        weights_digest=str(version) * 64,
        system_prompt=_PROMPTS[changed],
        decoding=Decoding(temperature=0.4 if changed else 0.7, top_p=0.9, max_new_tokens=160),
    )
    return make_set(writer, make_member("judge", model_name="referee", weights_digest="e" * 64))


class Scene:
    """Sets 1 to 4 are kept, set 1 is stable."""

    def __init__(self, directory: Path, name: str = "support") -> None:
        self.store = LocalStore(directory)
        self.clock = FixedClock(1_795_000_000.0)
        self.name = name
        self.journal = Journal(self.store, name, self.clock)
        self.sets = {number: make_service_set(number) for number in (1, 2, 3, 4)}
        for one in self.sets.values():
            VersionSets(self.store).put(one)
        self.add("initialized", 1, reason="the first set")

    def add(self, event: str, version: int, **fields: Any) -> Entry:
        """An entry as the controller makes it, ten minutes after the last."""
        self.clock.advance(600)
        one = self.sets[version]
        stated = {"version_set": one.id, "weights_digest": one.weights_digest, "reason": event, **fields}
        return self.journal.append(event, stated, expected=self.journal.head())

    def start(self, version: int, weight: float = 0.1, **fields: Any) -> Entry:
        self.prepare(self.add("proposed", version))
        return self.add("started", version, **{"step": 0, "weight": weight, "num_rows": 0, "cap": None, **fields})

    def prepare(self, proposal: Entry, node: str = "gateway-a", error: str | None = None) -> None:
        record = PreparationRecord(
            node=node,
            ok=error is None,
            error=error,
            seconds=14.2,
            members=() if error else ("judge", "writer"),
            at=self.clock.now(),
        )
        write_preparation(self.store, self.name, proposal.number, record)

    def lease(self, *counts: int) -> None:
        """Units leased to the candidate, lease by lease."""
        state = fold(self.journal.entries())
        assert state is not None
        leases = CapLeases(self.store, self.name, self.clock)
        for count in counts:
            assert leases.take(state.trial, sum(counts), count=count, by="g") == count

    def promote(self, version: int) -> Entry:
        self.start(version)
        return self.add("promoted", version, num_rows=100, reason="as good <and> faster | truly")

    def abort(self, version: int, **fields: Any) -> Entry:
        self.start(version)
        return self.add("aborted", version, **{"num_rows": 50, "evict": True, "reason": "8.1% fail", **fields})

    def edit(self, number: int, **fields: Any) -> None:
        """As somebody with a text editor does."""
        file = self.store.directory / f"rollout/{self.name}/journal/{number:08d}.json"
        body = json.loads(file.read_bytes())
        body["fields"].update(fields)
        file.chmod(0o644)
        file.write_bytes(canonical_json(body))


def make_long_scene(directory: Path, name: str = "support") -> Scene:
    """Set 2 promoted after a pause, set 3 rolled back, set 4 on trial at 25% of 50%."""
    scene = Scene(directory, name)
    scene.start(2, weight=0.05, cap=500)
    interventions.pause(scene.journal, by="ana", reason="the corpus is being repaired <until noon>")
    interventions.resume(scene.journal, by="ana", reason="repaired")
    scene.add("advanced", 2, step=1, weight=0.5, cap=None, num_rows=400)
    scene.add("promoted", 2, num_rows=4000, reason="not inferior")
    scene.abort(3, reason="share of failed units: 8.1% against 1.2%")
    scene.start(4, weight=0.05, cap=500)
    scene.add("advanced", 4, step=1, weight=0.25, cap=2000, num_rows=420)
    scene.lease(500, 384)
    scene.clock.advance(2400)
    return scene
