"""Every order of runs, retries, kills, rollouts and new prompts that hypothesis can think of, on one partition.

And every order of claims, deaths, caps and rollouts on a day's partitions: no candidate gets more than its cap.
"""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import RepinRequired
from headrace.generation.claim_objects import Claim, run_pin_key
from headrace.generation.claims import Regenerate
from headrace.generation.mirroring import MirrorStopped
from headrace.generation.sealing import Superseded
from headrace.keys import row_id
from headrace.rollout.states import PAUSED, RESUMED, REWEIGHTED, STARTED, RolloutState
from tests.generation.builders import DAY, ScriptedEngine, Site, make_campaign, make_partition, make_prompts

LISTS = [["one", "two", "three"], ["one", "two", "three", "four"], ["five"]]


class Partition(RuleBasedStateMachine):
    """One partition and the runs that work on it. A run is named by its root run id; a killed one may come back."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.site = Site(Path(self.directory.name), campaign=make_campaign(num_shards=2), partition=make_partition())
        self.num_models = 1
        self.num_runs = 0
        self.held: dict[str, Claim] = {}
        self.regenerates: dict[str, Regenerate | None] = {}
        self.pinned: dict[str, str] = {}
        # Sets that were rolled back before the claim was settled, by claim.
        self.void: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self.site.initialize()
        self.site.put_prompts(LISTS[0])

    @rule(texts=st.sampled_from(LISTS))
    def prompts_are_materialized(self, texts: list[str]) -> None:
        self.site.put_prompts(texts)

    @rule(regenerate=st.sampled_from([None, None, "keep_set", "current_set", "rolled_back"]))
    def a_run_begins(self, regenerate: Regenerate | None) -> None:
        self.num_runs += 1
        run = f"run-{self.num_runs}"
        self.regenerates[run] = regenerate
        self._open(run)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_run_is_retried(self, data: st.DataObject) -> None:
        self._open(data.draw(st.sampled_from(sorted(self.held))))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), num_batches=st.integers(0, 2))
    def a_run_is_killed_between_batches(self, data: st.DataObject, num_batches: int) -> None:
        engine = ScriptedEngine()

        def die() -> None:
            if len(engine.batches) == num_batches:
                raise KeyboardInterrupt

        engine.before = die
        self._work(data.draw(st.sampled_from(sorted(self.held))), engine)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_run_works_to_its_end(self, data: st.DataObject) -> None:
        self._work(data.draw(st.sampled_from(sorted(self.held))), ScriptedEngine())

    @precondition(lambda self: self.state.candidate is None)
    @rule(weight=st.sampled_from([0.5, 1.0]), cap=st.sampled_from([None, 1]))
    def a_candidate_starts(self, weight: float, cap: int | None) -> None:
        self.num_models += 1
        self.site.start(self.num_models, weight, cap)

    @precondition(lambda self: self.state.candidate is not None)
    @rule(promoted=st.booleans())
    def the_verdict_falls(self, promoted: bool) -> None:
        if promoted and not self.state.paused:
            self.site.promote(self.num_models)
        else:
            self.site.abort(self.num_models)

    @precondition(lambda self: self.state.candidate is not None)
    @rule()
    def somebody_pauses_or_resumes(self) -> None:
        self.site.roll_out(RESUMED if self.state.paused else PAUSED, self.num_models)

    @precondition(lambda self: self.state.candidate is not None)
    @rule(weight=st.sampled_from([0.0, 0.5, 1.0]))
    def somebody_sets_the_weight(self, weight: float) -> None:
        before = {run: self.site.claims.settlement(claim) for run, claim in self.held.items()}
        self.site.roll_out(REWEIGHTED, self.num_models, weight=weight)
        # What is under way keeps its pin, whatever its partition would get now.
        for run, settlement in before.items():
            if settlement is None and self.held[run].version_set not in self.state.aborted:
                assert self.site.open_claim(run, self.regenerates[run]) == self.held[run]

    @rule(data=st.data(), num_batches=st.sampled_from([0, 1, None]), is_aborted=st.booleans())
    def a_mirror_runs(self, data: st.DataObject, num_batches: int | None, is_aborted: bool) -> None:
        """On any set that was ever named; killed after some batches, or the candidate is aborted meanwhile."""
        if not self.site.handoffs.versions("generated_content", self.site.partition.key):
            return
        wanted = data.draw(st.sampled_from(sorted(self.state.considered)))
        engine = ScriptedEngine()

        def interfere() -> None:
            if num_batches is not None and len(engine.batches) == num_batches:
                if not is_aborted or self.state.candidate is None:
                    raise KeyboardInterrupt
                self.site.abort(self.num_models)

        engine.before = interfere
        run = data.draw(st.sampled_from(["mirror-1", "mirror-2", "mirror-3"]))
        # A run that was begun before goes on with its own set.
        key = run_pin_key(self.site.partition.key, run, "mirror")
        pinned = json.loads(self.site.objects.read(key))["version_set"] if self.site.objects.exists(key) else wanted
        was_aborted = pinned in self.state.aborted
        sealed = self.site.handoffs.versions("mirrored_content", self.site.partition.key)
        try:
            mirror = self.site.mirror(wanted, engine=engine, root_run_id=run)
        except KeyboardInterrupt:
            return
        except MirrorStopped:
            assert pinned in self.state.aborted
            return
        assert mirror.content.attributes["version_set"] == pinned
        assert mirror.comparison.num_rows == mirror.content.num_rows == mirror.published.num_rows
        assert not was_aborted or mirror.content.version in sealed

    @property
    def state(self) -> RolloutState:
        return self.site.state

    def _open(self, run: str) -> None:
        claim = self.site.open_claim(run, self.regenerates[run])
        # Whatever happened since, a run reads the prompts that it pinned first.
        assert self.pinned.setdefault(run, claim.inputs_digest) == claim.inputs_digest
        settlement = self.site.claims.settlement(claim)
        if settlement is None:
            assert claim.version_set not in self.state.aborted
        else:
            assert settlement.outcome == "sealed"
        self.held[run] = claim

    def _work(self, run: str, engine: ScriptedEngine) -> None:
        claim = self.held[run]
        before = self.site.claims.settlement(claim)
        versions = self.site.handoffs.versions("generated_content", self.site.partition.key)
        try:
            outcome = self.site.generate(claim, engine=engine)
        except KeyboardInterrupt:
            return
        except Superseded:
            # Another attempt's rows, or those of newer prompts, are what readers have, and stay so.
            newest = self.site.handoffs.newest("generated_content", self.site.partition.key)
            assert newest is not None
            assert newest.attributes["claim"] != claim.id
            assert self.site.handoffs.versions("generated_content", self.site.partition.key) == versions
            return
        except RepinRequired:
            # Rolled back; or void since newer prompts were published, which are by now what they were before.
            if before is None:
                assert claim.version_set in self.state.aborted
            else:
                assert before.outcome == "void"
            return
        assert before is not None or claim.version_set not in self.state.aborted
        assert outcome.content.attributes["claim"] == claim.id

    @invariant()
    def every_version_is_whole_and_of_one_set(self) -> None:
        handoffs, key = self.site.handoffs, self.site.partition.key
        for number in handoffs.versions("generated_content", key):
            content = handoffs.open("generated_content", key, number)
            version_set = content.attributes["version_set"]
            prompts_version = int(content.manifest.input_versions[f"prompts[{key}]"].split()[0][1:])
            prompts = handoffs.open("prompts", key, prompts_version).table().to_pylist()
            assert content.table()["row_id"].to_pylist() == [
                row_id(one["prompt_id"], version_set, 0) for one in prompts
            ]
            assert set(content.table()["version_set"].to_pylist()) == {version_set}
            assert handoffs.find("execution", key, claim=content.attributes["claim"])

    @invariant()
    def a_mirror_is_whole_and_nothing_that_anybody_reads(self) -> None:
        handoffs, key = self.site.handoffs, self.site.partition.key
        for number in handoffs.versions("mirrored_content", key):
            mirrored = handoffs.open("mirrored_content", key, number)
            assert set(mirrored.table()["version_set"].to_pylist()) == {mirrored.attributes["version_set"]}
            assert handoffs.find("generated_content", key, claim=mirrored.attributes["claim"]) is None

    @invariant()
    def a_void_attempt_that_was_replaced_has_no_batches(self) -> None:
        if not self.held:
            return
        key = self.site.partition.key
        for digest in {claim.inputs_digest for claim in self.held.values()}:
            for claim in self.site.claims.attempts(key, digest)[:-1]:
                settlement = self.site.claims.settlement(claim)
                if settlement is not None and settlement.outcome == "void":
                    assert self.site.objects.list(claim.batches_prefix) == []

    @invariant()
    def a_void_claim_has_no_version(self) -> None:
        handoffs, key = self.site.handoffs, self.site.partition.key
        digests = {claim.inputs_digest for claim in self.held.values()}
        for claim in (one for digest in digests for one in self.site.claims.attempts(key, digest)):
            settlement = self.site.claims.settlement(claim)
            published = handoffs.find("generated_content", key, claim=claim.id)
            assert not (published and (settlement is None or settlement.outcome == "void"))

    def teardown(self) -> None:
        self.directory.cleanup()


TestPartition = pytest.mark.timeout(900)(Partition.TestCase)


class Day(RuleBasedStateMachine):
    """Six partitions that several processes claim at once, and a candidate whose cap moves. Claims, no rows."""

    NUM_SHARDS = 6

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        campaign = make_campaign(num_shards=self.NUM_SHARDS)
        self.processes = [Site(Path(self.directory.name), campaign=campaign) for _ in range(3)]
        self.num_models = 1
        self.num_runs = 0
        # Trial → the highest cap it ever had; sets pinned by claim, as first seen.
        self.caps: dict[int, int] = {}
        self.pins: dict[str, str] = {}

    @initialize()
    def begin(self) -> None:
        site = self.processes[0]
        site.initialize()
        for shard in range(self.NUM_SHARDS):
            site.partition = make_partition(shard)
            site.put_prompts(["one"])

    @rule(process=st.integers(0, 2), shard=st.integers(0, NUM_SHARDS - 1), dies_at=st.none() | st.integers(0, 4))
    def a_partition_is_claimed(self, process: int, shard: int, dies_at: int | None) -> None:
        site = self.processes[process]
        site.partition = make_partition(shard)
        self.num_runs += 1
        create = site.objects.create
        num_created = 0

        def dying(key: str, body: bytes, *, durable: bool = True) -> bool:
            nonlocal num_created
            if num_created == dies_at:
                raise KeyboardInterrupt
            num_created += 1
            return create(key, body, durable=durable)

        site.objects.create = dying
        try:
            claim = site.open_claim(f"run-{self.num_runs}")
        except KeyboardInterrupt:
            return
        finally:
            site.objects.create = create
        assert claim.version_set not in self.state.aborted

    @precondition(lambda self: self.state.candidate is None)
    @rule(weight=st.sampled_from([0.5, 1.0]), cap=st.integers(1, 4))
    def a_candidate_starts(self, weight: float, cap: int) -> None:
        self.num_models += 1
        self.processes[0].start(self.num_models, weight, cap)
        self.caps[self.state.trial] = cap

    @precondition(lambda self: self.state.candidate is not None)
    @rule(weight=st.sampled_from([0.0, 0.5, 1.0]), cap=st.integers(1, 5))
    def weight_and_cap_are_set(self, weight: float, cap: int) -> None:
        self.processes[1].roll_out(REWEIGHTED, self.num_models, weight=weight, cap=cap)
        self.caps[self.state.trial] = max(cap, self.caps[self.state.trial])

    @precondition(lambda self: self.state.candidate is not None)
    @rule()
    def the_candidate_is_aborted(self) -> None:
        self.processes[2].abort(self.num_models)

    @property
    def state(self) -> RolloutState:
        return self.processes[0].state

    @invariant()
    def no_candidate_gets_more_partitions_than_its_cap(self) -> None:
        site, started = self.processes[0], dict[str, set[str]]()
        for key in site.objects.list("claims"):
            if "/runs/" in key or key.endswith(".settled.json"):
                continue
            body = json.loads(site.objects.read(key))
            started.setdefault(body["version_set"], set()).add(body["partition"])
            # A claim's pin never changes.
            assert self.pins.setdefault(key, body["version_set"]) == body["version_set"]
        for entry in site.journal.entries():
            if entry.event == STARTED:
                assert len(started.get(entry.fields["version_set"], ())) <= self.caps[entry.number]

    @invariant()
    def the_launcher_expects_what_the_claims_will_decide(self) -> None:
        site, state = self.processes[0], self.state
        if state.candidate is None:
            return
        keys = site.campaign.partition_keys(DAY)
        places = site.claims.places(state, keys)
        assert places
        assert len(places.taken) + places.num_left <= max(self.caps[state.trial], len(places.taken))

    def teardown(self) -> None:
        self.directory.cleanup()


TestDay = pytest.mark.timeout(900)(Day.TestCase)


def test_the_lists_of_the_model_are_valid_prompts() -> None:
    assert [make_prompts(texts).num_rows for texts in LISTS] == [3, 4, 1]
