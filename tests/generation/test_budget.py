"""A campaign's budget stops asking, says so and loses nothing; it changes no byte."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.prices import Price
from headrace.engines.roles import Role
from headrace.engines.rows import GenerationRequest, GenerationResult, RowMaker
from headrace.errors import BudgetSpent, InvalidCampaign, InvalidInput
from headrace.generation.budget import Budget
from headrace.generation.campaign import Campaign
from headrace.generation.micro_batches import committed
from headrace.generation.spending import Spending, Spent
from headrace.version_sets.sets import Decoding, VersionSet
from tests.generation.builders import TEXTS, ScriptedEngine, Site, make_campaign, make_partition, make_site

NUM_ROWS = len(TEXTS)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same partition, made without a budget in one run."""
    made = make_site(tmp_path_factory.mktemp("whole"))
    made.generate()
    return made


def with_budget(campaign: Campaign, prices: dict[str, Price] | None = None, **limits: Any) -> Campaign:
    return replace(campaign, budget=Budget(**limits), prices=prices or {})


def content_digest(site: Site) -> str:
    return site.handoffs.open("generated_content", site.partition.key).content_digest


def num_tokens(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["num_prompt_tokens"] + row["num_output_tokens"] for row in rows)


def spent_of(site: Site, **limits: Any) -> Spent:
    """What a worker that knows nothing yet counts for the day."""
    campaign = with_budget(site.campaign, **(limits or {"tokens": 10**9}))
    spending = Spending.of(site.open_claim("counting"), campaign, site.handoffs, lambda: 0.0)
    assert spending is not None
    spending.stop_if_spent(site.open_claim("counting"), (), num_made=0, num_asked=0)
    return sum((one.spent for one in spending._attempts.values()), Spent())


def no_engine(version_set: VersionSet) -> RowMaker:
    raise AssertionError("no engine should be opened")


def test_a_spent_budget_ends_the_run_behind_its_micro_batch_in_one_sentence(site: Site) -> None:
    engine = ScriptedEngine()
    with pytest.raises(BudgetSpent) as stopped:
        site.generate(engine=engine, campaign=with_budget(site.campaign, tokens=20))
    spent = spent_of(site).tokens
    assert len(engine.batches) == 1
    assert spent >= 20
    assert str(stopped.value) == (
        f"Campaign 'glossary' has spent its budget of tokens for 2026-11-22, {spent} of 20 tokens, and "
        "2 of 7 rows of 2026-11-22|glossary-00 are made. They stay: raise budget.tokens in the campaign's file and "
        "start the partition again, which makes the missing rows alone."
    )
    assert site.handoffs.newest("generated_content", site.partition.key) is None
    assert committed(site.objects, site.open_claim()) == {0}


def test_the_next_run_under_the_same_budget_loads_no_model(site: Site) -> None:
    campaign = with_budget(site.campaign, tokens=20)
    with pytest.raises(BudgetSpent):
        site.generate(campaign=campaign)
    with pytest.raises(BudgetSpent, match="2 of 7 rows"):
        site.generate(campaign=campaign, open_engine=no_engine)


@given(limits=st.lists(st.integers(1, 200), max_size=6))
def test_budgets_that_are_raised_end_with_the_bytes_of_one_run_and_ask_for_no_row_twice(
    tmp_path_factory: pytest.TempPathFactory, whole: Site, limits: list[int]
) -> None:
    site = make_site(tmp_path_factory.mktemp("raised"))
    rows = {row["prompt"]: num_tokens([row]) for row in whole.content_rows()}
    asked: list[list[str]] = []
    for limit in [*sorted(limits), 10**6]:
        engine, before = ScriptedEngine(), sum(rows[prompt] for batch in asked for prompt in batch)
        try:
            site.generate(engine=engine, campaign=with_budget(site.campaign, tokens=limit))
        except BudgetSpent:
            after = before + sum(rows[prompt] for batch in engine.batches for prompt in batch)
            assert after >= limit
        asked += engine.batches
        # Each micro-batch began below the budget.
        spent = before
        for batch in engine.batches:
            assert spent < limit
            spent += sum(rows[prompt] for prompt in batch)
    assert sorted(prompt for batch in asked for prompt in batch) == sorted(TEXTS)
    assert content_digest(site) == content_digest(whole)


def test_a_budget_that_just_suffices_stops_nothing(site: Site, whole: Site) -> None:
    site.generate(campaign=with_budget(site.campaign, tokens=num_tokens(whole.content_rows())))
    assert content_digest(site) == content_digest(whole)


def test_all_shards_of_a_day_share_its_budget_and_another_day_has_its_own(site: Site) -> None:
    site.generate()
    campaign = with_budget(site.campaign, tokens=num_tokens(site.content_rows()))
    neighbour = Site(site.directory, partition=make_partition(1))
    neighbour.put_prompts(["Define the noun lade."])
    with pytest.raises(BudgetSpent, match=r"0 of 1 rows of 2026-11-22\|glossary-01"):
        neighbour.generate(campaign=campaign, open_engine=no_engine)
    tomorrow = Site(site.directory, partition=make_partition(0, "2026-11-23"))
    tomorrow.put_prompts(["Define the noun lade."])
    assert tomorrow.generate(campaign=campaign).content.num_rows == 1


def test_what_a_partition_cost_that_a_lower_num_shards_left_behind_is_spent(site: Site) -> None:
    site.generate()
    spent = num_tokens(site.content_rows())
    left = Site(site.directory, partition=make_partition(1))
    left.put_prompts(TEXTS[:2])
    left.generate(left.open_claim("run-2"))
    lowered = replace(site, campaign=replace(site.campaign, num_shards=1))
    assert spent_of(lowered).tokens == spent + num_tokens(left.content_rows())


def test_what_another_shard_spends_meanwhile_counts_at_the_next_look(site: Site) -> None:
    neighbour = Site(site.directory, partition=make_partition(1))
    neighbour.put_prompts()
    now = [0.0]

    def others_work() -> None:
        if not neighbour.handoffs.newest("generated_content", neighbour.partition.key):
            neighbour.generate(neighbour.open_claim("run-2"))
        now[0] += 11.0

    engine = ScriptedEngine(before=others_work)
    campaign = with_budget(site.campaign, tokens=60)
    with pytest.raises(BudgetSpent):
        site.generate(engine=engine, campaign=campaign, monotonic=lambda: now[0])
    assert len(engine.batches) == 1


def test_every_attempt_counts_and_tables_count_where_micro_batches_are_collected(site: Site) -> None:
    site.generate()
    once = spent_of(site)
    assert once.tokens == num_tokens(site.content_rows())
    assert once.num_unknown == 0
    for claim in site.claims.attempts(site.partition.key, site.open_claim().inputs_digest):
        site.objects.delete_prefix(claim.batches_prefix)
    assert spent_of(site) == once
    site.generate(site.open_claim("run-2", "keep_set"))
    assert spent_of(site).tokens == 2 * once.tokens


def test_a_killed_workers_micro_batches_count_and_a_rolled_back_attempts_do_not(site: Site) -> None:
    site.start(2)

    def lights_out() -> None:
        if len(committed(site.objects, site.open_claim())) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.generate(engine=ScriptedEngine(before=lights_out))
    assert spent_of(site).tokens > 0
    site.abort(2)
    assert spent_of(site).tokens == 0


def test_seconds_are_those_of_the_engines(site: Site) -> None:
    ticks = iter(range(1000))
    with pytest.raises(BudgetSpent, match=r"budget of seconds for 2026-11-22, \d\.0 of 2\.0 s, and"):
        site.generate(campaign=with_budget(site.campaign, seconds=2), monotonic=lambda: float(next(ticks)))


class Uncounted(ScriptedEngine):
    """An engine of a server that counts no tokens."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        made = super().generate(requests)
        return [replace(one, num_prompt_tokens=None, num_output_tokens=None) for one in made]


def test_a_row_without_counts_stands_for_the_most_that_it_can_have(site: Site) -> None:
    with pytest.raises(
        BudgetSpent, match=r"67 of 20 tokens \(2 rows, whose engine counted no tokens, stand for the most"
    ):
        site.generate(engine=Uncounted(), campaign=with_budget(site.campaign, tokens=20))
    # Their prompts' bytes, and the version set's max_new_tokens.
    assert spent_of(site) == Spent(tokens=len(TEXTS[0]) + len(TEXTS[1]) + 2 * 12, num_unknown=2)


def test_money_is_tokens_at_the_price_of_their_version(site: Site) -> None:
    site.generate()
    prices = {"tiny": Price(prompt=999), "tiny:1": Price(prompt=1e6, output=2e6)}
    rows = site.content_rows()
    wanted = sum(row["num_prompt_tokens"] + 2 * row["num_output_tokens"] for row in rows)
    assert spent_of(site, prices=prices, money=10**9).money == pytest.approx(wanted)


def test_money_of_a_model_without_a_price_is_refused_before_it_is_spent(site: Site) -> None:
    """The file names another model than the stable set has."""
    with pytest.raises(BudgetSpent):
        site.generate(campaign=with_budget(site.campaign, tokens=1))
    other = with_budget(replace(site.campaign, model="other"), {"other": Price(output=1)}, money=5)
    with pytest.raises(InvalidCampaign, match=r"needs a price of 'tiny', version 1, .* add it to prices"):
        site.generate(campaign=other, open_engine=no_engine)


_ROLE = Role(model="tiny", decoding=Decoding(max_new_tokens=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {}}, "budget must state tokens, seconds or money, got none of them."),
        ({"budget": {"tokens": 0}}, "tokens must be null or above 0, got 0"),
        ({"budget": {"seconds": float("inf")}}, "seconds must be null or above 0, got inf"),
        ({"budget": {"money": 5.0}}, "budget: money needs prices of 'tiny', got none: add them."),
        ({"prices": {"tyny": Price()}}, "prices must name models of this file's roles .* Did you mean 'tiny'?"),
        (
            {"budget": {"tokens": 5}, "roles": {"a": _ROLE, "b": _ROLE}, "chain": ("a", "b")},
            "count one writer's tokens, .* got 2 roles: state seconds.",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_with_its_file(changes: dict[str, Any], message: str) -> None:
    if "roles" in changes:
        changes = {"model": "", "decoding": None, "engine": None, **changes}
    with pytest.raises(InvalidInput, match=message):
        make_campaign(**{**changes, **({"budget": Budget(**changes["budget"])} if "budget" in changes else {})})


def test_a_mirror_spends_of_the_same_budget(site: Site) -> None:
    site.generate()
    once = spent_of(site).tokens
    site.start(2)
    assert site.mirror().outcome.content.num_rows == NUM_ROWS
    assert spent_of(site).tokens > once
    neighbour = Site(site.directory, partition=make_partition(1))
    neighbour.put_prompts()
    # Enough for the content, without its mirror.
    campaign = with_budget(site.campaign, tokens=once + 1)
    with pytest.raises(BudgetSpent, match=r"0 of 7 rows of 2026-11-22\|glossary-01"):
        neighbour.generate(campaign=campaign, open_engine=no_engine)


def test_what_is_damaged_in_another_shard_stops_nobody_here(site: Site) -> None:
    neighbour = Site(site.directory, partition=make_partition(1))
    neighbour.put_prompts()
    claim = neighbour.open_claim("run-2")
    with pytest.raises(BudgetSpent):
        neighbour.generate(claim, campaign=with_budget(site.campaign, tokens=1))
    alone = spent_of(site)
    assert alone.tokens > 0
    overwrite(site, claim.batch_key(0), b"torn")
    assert spent_of(site) == Spent()
    assert site.generate(campaign=with_budget(site.campaign, tokens=10**6)).content.num_rows == NUM_ROWS


def overwrite(site: Site, key: str, body: bytes) -> None:
    site.objects.delete(key)
    site.objects.create(key, body)
