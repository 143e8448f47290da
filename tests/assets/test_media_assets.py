"""The flash cards of reviewed content, on a real store and instance."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from assets.generation import generated_content, prompts, reviewed_content
from assets.media import cards
from assets.partitions import content
from headrace.generation.campaign import PromptSource
from headrace.generation.cards import HEIGHT, WIDTH, draw_card, term_of
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.schemas import REVIEWED_CONTENT
from headrace.handoff.versions import Handoff
from headrace.text.markdown import CHARS_MAX
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource
from resources.settings import CHECKOUT

PARTITION = "2026-11-01|glossary-03"


@pytest.fixture
def store(tmp_path: Path) -> StoreResource:
    return StoreResource(url=str(tmp_path / "store"))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("campaign_shard", [PARTITION.partition("|")[2]])
        yield instance


def review(store: StoreResource, *, num_rows: int, num_kept: int, ending: str = "") -> Handoff:
    rows = [
        {
            "row_id": f"row-{n}",
            "prompt_id": f"prompt-{n}",
            "position": n,
            "prompt": f'Define the noun "term {n}".',
            "output": f"the meaning of term {n}{ending}",
            "version_set": "the-set",
            "num_output_tokens": 5,
            "kept": n < num_kept,
            "rejected_by": [] if n < num_kept else ["length"],
        }
        for n in range(num_rows)
    ]
    table = pa.Table.from_pylist(rows, schema=REVIEWED_CONTENT)
    return store.handoffs().publish("reviewed_content", PARTITION, table, code_version="1", run_id="r")


def materialize(store: StoreResource, instance: dg.DagsterInstance, home: Path) -> dict[str, Any]:
    campaigns = CampaignsResource(
        directory=str(CHECKOUT / "resources/campaigns"), home=str(home), reports=str(home / "reports"), engine="echo"
    )
    result = dg.materialize(
        [prompts, generated_content, reviewed_content, cards],
        selection=dg.AssetSelection.assets(cards),
        partition_key=PARTITION,
        instance=instance,
        resources={
            "io_manager": ArrowHandoffIOManager(url=store.url),
            "store": store,
            "campaigns": campaigns,
            "engines": EnginesResource(),
        },
    )
    (event,) = result.asset_materializations_for_node("cards")
    return {name: value.value for name, value in event.metadata.items()}


def test_every_kept_row_has_a_card_that_traces_back(
    store: StoreResource, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    from PIL import Image

    reviewed = review(store, num_rows=5, num_kept=3)
    figures = materialize(store, instance, tmp_path)
    handoff = store.handoffs().open("cards", PARTITION)
    media = MediaSet.open(handoff)
    assert [(item.row_id, item.version_set, item.caption) for item in media] == [
        (f"row-{n}", "the-set", f"term {n}: the meaning of term {n}") for n in range(3)
    ]
    picture = Image.open(io.BytesIO(media.read("row-1")))
    assert (picture.format, picture.size) == ("PNG", (WIDTH, HEIGHT))
    assert handoff.manifest.input_versions == {f"reviewed_content[{PARTITION}]": f"v1 {reviewed.content_digest}"}
    assert (figures["num_items"], figures["num_shards"], figures["num_rows"]) == (3, 1, 3)
    assert figures["media_bytes"] == media.num_bytes > 1000
    assert len(figures["thumbnails"]) <= CHARS_MAX
    assert "data:image/png;base64," in figures["contact_sheet"]


def test_the_same_rows_give_the_same_version(
    store: StoreResource, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    review(store, num_rows=3, num_kept=3)
    first = materialize(store, instance, tmp_path)
    again = materialize(store, instance, tmp_path)
    assert (first["reused"], again["reused"]) == (False, True)
    assert first["content_digest"] == again["content_digest"]
    review(store, num_rows=3, num_kept=3, ending=", more or less")
    assert materialize(store, instance, tmp_path)["version"] == 2


def test_a_review_that_kept_nothing_gives_an_empty_set(
    store: StoreResource, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    review(store, num_rows=2, num_kept=0)
    figures = materialize(store, instance, tmp_path)
    assert (figures["num_items"], figures["thumbnails"]) == (0, "0 items")


def test_cards_are_made_from_reviewed_content_alone() -> None:
    assert cards.asset_deps[dg.AssetKey("cards")] == {dg.AssetKey("reviewed_content")}
    assert cards.partitions_def == content


@pytest.mark.parametrize(
    ("template", "prompt", "term"),
    [
        ('Define the {category} "{term}".', 'Define the noun "quick-witted".', "quick-witted"),
        ('Define the {category} "{term}".', 'Define the noun "say "hi"".', 'say "hi"'),
        ('Define the {category} "{term}".', "Something else.", "Something else."),
        ("Define the {category}.", "Define the noun.", "Define the noun."),
        (None, "free text", "free text"),
    ],
)
def test_a_card_is_headed_by_the_term_that_its_prompt_asks_about(template: str | None, prompt: str, term: str) -> None:
    assert term_of(prompt, PromptSource(files="p", template=template, term_column="term", per_shard=1)) == term


@pytest.mark.parametrize("words", [0, 1, 20, 1000], ids=lambda words: f"{words} words")
def test_a_card_takes_any_text_and_is_the_same_file_each_time(words: int) -> None:
    definition = " ".join(["supercalifragilistic"] * words)
    first = draw_card("term " * (1 + words), definition)
    assert first == draw_card("term " * (1 + words), definition)
    assert first != draw_card("another", definition)
    assert len(first) < 100_000
