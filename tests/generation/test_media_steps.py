"""A row's text, its picture and its recording: made step by step, sealed together, each with a seed of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.engines.media_rows import MediaRequest, MediaResult
from headrace.errors import BudgetSpent, EngineUnavailable, InvalidCampaign, InvalidInput, RepinRequired
from headrace.generation.budget import Budget
from headrace.generation.campaign import Campaign
from headrace.generation.review_content import review_content
from headrace.generation.sealed_tables import IMAGES, MEDIA_EXECUTION, SPEECH
from headrace.generation.spending import Spending
from headrace.generation.steps import steps_of
from headrace.handoff.media.reading import MediaSet
from headrace.rollout.states import ABORTED
from tests.generation.builders import TEXTS, make_prompts, make_site
from tests.generation.media_builders import (
    ECHO,
    MediaSite,
    make_media_campaign,
    make_media_site,
    make_roles,
    start,
)


@pytest.fixture
def site(tmp_path: Path) -> MediaSite:
    return make_media_site(tmp_path)


def bytes_of(site: MediaSite, asset: str) -> dict[str, bytes]:
    media = MediaSet.open(site.handoffs.open(asset, site.partition.key))
    return {item_id: media.read(item_id) for item_id in media.ids()}


def test_a_row_gets_its_text_its_picture_and_its_recording(site: MediaSite) -> None:
    outcome = site.generate()
    rows = outcome.content.table()["row_id"].to_pylist()
    assert list(bytes_of(site, IMAGES)) == [f"{row}/painter" for row in rows]
    assert list(bytes_of(site, SPEECH)) == [f"{row}/speaker" for row in rows]
    assert all(one.startswith(b"\x89PNG") for one in bytes_of(site, IMAGES).values())
    assert all(one.startswith(b"RIFF") for one in bytes_of(site, SPEECH).values())
    made = site.handoffs.open(MEDIA_EXECUTION, site.partition.key).table()
    assert made["role"].to_pylist() == ["painter"] * len(TEXTS) + ["speaker"] * len(TEXTS)
    assert set(made["finish_reason"].to_pylist()) == {"stop"}


def test_nothing_is_published_before_the_last_step(site: MediaSite) -> None:
    claim = site.open_claim()
    for kind, left in (("text", ("painter", "speaker")), ("image", ("speaker",))):
        outcome = site.generate(claim, up_to=kind)
        assert (outcome.sealed, outcome.waits_for) == (None, left)
        assert not site.handoffs.assets() or site.handoffs.assets() == ["prompts"]
    assert site.generate(claim, up_to="speech").sealed
    again = site.generate(claim)
    assert again.reused
    assert again.num_generated_now == 0


def test_the_order_of_pictures_and_recordings_means_nothing(site: MediaSite, tmp_path: Path) -> None:
    other = make_media_site(tmp_path / "other")
    site.generate()
    for kind in ("speech", "image"):
        other.generate(other.open_claim(), up_to=kind)
    assert bytes_of(site, IMAGES) == bytes_of(other, IMAGES)
    assert bytes_of(site, SPEECH) == bytes_of(other, SPEECH)


def test_a_new_painter_leaves_texts_and_recordings_as_they_are(site: MediaSite, tmp_path: Path) -> None:
    other = MediaSite(tmp_path / "other", campaign=site.campaign)
    other.roll_out_set("initialized", other.make_set(painter=2))
    other.put_prompts()
    one, two = site.generate(), other.generate()
    assert one.claim.version_set != two.claim.version_set
    texts = ["output", "seed", "num_output_tokens"]
    assert one.content.table().select(texts).equals(two.content.table().select(texts))
    assert list(bytes_of(site, SPEECH).values()) == list(bytes_of(other, SPEECH).values())
    assert not set(bytes_of(site, IMAGES).values()) & set(bytes_of(other, IMAGES).values())


def test_texts_are_those_of_the_writer_alone(site: MediaSite, tmp_path: Path) -> None:
    plain = make_site(tmp_path / "plain")
    [texts, *_] = steps_of(site.make_set())
    # The same wish, but for who paints and speaks.
    assert texts.led_to_by == plain.open_claim().version_set
    outputs = ["prompt_id", "output", "seed"]
    assert site.generate().content.table().select(outputs).equals(plain.generate().content.table().select(outputs))


def test_prompts_are_painted_as_they_are_where_nobody_writes(tmp_path: Path) -> None:
    roles = {"painter": make_roles()["painter"]}
    site = make_media_site(tmp_path, campaign=make_media_campaign(roles))
    assert site.generate().content.table()["output"].to_pylist() == TEXTS
    assert len(bytes_of(site, IMAGES)) == len(TEXTS)


class Broken:
    """Makes nothing of one text, and dies at another batch."""

    name, build, deterministic = "echo", "", True

    def __init__(self, made: Any, *, dies_after: int) -> None:
        self.made, self.dies_after = made, dies_after
        self.asked: list[str] = []

    def generate(self, requests: list[MediaRequest]) -> list[MediaResult]:
        if len(self.asked) >= self.dies_after:
            raise EngineUnavailable("killed")
        self.asked += [one.row_id for one in requests]
        return self.made.generate(requests)

    def close(self) -> None:
        self.made.close()


@pytest.mark.parametrize("dies_after", [0, 1, 3, 5])
def test_a_worker_killed_in_a_later_step_goes_on_there(site: MediaSite, tmp_path: Path, dies_after: int) -> None:
    claim = site.open_claim()
    first = Broken(site.open_media(site.make_set(), "painter"), dies_after=dies_after)
    with pytest.raises(EngineUnavailable):
        site.generate(claim, up_to="image", open_media=lambda *_: first)
    second = Broken(site.open_media(site.make_set(), "painter"), dies_after=1000)
    site.generate(claim, up_to="image", open_media=lambda *_: second)
    site.generate(claim)
    assert len(first.asked) + len(second.asked) == len(TEXTS)
    assert not set(first.asked) & set(second.asked)
    other = make_media_site(tmp_path / "other")
    other.generate()
    assert bytes_of(site, IMAGES) == bytes_of(other, IMAGES)


def test_a_rollback_takes_all_parts_of_a_row_back(site: MediaSite) -> None:
    candidate = site.make_set(painter=2)
    start(site, candidate)
    claim = site.open_claim()
    assert claim.version_set == candidate.id
    site.generate(claim, up_to="image")
    site.roll_out_set(ABORTED, candidate)
    with pytest.raises(RepinRequired):
        site.generate(claim, up_to="speech")
    assert site.objects.list(claim.batches_prefix) == []
    assert site.handoffs.assets() == ["prompts"]


def test_who_writes_comes_before_who_paints() -> None:
    roles = make_roles()
    with pytest.raises(InvalidInput, match="chain must have the roles that write before"):
        make_media_campaign({"painter": roles["painter"], "writer": roles["writer"]})


def test_a_template_names_what_a_row_has() -> None:
    roles = make_roles()
    with pytest.raises(
        InvalidCampaign, match=r"roles: painter: template may use \{prompt\}, \{text\}, \{writer\}, got"
    ):
        make_media_campaign(roles | {"painter": replace(roles["painter"], template="{colour}")})


def test_an_engine_that_only_writes_paints_nothing() -> None:
    with pytest.raises(InvalidInput, match="engine 'transformers' makes text, and the role must make image"):
        replace(make_roles()["painter"], engine=type(ECHO)("transformers"))


class Clock:
    """A second passes at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def spent_seconds(site: MediaSite, campaign: Campaign) -> float:
    spending = Spending.of(site.open_claim(), campaign, site.handoffs, Clock())
    assert spending
    spending.stop_if_spent(site.open_claim(), (), num_made=0, num_asked=0)
    return sum(one.spent.seconds for one in spending._attempts.values())


def test_a_budget_of_seconds_counts_all_steps_whether_sealed_or_not(site: MediaSite) -> None:
    site.campaign = campaign = replace(site.campaign, budget=Budget(seconds=1000))
    num_batches = 4
    for kind, num_steps in (("text", 1), ("image", 2), ("speech", 3)):
        site.generate(site.open_claim(), up_to=kind, monotonic=Clock())
        assert spent_seconds(site, campaign) == pytest.approx(num_batches * num_steps)


def test_a_painter_stops_at_the_budget_and_goes_on_when_it_is_raised(site: MediaSite) -> None:
    site.campaign = replace(site.campaign, budget=Budget(seconds=6))
    with pytest.raises(BudgetSpent, match=r"6.0 of 6.0 s, and 4 of 7 rows"):
        site.generate(site.open_claim(), monotonic=Clock())
    site.campaign = replace(site.campaign, budget=Budget(seconds=600))
    assert site.generate(site.open_claim()).num_generated_now == len(TEXTS) * 2 - 4


def test_tokens_of_a_chain_are_its_writers(site: MediaSite) -> None:
    site.campaign = campaign = replace(site.campaign, budget=Budget(tokens=10**9))
    rows = site.generate().content.table().to_pylist()
    spending = Spending.of(site.open_claim(), campaign, site.handoffs, Clock())
    assert spending
    spending.stop_if_spent(site.open_claim(), (), num_made=0, num_asked=0)
    tokens = sum(row["num_prompt_tokens"] + row["num_output_tokens"] for row in rows)
    assert sum(one.spent.tokens for one in spending._attempts.values()) == tokens
    # The texts that another painter's set takes cost nothing.
    start(site, site.make_set(painter=2))
    site.generate(site.open_claim("run-2", "current_set"))
    spending = Spending.of(site.open_claim(), campaign, site.handoffs, Clock())
    assert spending
    spending.stop_if_spent(site.open_claim(), (), num_made=0, num_asked=0)
    assert sum(one.spent.tokens for one in spending._attempts.values()) == tokens


def test_a_budget_of_tokens_needs_a_writer() -> None:
    roles = {"painter": make_roles()["painter"]}
    with pytest.raises(InvalidCampaign, match="no role of chain writes: state seconds"):
        make_media_campaign(roles, budget=Budget(tokens=5))


@pytest.mark.parametrize("number", [2**40, -1, 0xD800])
def test_a_number_that_is_no_sign_costs_its_own_row_alone(tmp_path: Path, number: int) -> None:
    roles = {"painter": replace(make_roles()["painter"], template="{text} {n:c}")}
    prompts = replace(make_media_campaign().prompts, carry=("n",))
    site = MediaSite(tmp_path, campaign=make_media_campaign(roles, prompts=prompts))
    site.roll_out_set("initialized", site.make_set())
    site.seal_prompts(make_prompts(TEXTS[:2]).append_column("n", pa.array([number, 65])))
    content = site.generate().content
    made = site.handoffs.open(MEDIA_EXECUTION, site.partition.key).table()
    assert made["finish_reason"].to_pylist() == ["skipped", "stop"]
    assert made["asked"][1].as_py() == f"{TEXTS[1]} A"
    # A row is kept if all of its parts are there, and its text is not at fault.
    found = review_content(content, site.handoffs, site.campaign).table
    assert found["rejected_by"].to_pylist() == [["painter.failed"], []]


def test_a_text_has_no_format_of_a_number() -> None:
    painter = replace(make_roles()["painter"], template="{text:d}")
    with pytest.raises(InvalidInput, match="roles: painter: template cannot be filled with text: .*'d'"):
        make_media_campaign(make_roles(painter=painter))


@pytest.mark.parametrize("name", ["prompt", "term", "colour"])
def test_a_place_of_a_template_stands_for_one_thing(name: str) -> None:
    writer, *others = make_roles().items()
    prompts = replace(make_media_campaign().prompts, term_column="term", carry=("colour",))
    with pytest.raises(InvalidCampaign, match=f"{{{name}}} in a template would stand for two things"):
        make_media_campaign({name: writer[1], **dict(others)}, prompts=prompts)


def test_a_role_is_not_called_as_a_batch_is() -> None:
    with pytest.raises(InvalidCampaign, match=r"a role's name must not be that of a micro-batch's object, got 'b00000"):
        make_media_campaign({"b00000.arrow": make_roles()["painter"]})


def test_a_turn_is_held_while_a_loaded_engine_makes_rows_of_its_kind_and_by_nobody_else(tmp_path: Path) -> None:
    site, held = make_media_site(tmp_path), list[str]()

    @contextmanager
    def turn(kind: str) -> Iterator[None]:
        held.append(f"{kind} begins")
        yield
        held.append(f"{kind} ends")

    site.generate(up_to="image", turn=turn)
    assert held == ["text begins", "text ends", "image begins", "image ends"]
    site.generate(up_to="image", turn=turn)
    assert len(held) == 4
