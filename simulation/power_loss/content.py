"""Power loss over bulk generation: who makes a partition (claims), and what was made of it so far (micro-batches)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from headrace.clock import SystemClock
from headrace.engines.chain import RoleChain
from headrace.engines.echo import EchoEngine
from headrace.engines.roles import EngineSettings
from headrace.engines.rows import ChainRows, GenerationRequest, GenerationResult
from headrace.errors import RepinRequired
from headrace.generation.bulk import Outcome, Worker, generate_partition
from headrace.generation.campaign import Campaign, PromptSource
from headrace.generation.claims import Claim, Claims, Regenerate
from headrace.generation.micro_batches import committed, read_commit
from headrace.generation.requests import plan_micro_batches, rows_for
from headrace.generation.sealing import CONTENT
from headrace.handoff.schemas import PROMPTS
from headrace.handoff.versions import HandoffStore
from headrace.keys import ContentPartition, prompt_id
from headrace.rollout.journal import Journal
from headrace.rollout.states import ABORTED, INITIALIZED, PROPOSED, STARTED
from headrace.rollout.version_sets import Decoding, VersionSets
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from simulation.faults.cases import Tally

_DAY = "2026-11-22"
_NUM_PROMPTS = 7
_CAMPAIGN = Campaign(
    name="glossary",
    model="words",
    num_shards=1,
    prompts=PromptSource(files="prompts.jsonl", per_shard=_NUM_PROMPTS),
    decoding=Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8),
    engine=EngineSettings(name="echo"),
    micro_batch_rows=2,
)
_PARTITION = ContentPartition(day=_DAY, campaign="glossary", shard=0)
_SETS = {
    number: _CAMPAIGN.version_set(model_version=str(number), weights_digest=f"weights {number}", weights_uri="")
    for number in (1, 2)
}


class _Site:
    def __init__(self, objects: ObjectStore) -> None:
        clock = SystemClock()
        self.objects = objects
        self.handoffs = HandoffStore(objects, clock, leased=False)
        self.journal = Journal(objects, _CAMPAIGN.name, clock)
        self.claims = Claims(objects=objects, journal=self.journal, clock=clock)

    def roll_out(self, event: str, number: int, **fields: Any) -> None:
        VersionSets(self.objects).put(_SETS[number])
        body = {"version_set": _SETS[number].id, "weights_digest": f"weights {number}", "reason": "measured"}
        self.journal.append(event, body | {"num_rows": 0} | fields, expected=self.journal.head())

    def open(self, run: str, regenerate: Regenerate | None = None) -> Claim:
        prompts = self.handoffs.open("prompts", _PARTITION.key)
        return self.claims.open(_CAMPAIGN, _PARTITION, prompts, root_run_id=run, regenerate=regenerate)

    def generate(self, claim: Claim, before: Callable[[], None] = lambda: None) -> Outcome:
        return generate_partition(
            claim,
            campaign=_CAMPAIGN,
            claims=self.claims,
            handoffs=self.handoffs,
            open_engine=lambda version_set: _Engine(version_set, before),
            worker=Worker(run_id="run", host="node"),
            monotonic=lambda: 0.0,
        )


class _Engine(ChainRows):
    def __init__(self, version_set: Any, before: Callable[[], None]) -> None:
        engines = {"writer": EchoEngine(version_set.member("writer"))}
        super().__init__(RoleChain.of(version_set, ("writer",), engines))
        self._before = before

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        self._before()
        return super().generate(requests)


def content_template(store: LocalStore) -> None:
    """A stable set, a candidate that gets every partition, and prompts."""
    site = _Site(store)
    site.roll_out(INITIALIZED, 1)
    site.roll_out(PROPOSED, 2)
    site.roll_out(STARTED, 2, step=0, weight=1.0, cap=3)
    texts = [f"Define word {number}." for number in range(_NUM_PROMPTS)]
    ids = [prompt_id("glossary", _DAY, text, 0) for text in texts]
    rows = pa.table([ids, list(range(len(texts))), texts, [None] * len(texts)], schema=PROMPTS)
    site.handoffs.publish("prompts", _PARTITION.key, rows, code_version="1", run_id="prompts")


def claims_work(store: LocalStore, tell: Callable[..., None]) -> None:
    """A claim on the candidate, which is rolled back; the next attempt, sealed; one more, on the same set."""
    site = _Site(store)
    tell("claimed", run="run-1", claim=asdict(site.open("run-1")))
    site.roll_out(ABORTED, 2)
    tell("aborted")
    second = site.open("run-1")
    tell("claimed", run="run-1", claim=asdict(second))
    _settled(site, tell, second)
    tell("settled", claim=asdict(second), outcome=site.claims.settle(second, "sealed", "all are committed").outcome)
    third = site.open("run-2", "keep_set")
    tell("claimed", run="run-2", claim=asdict(third))
    tell("settled", claim=asdict(third), outcome=site.claims.settle(third, "void", "as the work has it").outcome)


def _settled(site: _Site, tell: Callable[..., None], claim: Claim) -> None:
    """What opening `claim` has settled before."""
    for before in site.claims.attempts(claim.partition, claim.inputs_digest):
        if settlement := site.claims.settlement(before):
            tell("settled", claim=asdict(before), outcome=settlement.outcome)


def claims_check(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    site = _Site(store)
    runs: dict[str, Claim] = {}
    for one in told:
        if one["what"] not in ("claimed", "settled"):
            continue
        claim = Claim(**one["claim"])
        if claim not in site.claims.attempts(claim.partition, claim.inputs_digest):
            tally.wrong("lost", f"attempt {claim.attempt} is not there, or is another one")
            continue
        settlement = site.claims.settlement(claim)
        if one["what"] == "settled" and (settlement is None or settlement.outcome != one["outcome"]):
            tally.wrong("lost", f"attempt {claim.attempt} was settled as {one['outcome']}, and is {settlement}")
        if one["what"] == "claimed":
            runs[one["run"]] = claim
    is_aborted = any(one["what"] == "aborted" for one in told)
    for run, claim in runs.items():
        again = site.open(run)
        if again.attempt < claim.attempt or again.inputs != claim.inputs:
            tally.wrong("lost", f"{run} had attempt {claim.attempt}, and goes on with attempt {again.attempt}")
        if is_aborted and again.version_set == _SETS[2].id:
            tally.wrong("lost", "a set that was rolled back gets a partition")
    _check_goes_on(site, tally)


def batches_work(store: LocalStore, tell: Callable[..., None]) -> None:
    """Two attempts, the second on the stable set after the first was void in its middle."""
    site = _Site(store)
    first = site.open("run-1")
    num_calls = 0

    def note() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            site.roll_out(ABORTED, 2)
        elif num_calls < 3:
            tell("committed", claim=asdict(first), batches=sorted(committed(store, first)))

    try:
        site.generate(first, note)
    except RepinRequired:
        tell("void", claim=first.id)
    second = site.open("run-1")
    outcome = site.generate(
        second, lambda: tell("committed", claim=asdict(second), batches=sorted(committed(store, second)))
    )
    tell("sealed", version=outcome.content.version, digest=outcome.content.content_digest)
    outcome = site.generate(site.open("run-2", "keep_set"))
    tell("sealed", version=outcome.content.version, digest=outcome.content.content_digest)


def batches_check(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    site = _Site(store)
    void = {one["claim"] for one in told if one["what"] == "void"}
    for one in told:
        if one["what"] == "committed" and one["claim"]["id"] not in void:
            claim = Claim(**one["claim"])
            settlement = site.claims.settlement(claim)
            if settlement is not None and settlement.outcome == "void":
                continue  # its batches are dropped
            if missing := set(one["batches"]) - committed(store, claim):
                tally.wrong("lost", f"micro-batches {sorted(missing)} of attempt {claim.attempt} are not there")
        if one["what"] == "sealed":
            content = site.handoffs.open(CONTENT, _PARTITION.key, one["version"])
            content.verify()
            if content.content_digest != one["digest"]:
                tally.wrong("silent", f"v{one['version']} has other content than was sealed")
    for claim in site.claims.attempts(_PARTITION.key, site.open("run-3").inputs_digest):
        prompts = site.handoffs.open("prompts", _PARTITION.key, claim.inputs["prompts"])
        plan = plan_micro_batches(rows_for(prompts.table(), claim.version_set), claim.micro_batch_rows)
        for index in committed(store, claim):
            read_commit(store, claim, index, plan[index])
    _check_goes_on(site, tally)


def _check_goes_on(site: _Site, tally: Tally) -> None:
    claim = site.open("run-after")
    outcome = site.generate(claim)
    rows = outcome.content.table()
    if sorted(rows["position"].to_pylist()) != list(range(_NUM_PROMPTS)):
        tally.wrong("silent", "rows are missing, or doubled")
    if set(rows["version_set"].to_pylist()) != {claim.version_set}:
        tally.wrong("silent", "rows are of another set than their claim's")
    if rows["output"].to_pylist() != _outputs(site, claim):
        tally.wrong("silent", "rows hold something else than was generated")


def _outputs(site: _Site, claim: Claim) -> list[str]:
    """What the engine says to each prompt, without micro-batches and their commits."""
    (version_set,) = (one for one in _SETS.values() if one.id == claim.version_set)
    prompts = site.handoffs.open("prompts", _PARTITION.key, claim.inputs["prompts"])
    rows = rows_for(prompts.table(), claim.version_set)
    requests = [GenerationRequest(row_id=row.row_id, prompt=row.prompt, seed=row.seed) for row in rows]
    made = _Engine(version_set, lambda: None)
    try:
        return [one.text for one in made.generate(requests)]
    finally:
        made.close()
