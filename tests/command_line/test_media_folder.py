"""`headrace export --format folder`: pictures and sounds of a campaign's rows, named by row."""

import io
import json
import wave
from pathlib import Path

import pytest
from PIL import Image

from headrace.generation.campaign import PromptSource
from headrace.generation.cards import COLUMNS, flash_cards
from headrace.generation.review import review_rows
from headrace.generation.review_settings import ReviewSettings
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from tests.command_line.builders import run
from tests.generation.builders import TEXTS, Site, make_partition
from tests.handoff.media.builders import flip, make_wav, store_files


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two partitions of reviewed rows; of each kept row a card that is really drawn, of one row a sound, too."""
    for shard in (0, 1):
        site = Site(tmp_path / "store", partition=make_partition(shard))
        if not shard:
            site.initialize()
        site.put_prompts([f"{text} {shard}" for text in TEXTS])
        review = review_rows(site.generate().content.table(), ReviewSettings(words_min=10))
        reviewed = site.handoffs.publish(
            "reviewed_content", site.partition.key, review.table, code_version="1", run_id="r"
        )
        cards = flash_cards(reviewed.batches(COLUMNS), PromptSource(files="p.txt"))
        publish_media(site.handoffs, "cards", site.partition.key, cards, code_version="1", run_id="r")
    kept = [row for row in reviewed.table().to_pylist() if row["kept"]]
    voice = MediaItem(item_id="voice", media_type="audio/wav", content=make_wav(), row_id=kept[0]["row_id"])
    publish_media(site.handoffs, "voices", site.partition.key, [voice], code_version="1", run_id="r")
    return site


def _kept(site: Site) -> dict[str, dict[str, object]]:
    found = [site.handoffs.open("reviewed_content", key) for key in site.handoffs.partitions("reviewed_content")]
    return {row["row_id"]: row for one in found for row in one.table().to_pylist() if row["kept"]}


def test_a_campaigns_media_are_files_named_by_row_and_a_table_that_names_them(site: Site, tmp_path: Path) -> None:
    campaign = site.partition.campaign
    result = run("export", campaign, tmp_path / "out", "--format", "folder", store=site.directory)

    assert result.exit_code == 0, result.output
    kept = _kept(site)
    lines = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text().splitlines()]
    pictures = [line for line in lines if line["media_type"] == "image/png"]
    assert {line["file_name"] for line in pictures} == {f"{row_id}.png" for row_id in kept}
    for line in pictures:
        assert line["output"] == kept[line["row_id"]]["output"]
        with Image.open(tmp_path / "out" / line["file_name"]) as picture:
            assert (picture.format, picture.size) == ("PNG", (line["width"], line["height"]))
    (sound,) = (line for line in lines if line["media_type"] == "audio/wav")
    assert sound["file_name"] == f"{sound['row_id']}.wav"
    with wave.open(io.BytesIO((tmp_path / "out" / sound["file_name"]).read_bytes())) as opened:
        assert opened.getnframes() == 400
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metadata.jsonl",
        *(line["file_name"] for line in lines),
    }


def test_columns_and_rows_are_chosen_as_for_a_table(site: Site, tmp_path: Path) -> None:
    asked = ["export", site.partition.day, tmp_path / "out", "-f", "folder", "--rejected", "--columns", "prompt"]
    result = run(*asked, store=site.directory)

    num_rejected = sum(
        not row["kept"]
        for key in site.handoffs.partitions("reviewed_content")
        for row in site.handoffs.open("reviewed_content", key).table().to_pylist()
    )
    assert num_rejected
    assert f"{num_rejected} rows without one" in result.stderr
    first = json.loads((tmp_path / "out/metadata.jsonl").read_text().splitlines()[0])
    assert "prompt" in first
    assert "output" not in first


def test_two_items_of_one_row_have_two_names(site: Site, tmp_path: Path) -> None:
    row_id = next(iter(_kept(site)))
    items = [
        MediaItem(item_id=name, media_type="audio/wav", content=make_wav(frames), row_id=row_id)
        for name, frames in (("low", 10), ("high", 20))
    ]
    key = next(key for key in site.handoffs.partitions("reviewed_content") if key.endswith("-00"))
    publish_media(site.handoffs, "tones", key, items, code_version="1", run_id="r")

    assert run("export", "tones", tmp_path / "tones", "-f", "folder", store=site.directory).exit_code == 0
    assert {path.name for path in (tmp_path / "tones").glob("*.wav")} == {f"{row_id}.wav", f"{row_id}-high.wav"}


def test_what_is_there_is_kept_and_a_damaged_item_leaves_nothing(site: Site, tmp_path: Path) -> None:
    asked = ["export", site.partition.campaign, tmp_path / "out", "-f", "folder"]
    (tmp_path / "out").mkdir()
    refused = run(*asked, store=site.directory)
    assert refused.exit_code == 2
    assert "out exists, and an export overwrites nothing" in refused.stderr
    (tmp_path / "out").rmdir()
    media = site.handoffs.open("cards", site.handoffs.partitions("cards")[0])
    flip(store_files(media, ".media")[0], 200)
    damaged = run(*asked, store=site.directory)
    assert damaged.exit_code == 2
    assert f"Media {media.label} do not match their index: item " in damaged.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_force_replaces_an_earlier_export_and_no_directory_of_other_things(site: Site, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    asked = ["export", site.partition.campaign, mine, "-f", "folder", "--force"]
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    refused = run(*asked, store=site.directory)
    assert refused.exit_code == 2
    assert "mine is a directory without metadata.jsonl, so it is no earlier export" in " ".join(refused.stderr.split())
    assert (mine / "notes.txt").read_text() == "keep me"

    (mine / "notes.txt").unlink()
    for _ in range(2):
        assert run(*asked, store=site.directory).exit_code == 0
        assert (mine / "metadata.jsonl").is_file()


def test_rows_without_media_are_told_which_assets_have_some(site: Site, tmp_path: Path) -> None:
    other = run("export", "prompts", tmp_path / "more", "-f", "folder", store=site.directory)
    assert other.exit_code == 2
    assert "the store has media in cards, voices" in " ".join(other.stderr.split())
