from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from headrace.generation.charts import Bar, Series, bars, columns
from headrace.generation.day_summary import CampaignDay, summarize_day
from headrace.generation.report import render_report, report_markdown, write_report
from headrace.generation.review import review_rows
from headrace.generation.review_settings import ReviewSettings
from headrace.version_sets.sets import VersionSets
from tests.generation.builders import DAY, Site, make_partition, make_site
from tests.text.foreign import EVERYTHING
from tests.text.rendered import texts_shown


def summary_of(site: Site, settings: ReviewSettings | None = None) -> CampaignDay:
    keys = site.campaign.partition_keys(DAY)
    content = {key: found for key in keys if (found := site.handoffs.newest("generated_content", key))}
    reviewed = {
        key: site.handoffs.publish(
            "reviewed_content",
            key,
            review_rows(handoff.table(), settings or ReviewSettings()).table,
            code_version="1",
            run_id="review",
        )
        for key, handoff in content.items()
    }
    version_sets = VersionSets(site.objects)
    return summarize_day(
        "glossary",
        DAY,
        partition_keys=keys,
        content=content,
        reviewed=reviewed,
        handoffs=site.handoffs,
        set_label=version_sets.label,
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A day of four partitions: one by the stable set, one by the candidate, two not made yet."""
    site = make_site(tmp_path)
    site.generate()
    site.start(2)
    site.partition = make_partition(1)
    site.put_prompts()
    site.generate(site.open_claim("run-2"))
    return site


def test_a_day_is_summed_up_by_set_shard_and_rule(site: Site) -> None:
    day = summary_of(site, ReviewSettings(words_min=9))
    assert (day.total.num_rows, day.num_sealed, len(day.shards)) == (14, 2, 4)
    sets = [(one.label.split(" · ")[0], one.figures.num_rows) for one in day.sets]
    assert sets == [("writer=tiny:1", 7), ("writer=tiny:2", 7)]
    assert sum(one.figures.num_kept for one in day.sets) == day.total.num_kept
    assert day.num_rejected_by == {"length": day.total.num_rejected}
    assert sum(sum(one.num_by_length) for one in day.sets) == 14
    assert [shard.figures is None for shard in day.shards] == [False, False, True, True]


def test_rows_of_a_rolled_back_set_are_still_accounted_for(site: Site) -> None:
    """The candidate's partition was reviewed, then made again on the stable set."""
    summary_of(site)
    site.abort(2)
    site.generate(site.open_claim("run-3", "current_set"))
    day = summary_of(site)
    assert [(one.label.split(" · ")[0], one.figures.num_rows) for one in day.sets] == [("writer=tiny:1", 14)]
    assert [(one.label.split(" · ")[0], one.figures.num_rows) for one in day.replaced] == [("writer=tiny:2", 7)]
    assert "replaced since" in render_report(DAY, [day])


def test_rows_that_nobody_reviewed_are_neither_kept_nor_rejected(site: Site) -> None:
    key = site.partition.key
    day = summarize_day(
        "glossary",
        DAY,
        partition_keys=[key],
        content={key: site.handoffs.open("generated_content", key)},
        reviewed={},
        handoffs=site.handoffs,
        set_label=str,
    )
    assert (day.total.num_rows, day.total.num_reviewed, day.total.num_rejected) == (7, 0, 0)
    assert day.total.pass_rate is None
    assert day.samples == ()


def test_a_page_is_the_same_for_the_same_day(site: Site) -> None:
    assert render_report(DAY, [summary_of(site)]) == render_report(DAY, [summary_of(site)])


def test_a_day_without_content_is_a_page_and_a_table_too(tmp_path: Path) -> None:
    day = summary_of(Site(tmp_path))
    assert "Nothing is sealed yet of: glossary." in render_report(DAY, [day])
    assert report_markdown([day]).startswith("|campaign|")


def test_markdown_stays_short_enough_to_be_shown_inline(site: Site) -> None:
    day = summary_of(site)
    text = report_markdown([day])
    assert "data:image/svg+xml;base64," in text
    assert f"|glossary|{day.sets[0].label}|7|" in text
    assert len(report_markdown([day] * 30)) < 1000


def test_a_set_named_after_foreign_text_is_a_cell_like_any_other(site: Site) -> None:
    day = summary_of(site)
    hostile = replace(day, campaign=EVERYTHING, sets=[replace(one, label=EVERYTHING[:70]) for one in day.sets])
    assert EVERYTHING[:70] in texts_shown(report_markdown([hostile]))


def test_a_page_is_written_whole_over_an_older_one(tmp_path: Path) -> None:
    file = tmp_path / "reports/day.html"
    assert write_report("old", file).read_text() == "old"
    assert write_report("new", file).read_text() == "new"
    assert [one.name for one in file.parent.iterdir()] == ["day.html"]


@pytest.mark.parametrize(
    "svg",
    [
        bars([Bar(label='<a> & "b"', value=0.5, text="50% <")], title='a "chart" <of> things', value_max=1.0),
        bars([], title="empty"),
        bars([Bar(label="x", value=0.0, text="0")], title="zero"),
        columns(["0–9", "10–19"], [Series(label="<s>", values=[3, 0])], title="lengths", unit="rows"),
        columns([], [], title="empty", unit="rows"),
    ],
    ids=["bars", "no bars", "a bar of nothing", "columns", "no columns"],
)
def test_charts_are_well_formed_whatever_they_show(svg: str) -> None:
    ElementTree.fromstring(svg)


def test_an_axis_writes_counts_as_counts() -> None:
    drawn = columns(["0–9"], [Series(label="a", values=[12_345])], title="lengths", unit="rows")
    assert ">12,345</text>" in drawn
    assert "12,345 rows" in drawn
    assert ">0.333</text>" in columns(["0–9"], [Series(label="a", values=[1 / 3])], title="shares", unit="of all")
