"""A day as the store has it: what is made, and what should be made again, by which command."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.clock import FixedClock
from headrace.generation.day_status import NUM_KEPT, DayStatus, read_days
from headrace.generation.freshness import shown_mark
from headrace.generation.left_behind import NUM_SHARDS
from headrace.generation.review import review_rows
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import Handoff
from tests.generation.builders import DAY, TEXTS, Site, make_partition, make_prompts, make_site

RUN = f"headrace run glossary --day {DAY}"


def look(site: Site, reports: Path = Path("/nowhere")) -> DayStatus:
    [day] = read_days(site.objects, {"glossary": site.state}, reports, num_days=1)
    return day


def review(site: Site, attributes: Mapping[str, str] | None = None) -> Handoff:
    content = site.handoffs.open("generated_content", site.partition.key)
    return site.handoffs.publish(
        "reviewed_content",
        site.partition.key,
        review_rows(content.table(), site.campaign.review).table,
        code_version="1",
        run_id="r",
        input_versions={f"generated_content[{site.partition.key}]": f"v{content.version} {content.content_digest}"},
        attributes=attributes,
    )


def stale(site: Site, reports: Path = Path("/nowhere")) -> list[tuple[str, str, int, str]]:
    return [(one.stage, one.reason, one.num_partitions, one.run) for one in look(site, reports).stale]


@pytest.fixture
def made(tmp_path: Path) -> Site:
    """One partition, generated and reviewed."""
    site = make_site(tmp_path / "store")
    site.generate()
    review(site)
    return site


def test_a_day_that_follows_from_its_prompts_and_its_rollout_is_not_stale(made: Site) -> None:
    assert stale(made) == []
    made.start(2, weight=0.1)
    assert stale(made) == [], "rows of the stable set are not old while another is on trial"


def test_rows_of_changed_prompts_are_made_again_by_a_run(made: Site) -> None:
    made.put_prompts([*TEXTS, "Define the noun more."])
    assert stale(made) == [("generated_content", "prompts_changed", 1, RUN)]


def test_prompts_that_were_sealed_again_unchanged_are_no_reason(made: Site) -> None:
    made.put_prompts([*TEXTS, "Define the noun more."])
    made.put_prompts()
    assert stale(made) == []


def test_rows_of_a_set_that_was_rolled_back_are_made_again_by_a_run(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.start(2)
    site.generate()
    assert stale(site) == [], "rows of the set on trial are not old"
    site.abort(2)
    assert stale(site) == [("generated_content", "rolled_back", 1, RUN)]


def test_rows_of_a_set_that_the_rollout_has_replaced_need_again(made: Site) -> None:
    made.start(2)
    made.promote(2)
    assert stale(made) == [("generated_content", "older_version_set", 1, f"{RUN} --again")]


def test_a_review_of_earlier_rows_is_told(made: Site) -> None:
    made.put_prompts([*TEXTS, "Define the noun more."])
    made.generate(made.open_claim("run-2"))
    assert stale(made) == [("reviewed_content", "content_changed", 1, RUN)]


def test_a_report_is_told_that_does_not_show_the_newest_rows(made: Site, tmp_path: Path) -> None:
    page, key = tmp_path / f"{DAY}.html", made.partition.key
    shown = [made.handoffs.open(asset, key).manifest for asset in ("generated_content", "reviewed_content")]
    page.write_text(f"<html>{shown_mark(shown)}")
    assert stale(made, tmp_path) == []
    for other in (shown_mark(shown[:1]), ""):
        page.write_text(f"<html>{other}")
        assert stale(made, tmp_path) == [("campaign_report", "rows_are_newer", 1, RUN)]


def test_kept_rows_are_counted_by_the_attribute_or_else_in_the_rows(made: Site) -> None:
    num_kept = sum(made.handoffs.open("reviewed_content", made.partition.key).table()["kept"].to_pylist())
    assert look(made).num_kept == num_kept
    review(made, {NUM_KEPT: "3"})
    assert look(made).num_kept == 3


def test_a_partition_that_cannot_be_read_is_counted_and_the_others_are_told(made: Site) -> None:
    other = Site(made.directory, partition=made.partition.__class__(day=DAY, campaign="glossary", shard=1))
    other.put_prompts()
    (made.directory / manifest_key("generated_content", made.partition.key, 1)).write_text("{}")
    day = look(made)
    assert (day.num_partitions, day.num_damaged, day.made) == (2, 1, (2, 0, 1))


def test_only_the_newest_days_are_told(made: Site) -> None:
    for day in ("2026-11-20", "2026-11-23"):
        partition = made.partition.__class__(day=day, campaign="glossary", shard=0)
        Site(made.directory, partition=partition).put_prompts()
    days = read_days(made.objects, {}, Path("/nowhere"), num_days=2)
    assert [one.day for one in days] == [DAY, "2026-11-23"]


def lower_num_shards(directory: Path) -> Site:
    """A day of two partitions whose list was then made one partition's; the other stays in the store."""
    clock = FixedClock()
    Site(directory, clock=clock).initialize()
    for num_shards, texts in ((2, [TEXTS[:2], TEXTS[2:4]]), (1, [TEXTS[:4]])):
        clock.advance(60)
        for shard, own in enumerate(texts):
            site = Site(directory, partition=make_partition(shard), clock=clock)
            site.seal_prompts(make_prompts(own), {NUM_SHARDS: str(num_shards)})
    return Site(directory, clock=clock)


def test_partitions_that_a_lower_num_shards_left_behind_do_not_count(tmp_path: Path) -> None:
    day = look(lower_num_shards(tmp_path))
    assert (day.num_partitions, day.num_left_behind, day.num_prompts) == (1, 1, 1)


def test_a_higher_num_shards_brings_them_back(tmp_path: Path) -> None:
    site = lower_num_shards(tmp_path)
    site.clock.advance(60)
    for shard in (0, 1):
        own = Site(tmp_path, partition=make_partition(shard), clock=site.clock)
        own.seal_prompts(make_prompts(TEXTS[2 * shard : 2 * shard + 2]), {NUM_SHARDS: "2"})
    day = look(site)
    assert (day.num_partitions, day.num_left_behind) == (2, 0)
