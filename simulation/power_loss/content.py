"""Power loss in bulk generation: a partition's claims and its micro-batches."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from headrace.clock import SystemClock
from headrace.engines.rows import GenerationRequest
from headrace.errors import RepinRequired
from headrace.generation.claim_objects import Claim
from headrace.generation.micro_batches import committed, read_commit
from headrace.generation.requests import plan_micro_batches, rows_for
from headrace.handoff.row_tables import CONTENT
from headrace.rollout.states import ABORTED, INITIALIZED, PROPOSED, STARTED
from headrace.store.local import LocalStore
from simulation.campaign_site import CampaignSite, EchoRows, make_campaign
from simulation.faults.cases import Tally

_NUM_PROMPTS = 7
_CAMPAIGN = make_campaign(num_shards=1)


def _site(store: LocalStore) -> CampaignSite:
    return CampaignSite(store, _CAMPAIGN, SystemClock(), leased=False)


def content_template(store: LocalStore) -> None:
    """A stable set, a candidate that gets every partition, and prompts."""
    site = _site(store)
    site.roll_out(INITIALIZED, 1)
    site.roll_out(PROPOSED, 2)
    site.roll_out(STARTED, 2, step=0, weight=1.0, cap=3)
    site.put_prompts(0, [f"Define word {number}." for number in range(_NUM_PROMPTS)])


def claims_work(store: LocalStore, tell: Callable[..., None]) -> None:
    """A claim on the candidate, which is rolled back; the next attempt, sealed; and one more, on the same set."""
    site = _site(store)
    tell("claimed", run="run-1", claim=asdict(site.claim("run-1")))
    site.roll_out(ABORTED, 2)
    tell("aborted")
    second = site.claim("run-1")
    tell("claimed", run="run-1", claim=asdict(second))
    _settled(site, tell, second)
    tell("settled", claim=asdict(second), outcome=site.claims.settle(second, "sealed", "all are committed").outcome)
    third = site.claim("run-2", regenerate="keep_set")
    tell("claimed", run="run-2", claim=asdict(third))
    tell("settled", claim=asdict(third), outcome=site.claims.settle(third, "void", "as the work has it").outcome)


def _settled(site: CampaignSite, tell: Callable[..., None], claim: Claim) -> None:
    """The claims that opening `claim` has settled before."""
    for before in site.claims.attempts(claim.partition, claim.inputs_digest):
        if settlement := site.claims.settlement(before):
            tell("settled", claim=asdict(before), outcome=settlement.outcome)


def claims_check(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    site = _site(store)
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
        again = site.claim(run)
        if again.attempt < claim.attempt or again.inputs != claim.inputs:
            tally.wrong("lost", f"{run} had attempt {claim.attempt}, and goes on with attempt {again.attempt}")
        if is_aborted and again.version_set == site.version_set(2).id:
            tally.wrong("lost", "a set that was rolled back gets a partition")
    _check_goes_on(site, tally)


def batches_work(store: LocalStore, tell: Callable[..., None]) -> None:
    """Two attempts, the second on the stable set, after the first became void half-way."""
    site = _site(store)
    first = site.claim("run-1")
    num_calls = 0

    def note() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            site.roll_out(ABORTED, 2)
        elif num_calls < 3:
            tell("committed", claim=asdict(first), batches=sorted(committed(store, first)))

    try:
        site.generate(first, before=note)
    except RepinRequired:
        tell("void", claim=first.id)
    second = site.claim("run-1")
    outcome = site.generate(
        second, before=lambda: tell("committed", claim=asdict(second), batches=sorted(committed(store, second)))
    )
    tell("sealed", version=outcome.content.version, digest=outcome.content.content_digest)
    outcome = site.generate(site.claim("run-2", regenerate="keep_set"))
    tell("sealed", version=outcome.content.version, digest=outcome.content.content_digest)


def batches_check(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    site = _site(store)
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
            content = site.handoffs.open(CONTENT, site.partition().key, one["version"])
            content.verify()
            if content.content_digest != one["digest"]:
                tally.wrong("silent", f"v{one['version']} has other content than was sealed")
    for claim in site.claims.attempts(site.partition().key, site.claim("run-3").inputs_digest):
        prompts = site.prompts(version=claim.inputs["prompts"])
        plan = plan_micro_batches(rows_for(prompts.table(), claim.version_set), claim.micro_batch_rows)
        for index in committed(store, claim):
            read_commit(store, claim, index, plan[index])
    _check_goes_on(site, tally)


def _check_goes_on(site: CampaignSite, tally: Tally) -> None:
    claim = site.claim("run-after")
    outcome = site.generate(claim)
    rows = outcome.content.table()
    if sorted(rows["position"].to_pylist()) != list(range(_NUM_PROMPTS)):
        tally.wrong("silent", "rows are missing, or doubled")
    if set(rows["version_set"].to_pylist()) != {claim.version_set}:
        tally.wrong("silent", "rows are of another set than their claim's")
    if rows["output"].to_pylist() != _outputs(site, claim):
        tally.wrong("silent", "rows hold something else than was generated")


def _outputs(site: CampaignSite, claim: Claim) -> list[str]:
    """The engine's output for each prompt, without micro-batches and their commits."""
    prompts = site.prompts(version=claim.inputs["prompts"])
    rows = rows_for(prompts.table(), claim.version_set)
    requests = [GenerationRequest(row_id=row.row_id, prompt=row.prompt, seed=row.seed) for row in rows]
    made = EchoRows.opened(site.sets.get(claim.version_set))
    try:
        return [one.text for one in made.generate(requests)]
    finally:
        made.close()
