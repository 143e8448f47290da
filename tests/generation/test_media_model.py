"""Every order of runs, kills at any write, rollouts, new prompts, damage and collections on a chain that hypothesis can
think of. The writer writes something else each time: so a picture of another text than its row's is found out.
"""

import os
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.engines.deployment import Deployment
from headrace.engines.media_rows import MediaRequest, open_media_rows
from headrace.engines.rows import GenerationRequest, GenerationResult
from headrace.errors import HandoffCollected, PartMissing, RepinRequired
from headrace.generation.claim_pins import read_claim_pins
from headrace.generation.claims import Regenerate
from headrace.generation.mirroring import MirrorStopped
from headrace.generation.sealed_tables import MEDIA_OF, MIRRORED, TABLES_OF
from headrace.generation.sealing import Superseded
from headrace.generation.steps import steps_of
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.versions import Handoff
from headrace.keys import row_id, row_seed
from headrace.rollout.states import ABORTED, INITIALIZED, PROMOTED
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.version_sets.sets import VersionSet, VersionSets
from tests.generation.builders import make_prompts
from tests.generation.media_builders import MediaSite, make_media_campaign, start
from tests.mortal_store import Killed, MortalStore

LISTS = [["one", "two", "three"], ["one", "two", "three", "four"]]


class Fickle:
    """Writes something else each time."""

    name, build, deterministic = "echo", "", False
    num_asked = 0

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        return [self._written(one) for one in requests]

    def _written(self, request: GenerationRequest) -> GenerationResult:
        Fickle.num_asked += 1
        text = f"{request.prompt}, {Fickle.num_asked}"
        return GenerationResult(text=text, num_prompt_tokens=1, num_output_tokens=2, finish_reason="stop")

    def close(self) -> None:
        pass


class Makers:
    """What the echo engine makes of a text, asked once each."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.made: dict[tuple[str, str, str, int], bytes] = {}

    def of(self, version_set: VersionSet, role: str, text: str, seed: int) -> bytes:
        key = (version_set.member(role).weights_digest, role, text, seed)
        if key not in self.made:
            rows = open_media_rows(version_set, role, self.objects, Deployment())
            [result] = rows.generate([MediaRequest(row_id="oracle", text=text, seed=seed)])
            rows.close()
            assert result.content
            self.made[key] = result.content
        return self.made[key]


class Chain(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # Nonces decide the order of listings, so what a killed writer leaves: the same in each replay.
        drawn = count()
        self.nonces = patch.object(os, "urandom", lambda size: next(drawn).to_bytes(size, "big"))
        self.nonces.start()
        self.directory = tempfile.TemporaryDirectory()
        self.site = MediaSite(Path(self.directory.name), campaign=make_media_campaign(), open_store=MortalStore)
        self.oracle = Makers(LocalStore(Path(self.directory.name)))
        self.num_runs = 0
        self.regenerates: dict[str, Regenerate | None] = {}
        self.candidate: VersionSet | None = None
        self.num_sets = 1
        # Claims of which a table was damaged since it was sealed.
        self.damaged: set[str] = set()

    @property
    def store(self) -> Any:
        return self.site.objects

    @initialize()
    def begin(self) -> None:
        self.site.roll_out_set(INITIALIZED, self.site.make_set())
        self.site.seal_prompts(make_prompts(LISTS[0]))

    @rule(texts=st.sampled_from(LISTS))
    def prompts_are_materialized(self, texts: list[str]) -> None:
        self.site.seal_prompts(make_prompts(texts))

    @rule(
        data=st.data(),
        is_new=st.booleans(),
        regenerate=st.sampled_from([None, None, "keep_set", "current_set", "rolled_back"]),
        kind=st.sampled_from(["text", "image", "speech", None]),
        dies_after=st.one_of(st.none(), st.integers(0, 25)),
    )
    def a_run_works(
        self, data: st.DataObject, is_new: bool, regenerate: Regenerate | None, kind: Any, dies_after: int | None
    ) -> None:
        if is_new or not self.regenerates:
            self.num_runs += 1
            self.regenerates[f"run-{self.num_runs}"] = regenerate
        self._work(data.draw(st.sampled_from(sorted(self.regenerates))), kind, dies_after)

    def _work(self, run: str, kind: Any, dies_after: int | None) -> None:
        self.store.num_left = dies_after
        try:
            claim = self.site.open_claim(run, self.regenerates.get(run))
            outcome = self.site.generate(claim, up_to=kind, open_engine=lambda _: Fickle())
        except (Killed, RepinRequired, Superseded):
            return
        finally:
            self.store.num_left = None
        if outcome.sealed:
            self.damaged.discard(claim.id)
            assert outcome.content.attributes["claim"] == claim.id

    @precondition(lambda self: self.candidate is None)
    @rule(role=st.sampled_from(["writer", "painter", "speaker"]))
    def a_candidate_starts(self, role: str) -> None:
        self.num_sets += 1
        self.candidate = self.site.make_set(**{role: self.num_sets})
        start(self.site, self.candidate)

    @precondition(lambda self: self.candidate is not None)
    @rule(event=st.sampled_from([PROMOTED, ABORTED]))
    def the_verdict_falls(self, event: str) -> None:
        assert self.candidate
        self.site.roll_out_set(event, self.candidate)
        self.candidate = None

    @rule(dies_after=st.one_of(st.none(), st.integers(0, 25)), run=st.sampled_from(["mirror-1", "mirror-2"]))
    def a_mirror_runs(self, dies_after: int | None, run: str) -> None:
        if not self.site.handoffs.newest(CONTENT, self.site.partition.key) or not self.candidate:
            return
        self.store.num_left = dies_after
        try:
            work: dict[str, Any] = {"open_engine": lambda _: Fickle(), "open_media": self.site.open_media}
            mirror = self.site.mirror(self.candidate.id, root_run_id=run, **work)
        except (Killed, MirrorStopped, Superseded, HandoffCollected):
            return
        except PartMissing:
            # It compares with what was published, and repairs what it makes itself alone.
            assert self.damaged & {one.attributes["claim"] for one in self._versions(CONTENT)}
            return
        finally:
            self.store.num_left = None
        self.damaged.discard(mirror.outcome.claim.id)
        assert mirror.comparison.num_rows == mirror.content.num_rows

    @rule(data=st.data(), is_collected=st.booleans(), is_repaired=st.booleans())
    def a_shard_is_lost(self, data: st.DataObject, is_collected: bool, is_repaired: bool) -> None:
        kinds = MEDIA_OF["content"][0].values()
        owners = {one.manifest.nonce: one.attributes["claim"] for kind in kinds for one in self._versions(kind)}
        shards = {
            key: claim
            for key in self.store.list("handoff")
            for nonce, claim in owners.items()
            if f"/{nonce}/" in key and "shard" in key.rpartition("/")[2]
        }
        if not shards:
            return
        if is_collected:
            # Then its micro-batches are gone, too.
            self.garbage_is_collected()
        key = data.draw(st.sampled_from(sorted(shards)))
        self.damaged.add(shards[key])
        self.store.delete(key)
        if is_repaired:
            self._work("run-repair", None, None)

    @rule()
    def garbage_is_collected(self) -> None:
        collect(self.store, self.site.clock, plan_collection(self.store, self.site.clock, grace_seconds=-1.0))

    def _versions(self, asset: str) -> list[Handoff]:
        handoffs, key = self.site.handoffs, self.site.partition.key
        return [handoffs.open(asset, key, number) for number in handoffs.versions(asset, key)]

    @invariant()
    def every_version_is_whole_and_its_parts_are_of_its_texts(self) -> None:
        for asset in (CONTENT, MIRRORED):
            for content in self._versions(asset):
                self._check(content)

    def _check(self, content: Handoff) -> None:
        kind = "content" if content.asset == CONTENT else "mirror"
        claim, key, handoffs = content.attributes["claim"], content.partition, self.site.handoffs
        version_set = VersionSets(self.store).get(content.attributes["version_set"])
        rows = {row["row_id"]: row for row in content.table().to_pylist()}
        assert list(rows) == [row_id(row["prompt_id"], version_set.id, 0) for row in rows.values()]
        execution = handoffs.find(TABLES_OF[kind][1], key, claim=claim)
        assert execution
        assert execution.table()["row_id"].to_pylist() == list(rows)
        if claim in self.damaged:
            return
        tables, making_asset = MEDIA_OF[kind]
        making = handoffs.find(making_asset, key, claim=claim)
        assert making
        made = {(one["row_id"], one["role"]): one for one in making.table().to_pylist()}
        assert len(made) == making.num_rows == 2 * len(rows)
        for step in steps_of(version_set)[1:]:
            index = handoffs.find(tables[step.kind], key, claim=claim)
            assert index
            media = MediaSet.open(index)
            assert list(media.ids()) == [f"{row}/{step.role}" for row in rows]
            for identity, row in rows.items():
                asked = f"{row['output']}, as {row['prompt']}" if step.kind == "image" else row["output"]
                seed = row_seed(row_id(row["prompt_id"], step.led_to_by, 0))
                one = made[identity, step.role]
                assert (one["asked"], one["seed"]) == (asked, seed)
                assert media.read(f"{identity}/{step.role}") == self.oracle.of(version_set, step.role, asked, seed)

    @invariant()
    def nothing_is_visible_of_a_claim_that_is_not_settled(self) -> None:
        sealed = {one.id for one in read_claim_pins(self.store).settled if one.is_sealed}
        for asset in (CONTENT, *MEDIA_OF["content"][0].values()):
            assert {one.attributes["claim"] for one in self._versions(asset)} <= sealed

    def teardown(self) -> None:
        self.nonces.stop()
        self.directory.cleanup()


TestChain = pytest.mark.timeout(900)(Chain.TestCase)
