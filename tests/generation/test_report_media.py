"""A day's pictures and recordings within its page: the sealed bytes, or smaller ones, as many as a page may hold."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import av
import pytest
from PIL import Image

from headrace.generation import inline_media
from headrace.generation.day_summary import CampaignDay
from headrace.generation.report import render_report
from headrace.handoff.media.reading import MediaSet
from headrace.version_sets.media_settings import Picture
from tests.generation.days import DAY, seal_day
from tests.generation.media_builders import MediaSite, make_reviewed_site, make_roles, review_site, summary_of
from tests.generation.test_report_page import Page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> MediaSite:
    return make_reviewed_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def day(site: MediaSite) -> CampaignDay:
    return summary_of(site)


def media_in(html: str) -> dict[str, dict[str, tuple[str, bytes]]]:
    """Row id → kind → media type and bytes, of the page's only campaign."""
    [rows] = json.loads(Page(html).scripts[1])
    found: dict[str, dict[str, tuple[str, bytes]]] = {}
    for row_id, parts in rows.items():
        for _, kind, url, *_ in parts:
            media_type, _, body = url.removeprefix("data:").partition(";base64,")
            found.setdefault(row_id, {})[kind] = (media_type, base64.b64decode(body, validate=True))
    return found


def sealed(site: MediaSite, asset: str) -> dict[str, bytes]:
    media = MediaSet.open(site.handoffs.open(asset, site.partition.key))
    return {item.row_id or "": media.read(item.item_id) for item in media}


def test_a_small_picture_is_in_the_page_as_it_was_sealed(site: MediaSite, day: CampaignDay) -> None:
    shown = {row_id: parts["image"] for row_id, parts in media_in(render_report(DAY, [day])).items()}
    assert shown == {row_id: ("image/png", body) for row_id, body in sealed(site, "generated_images").items()}


def test_a_recording_is_in_the_page_in_a_fraction_of_its_bytes(site: MediaSite, day: CampaignDay) -> None:
    shown = {row_id: parts["speech"] for row_id, parts in media_in(render_report(DAY, [day])).items()}
    for row_id, wav in sealed(site, "generated_speech").items():
        media_type, body = shown[row_id]
        assert media_type == "audio/ogg"
        assert len(body) < len(wav) / 4
        with av.open(io.BytesIO(body), "r") as read:
            num_samples = sum(frame.samples for frame in read.decode(audio=0))
        assert num_samples / 48_000 == pytest.approx((len(wav) - 44) / 2 / 16_000, abs=0.001)


def test_without_pyav_the_wav_itself_is_played(
    site: MediaSite, day: CampaignDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline_media, "has_av", lambda: False)
    shown = {row_id: parts["speech"] for row_id, parts in media_in(render_report(DAY, [day])).items()}
    assert shown == {row_id: ("audio/wav", body) for row_id, body in sealed(site, "generated_speech").items()}


def test_a_large_picture_is_a_thumbnail(tmp_path: Path) -> None:
    roles = make_roles()
    roles["painter"] = replace(roles["painter"], picture=Picture(width=800, height=400))
    site = make_reviewed_site(tmp_path, roles=roles, chain=tuple(roles))
    for parts in media_in(render_report(DAY, [summary_of(site)])).values():
        media_type, body = parts["image"]
        assert (media_type, Image.open(io.BytesIO(body)).size) == ("image/jpeg", (192, 96))


def test_pictures_have_room_before_recordings_and_what_is_left_out_is_counted(day: CampaignDay) -> None:
    rows = [(0, row_id) for row_id in day.media]
    everything = inline_media.inline_media([day.media], rows, bytes_max=5_000_000)
    assert (len(everything.shown), everything.num_left_out) == (7, {})
    num_bytes = sum(part.num_bytes for parts in everything.shown.values() for part in parts)
    cut = inline_media.inline_media([day.media], rows, bytes_max=num_bytes * 0.8)
    assert all(parts[0].kind == "image" for parts in cut.shown.values())
    num_shown = sum(part.kind == "speech" for parts in cut.shown.values() for part in parts)
    assert cut.num_left_out == {"speech": 7 - num_shown}
    assert 0 < num_shown < 7
    assert inline_media.inline_media([day.media], rows, bytes_max=0).num_left_out == {"image": 7, "speech": 7}


@pytest.mark.parametrize("bytes_max", [60_000, 75_000, 90_000, 130_000])
def test_a_page_stays_within_its_bytes_and_says_what_did_not_fit(day: CampaignDay, bytes_max: int) -> None:
    html = render_report(DAY, [day], bytes_max=bytes_max)
    assert len(html.encode()) <= bytes_max
    found = media_in(html)
    num_left_out = 7 - sum("speech" in parts for parts in found.values())
    said = f"{num_left_out} recording{'s' if num_left_out > 1 else ''} of listed rows did not fit on this page."
    assert (said in html) == (num_left_out > 0)


def test_a_page_with_media_fetches_nothing_and_shows_them_without_a_script(day: CampaignDay) -> None:
    page = Page(render_report(DAY, [day]))
    sources = [one["src"] or "" for one in (*page.all("img"), *page.all("audio"))]
    assert len(sources) == 2 * len(day.samples)
    assert all(source.startswith(("data:image/", "data:audio/")) for source in sources)
    policy = next(one["content"] or "" for one in page.all("meta") if "http-equiv" in one)
    assert "img-src data:; media-src data:;" in policy
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["aria-label"] for one in page.all("audio"))
    assert "7pictures" in page.text
    assert render_report(DAY, [day]) == render_report(DAY, [day])


def test_a_day_of_texts_has_a_page_without_a_sheet(tmp_path: Path) -> None:
    html = render_report(DAY, [seal_day(tmp_path, 4)])
    assert 'id="sheet"' not in html
    assert 'name="view"' not in html
    assert "img-src" not in html


def test_a_rows_details_say_what_its_review_measured(site: MediaSite, day: CampaignDay) -> None:
    [rows] = json.loads(Page(render_report(DAY, [day])).scripts[1])
    reviewed = site.handoffs.open("reviewed_content", site.partition.key).table().to_pylist()
    for row in reviewed:
        painted, _ = row["media"]
        contrast = json.loads(painted["figures"])["contrast"]
        [[role, *_, said], _] = rows[row["row_id"]]
        assert (role, f"contrast {contrast:.4g}" in said) == ("painter", True)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ('{"contrast": 41.234567, "rank": 1, "nothing": null}', "contrast 41.23, rank 1"),
        ('{"heard": "a <b>mill</b>"}', "heard a <b>mill</b>"),
        ("", ""),
        ("no json", ""),
        ("[1]", ""),
    ],
)
def test_figures_are_said_in_words(day: CampaignDay, figures: str, said: str) -> None:
    part = replace(next(iter(day.media.values()))[0], figures=figures)
    shown = inline_media.shown_part(part)
    assert shown
    assert shown.figures == said


@pytest.fixture
def damaged(site: MediaSite, tmp_path: Path) -> MediaSite:
    """A copy of the site, to damage."""
    copied = shutil.copytree(site.directory, tmp_path / "copy")
    return MediaSite(copied, campaign=site.campaign, partition=site.partition)


def pictures_file(site: MediaSite, ending: str) -> Path:
    media = MediaSet.open(site.handoffs.open("generated_images", site.partition.key))
    file = site.objects.local_path(f"{media.layout.prefix}/{ending}")
    file.chmod(0o600)
    return file


def test_a_damaged_shard_costs_its_pictures_and_not_the_page(damaged: MediaSite) -> None:
    pictures_file(damaged, "shard-00000.media").unlink()
    html = render_report(DAY, [summary_of(damaged)])
    found = media_in(html)
    assert len(found) == 7
    assert all(list(parts) == ["speech"] for parts in found.values())
    said = r"7 parts of listed rows could not be read: Media generated_images\[.*\] v1 do not match their index: "
    assert re.search(said + r"\S*shard-00000.media is missing. Materialize the partition again", html)
    assert len(re.findall("could not be read", html)) == 1
    assert "did not fit" not in html
    # What it says to do helps.
    review_site(damaged, damaged.generate().content)
    html = render_report(DAY, [summary_of(damaged)])
    assert "could not be read" not in html
    assert all(list(parts) == ["image", "speech"] for parts in media_in(html).values())


def test_a_damaged_picture_costs_itself_alone(damaged: MediaSite) -> None:
    shard = pictures_file(damaged, "shard-00000.media")
    raw = bytearray(shard.read_bytes())
    raw[20] ^= 1
    shard.write_bytes(raw)
    html = render_report(DAY, [summary_of(damaged)])
    assert sorted(len(parts) for parts in media_in(html).values()) == [1, 2, 2, 2, 2, 2, 2]
    assert re.search(r"1 part of listed rows could not be read: .* item .*/painter.* in \S*shard-00000.media", html)


def test_without_their_layout_pictures_are_left_out_and_the_page_says_so(damaged: MediaSite) -> None:
    pictures_file(damaged, "shards.json").unlink()
    html = render_report(DAY, [summary_of(damaged)])
    assert all(list(parts) == ["speech"] for parts in media_in(html).values())
    assert re.search(
        r"Media generated_images\[.*\] v1 have lost their shards: .* Materialize the partition again", html
    )
