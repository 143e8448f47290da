"""The commands on a campaign that writes, paints and speaks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.handoff.media.reading import MediaSet
from headrace.store.local import LocalStore
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import VersionSets
from tests.command_line.builders import checked_json, run
from tests.generation.media_builders import (
    MediaSite,
    campaign_file,
    make_media_campaign,
    make_media_site,
    make_roles,
    start,
)

CAMPAIGN = campaign_file(
    num_shards=2,
    files="./prompts.jsonl",
    picture="{width: 32, height: 24, num_inference_steps: 8, guidance_scale: 2}",
)
DAY = "2026-11-01"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rows = [{"term": f"mill {n}", "text": f"Tell of mill {n}."} for n in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tales.yaml").write_text(CAMPAIGN)
    return tmp_path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> MediaSite:
    site = make_media_site(tmp_path_factory.mktemp("site"))
    site.generate()
    return site


def environment(home: Path) -> dict[str, str]:
    return {"HEADRACE_HOME": str(home), "HEADRACE_CAMPAIGNS": str(home)}


def test_a_preview_makes_all_parts_and_says_where_they_are(home: Path) -> None:
    made = home / "looked at"
    shown = run("preview", home / "tales.yaml", "-n", "3", "--day", DAY, "--media", made, env=environment(home))
    assert shown.exit_code == 0, shown.output
    assert f"6 pictures and recordings in {made}" in " ".join(shown.stdout.split())
    assert sorted(one.suffix for one in made.iterdir()) == [".png"] * 3 + [".wav"] * 3
    first = json.loads(
        run("preview", home / "tales.yaml", "-n", "3", "--day", DAY, "--json", env=environment(home)).stdout
    )["rows"][0]
    painter, speaker = first["parts"]
    assert painter["asked"] == f"mill 0: {first['output']}"
    assert speaker["asked"] == first["output"]
    assert Path(painter["file"]).read_bytes().startswith(b"\x89PNG")
    assert Path(painter["file"]).parent == home / "previews" / f"tales-{DAY}"


def test_a_campaign_with_such_roles_is_checked(home: Path) -> None:
    shown = run("check", home / "tales.yaml", "--offline", env=environment(home))
    assert shown.exit_code == 0, shown.output
    (home / "tales.yaml").write_text(CAMPAIGN + "budget: {tokens: 1000}\n")
    shown = run("check", home / "tales.yaml", "--offline", env=environment(home))
    assert shown.exit_code in (0, 1), shown.output
    assert "Traceback" not in shown.output
    assert "the answers of 6 rows a day" in " ".join(shown.stdout.split())


def trace(site: MediaSite, *arguments: str) -> Any:
    return run("trace", *arguments, store=site.directory)


def test_a_row_is_traced_with_all_its_parts(site: MediaSite) -> None:
    row = site.content_rows()[2]
    body = checked_json(trace(site, row["row_id"], "--json"), "trace")
    painter, speaker = body["parts"]
    pictures = MediaSet.open(site.handoffs.open("generated_images", site.partition.key))
    stored = pictures.item(f"{row['row_id']}/painter")
    assert painter["run"]["asked"] == f"{row['output']}, as {row['prompt']}"
    assert (painter["item"]["xxh3_128"], painter["asset"]) == (stored.xxh3_128, "generated_images")
    assert speaker["item"]["media_type"] == "audio/wav"
    assert {one["role"] for one in body["models"]} == {"writer", "painter", "speaker"}
    shown = " ".join(trace(site, row["row_id"]).stdout.split())
    assert f"xxh3-128 {stored.xxh3_128}" in shown
    assert "32 × 24" in shown


def test_a_row_that_was_taken_says_from_where(tmp_path: Path) -> None:
    site = make_media_site(tmp_path)
    site.generate()
    start(site, site.make_set(painter=2))
    content = site.generate(site.open_claim("run-2", "current_set")).content
    row = content.table().to_pylist()[0]
    shown = " ".join(trace(site, row["row_id"]).stdout.split())
    assert "taken from generated_content[2026-11-22|glossary-00] v1" in shown
    assert "taken from generated_speech[2026-11-22|glossary-00] v1" in shown


def test_a_set_shows_how_each_member_makes_its_output(site: MediaSite) -> None:
    shown = run("versions", "show", site.make_set().id[:12], store=site.directory)
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.stdout.split())
    assert "picture 32 × 24, 8 steps, guidance 2" in said
    assert "speech voice miller, speed 1, at most 20 s, 16,000 samples a second" in said
    assert "template {text}, as {prompt}" in said


def test_a_difference_in_a_picture_is_told_by_its_setting(site: MediaSite) -> None:
    wider = replace(make_roles()["painter"], picture=Picture(width=64, height=24))
    other = make_media_campaign(make_roles(painter=wider))
    changed = MediaSite(site.directory, campaign=other).make_set()
    VersionSets(LocalStore(site.directory)).put(changed)
    shown = run("versions", "diff", site.make_set().id[:12], changed.id[:12], store=site.directory)
    assert shown.exit_code == 1, shown.output
    assert "painter.picture.width" in shown.stdout
