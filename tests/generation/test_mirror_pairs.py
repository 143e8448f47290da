"""Pictures of two version sets side by side on the rollout's page."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.generation.mirror_pairs import trial_pairs
from headrace.generation.mirroring import COMPARISON
from headrace.handoff.versions import Handoff
from headrace.rollout.media_pairs import MediaPairs
from headrace.rollout.page import render_page
from headrace.rollout.status import read_status
from tests.generation.builders import TEXTS
from tests.generation.media_builders import MediaSite, make_media_site, start
from tests.handoff.media.builders import flip, store_files
from tests.rollout.test_page import text_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> MediaSite:
    """A stable set's partition, mirrored on a candidate with another painter."""
    return make_trial(tmp_path_factory.mktemp("site"))


def make_trial(directory: Path) -> MediaSite:
    site = make_media_site(directory)
    site.generate()
    start(site, site.make_set(painter=2))
    site.mirror("candidate", open_engine=site.open_rows, open_media=site.open_media)
    return site


def pairs_of(site: MediaSite, **bounds: Any) -> MediaPairs:
    return trial_pairs(site.handoffs, site.campaign.name, site.state, **bounds)


def page_of(site: MediaSite, pairs: MediaPairs) -> str:
    return render_page(read_status(site.objects, site.campaign.name, FixedClock()), pairs)


def test_both_sets_pictures_of_one_text_stand_side_by_side(site: MediaSite) -> None:
    pairs = pairs_of(site)
    assert (len(pairs.shown), pairs.num_rows) == (len(TEXTS), len(TEXTS))
    for pair in pairs.shown:
        assert pair.prompt in TEXTS
        assert pair.stable.text == pair.candidate.text
        assert [part.role for part in pair.stable.parts] == ["painter", "speaker"]
        # The recordings are the same; who listens to one has heard both.
        assert [part.role for part in pair.candidate.parts] == ["painter"]
        assert pair.candidate.equal == ("speaker",)
        assert pair.stable.parts[0].url != pair.candidate.parts[0].url


def test_the_page_shows_them_and_fetches_nothing(site: MediaSite) -> None:
    page = page_of(site, pairs_of(site))
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3 * len(TEXTS)
    assert all(source.startswith(("data:image/png;", "data:audio/ogg;")) for source in sources)
    assert "speaker: the same bytes" in page
    assert f"{len(TEXTS)} of {len(TEXTS)} rows of the newest mirrored partition" in page
    assert "Side by side" not in page_of(site, MediaPairs())


def test_a_page_takes_as_many_pairs_as_it_may(site: MediaSite) -> None:
    assert len(pairs_of(site, num_pairs=3).shown) == 3
    some = pairs_of(site, bytes_max=60_000)
    assert 0 < len(some.shown) < len(TEXTS)
    assert len(page_of(site, some)) < 100_000
    assert pairs_of(site, bytes_max=0).shown == []


def test_rows_on_which_the_verdicts_differ_come_first(site: MediaSite) -> None:
    from headrace.generation.mirror_pairs import _chosen

    rows = [
        {"published_row_id": f"{n:02d}", "published_kept": n != 7, "mirrored_kept": n not in (5, 9)} for n in range(12)
    ]
    assert [row["published_row_id"] for row in _chosen(rows, 4)] == ["05", "07", "00", "01"]


def test_without_a_trial_or_a_mirror_there_are_no_pairs(site: MediaSite, tmp_path: Path) -> None:
    assert trial_pairs(site.handoffs, site.campaign.name, None) == MediaPairs()
    other = make_media_site(tmp_path)
    assert pairs_of(other) == MediaPairs()
    assert trial_pairs(site.handoffs, "another", site.state) == MediaPairs()


def test_damaged_media_are_told_on_the_page_and_stop_nothing(tmp_path: Path) -> None:
    site = make_trial(tmp_path)
    images: Handoff = site.handoffs.open("mirrored_images", site.partition.key)
    for file in store_files(images, ".media"):
        flip(file, 200)
    pairs = pairs_of(site)
    assert "do not match their index" in pairs.problem
    assert "do not match their index" in text_of(page_of(site, replace(pairs)))
    assert site.handoffs.partitions(COMPARISON)
