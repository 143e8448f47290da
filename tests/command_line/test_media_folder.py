"""`headrace export --format folder`: pictures and sounds of a campaign's rows, named by row."""

import json
import wave
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from tests.command_line.builders import run
from tests.generation.builders import TEXTS, Site
from tests.generation.media_builders import make_media_site, make_reviewed_site, review_site
from tests.handoff.media.builders import flip, make_wav, store_files


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two partitions of reviewed rows, each with a picture and a recording."""
    return make_reviewed_site(tmp_path / "store", shards=(0, 1))


def lines_of(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / kind / "metadata.jsonl").read_text().splitlines()]


def _kept(site: Site) -> dict[str, dict[str, object]]:
    found = [site.handoffs.open("reviewed_content", key) for key in site.handoffs.partitions("reviewed_content")]
    return {row["row_id"]: row for one in found for row in one.table().to_pylist() if row["kept"]}


def test_a_campaigns_media_are_files_named_by_row_and_a_table_that_names_them(site: Site, tmp_path: Path) -> None:
    campaign = site.partition.campaign
    result = run("export", campaign, tmp_path / "out", "--format", "folder", store=site.directory)

    assert result.exit_code == 0, result.output
    kept = _kept(site)
    for kind, suffix in (("images", "png"), ("audio", "wav")):
        lines = lines_of(tmp_path / "out", kind)
        assert {line["file_name"] for line in lines} == {f"{row_id}.{suffix}" for row_id in kept}
        assert all(line["output"] == kept[line["row_id"]]["output"] for line in lines)
        names = {path.name for path in (tmp_path / "out" / kind).iterdir()}
        assert names == {"metadata.jsonl", *(line["file_name"] for line in lines)}
    for line in lines_of(tmp_path / "out", "images"):
        with Image.open(tmp_path / "out/images" / line["file_name"]) as picture:
            assert (picture.format, picture.size) == ("PNG", (line["width"], line["height"]))
    for line in lines_of(tmp_path / "out", "audio"):
        with wave.open(str(tmp_path / "out/audio" / line["file_name"])) as opened:
            assert opened.getnframes() / opened.getframerate() == pytest.approx(line["duration_seconds"])


def test_rows_whose_prompts_came_back_have_their_media_again(tmp_path: Path) -> None:
    site = make_media_site(tmp_path / "store")
    for number, texts in enumerate((TEXTS, TEXTS[:1], TEXTS)):
        site.put_prompts(texts)
        review_site(site, site.generate(site.open_claim(f"run-{number}")).content)
    result = run("export", site.partition.campaign, tmp_path / "out", "-f", "folder", store=site.directory)
    assert result.exit_code == 0, result.output
    assert {line["row_id"] for line in lines_of(tmp_path / "out", "images")} == _kept(site).keys()


def test_a_prompts_own_column_names_no_file(site: Site, tmp_path: Path) -> None:
    for key in site.handoffs.partitions("reviewed_content"):
        found = site.handoffs.open("reviewed_content", key)
        table = found.table()
        named = table.append_column("file_name", pa.array(["../../elsewhere.png"] * table.num_rows, pa.string()))
        versions = {"code_version": "1", "run_id": "r", "input_versions": found.manifest.input_versions}
        site.handoffs.publish("reviewed_content", key, named, **versions)
    result = run("export", site.partition.campaign, tmp_path / "out", "-f", "folder", store=site.directory)
    assert result.exit_code == 0, result.output
    lines = lines_of(tmp_path / "out", "images")
    assert {line["file_name"] for line in lines} == {f"{row_id}.png" for row_id in _kept(site)}


def test_a_kinds_folder_is_a_dataset_of_hugging_face(site: Site, tmp_path: Path) -> None:
    import datasets

    assert run("export", site.partition.campaign, tmp_path / "out", "-f", "folder", store=site.directory).exit_code == 0
    # A folder of audio has the same layout; to open it `datasets` needs torchcodec.
    opened = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out/images"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert isinstance(opened.features["image"], datasets.Image)
    kept = _kept(site)
    columns: dict[str, list[Any]] = {name: opened[name][:] for name in ("row_id", "output", "image")}
    found = zip(*columns.values(), strict=True)
    assert {row_id: (output, image.size) for row_id, output, image in found} == {
        row_id: (row["output"], (32, 24)) for row_id, row in kept.items()
    }


def test_columns_and_rows_are_chosen_as_for_a_table(site: Site, tmp_path: Path) -> None:
    asked = ["export", site.partition.day, tmp_path / "out", "-f", "folder", "--rejected", "--columns", "prompt"]
    result = run(*asked, store=site.directory)

    found = [site.handoffs.open("reviewed_content", key) for key in site.handoffs.partitions("reviewed_content")]
    rows = [row for one in found for row in one.table().to_pylist()]
    assert not all(row["kept"] for row in rows)
    assert len(lines_of(tmp_path / "out", "images")) == len(rows)
    assert f"{2 * len(rows)} items of day" in result.stderr
    first = lines_of(tmp_path / "out", "images")[0]
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
    assert {path.name for path in (tmp_path / "tones/audio").glob("*.wav")} == {f"{row_id}.wav", f"{row_id}-high.wav"}


def test_what_is_there_is_kept_and_a_damaged_item_leaves_nothing(site: Site, tmp_path: Path) -> None:
    asked = ["export", site.partition.campaign, tmp_path / "out", "-f", "folder"]
    (tmp_path / "out").mkdir()
    refused = run(*asked, store=site.directory)
    assert refused.exit_code == 2
    assert "out exists, and an export overwrites nothing" in refused.stderr
    (tmp_path / "out").rmdir()
    media = site.handoffs.open("generated_images", site.handoffs.partitions("generated_images")[0])
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
        assert (mine / "images/metadata.jsonl").is_file()


def test_rows_without_media_are_told_which_assets_have_some(site: Site, tmp_path: Path) -> None:
    other = run("export", "prompts", tmp_path / "more", "-f", "folder", store=site.directory)
    assert other.exit_code == 2
    assert "the store has media in generated_images, generated_speech" in " ".join(other.stderr.split())
