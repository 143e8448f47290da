"""Every order of runs, retries, kills, rollouts and new prompts that hypothesis can think of, on one partition."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import RepinRequired
from headrace.generation.claims import Claim, Regenerate
from headrace.keys import row_id
from headrace.rollout.states import fold
from tests.generation.builders import ScriptedEngine, Site, make_campaign, make_partition, make_prompts

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

    @rule(regenerate=st.sampled_from([None, None, "keep_set", "current_set"]))
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
    @rule(weight=st.sampled_from([0.5, 1.0]))
    def a_candidate_starts(self, weight: float) -> None:
        self.num_models += 1
        self.site.start(self.num_models, weight)

    @precondition(lambda self: self.state.candidate is not None)
    @rule(promoted=st.booleans())
    def the_verdict_falls(self, promoted: bool) -> None:
        self.site.promote(self.num_models) if promoted else self.site.abort(self.num_models)

    @property
    def state(self):
        state = fold(self.site.journal.entries())
        assert state
        return state

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
        try:
            outcome = self.site.generate(claim, engine=engine)
        except KeyboardInterrupt:
            return
        except RepinRequired:
            assert claim.version_set in self.state.aborted
            assert before is None or before.outcome == "void"
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
    def a_void_claim_has_no_version(self) -> None:
        handoffs, key = self.site.handoffs, self.site.partition.key
        digests = {claim.inputs_digest for claim in self.held.values()}
        for claim in (one for digest in digests for one in self.site.claims.attempts(key, digest)):
            settlement = self.site.claims.settlement(claim)
            published = handoffs.find("generated_content", key, claim=claim.id)
            assert not (published and (settlement is None or settlement.outcome == "void"))

    def teardown(self) -> None:
        self.directory.cleanup()


Partition.TestCase.settings = settings(
    max_examples=25, stateful_step_count=14, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestPartition = pytest.mark.timeout(120)(Partition.TestCase)


def test_the_lists_of_the_model_are_valid_prompts() -> None:
    assert [make_prompts(texts).num_rows for texts in LISTS] == [3, 4, 1]
