"""A day's report as a page: its structure, what it says and links to, and its size."""

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from headrace.generation.day_summary import CampaignDay
from headrace.generation.report import BYTES_MAX, render_report
from tests.generation.days import DAY, seal_day, sealed_rows

UI = "http://127.0.0.1:3000"
_VOID = {"meta", "input", "link", "br", "hr", "img"}


class Page(HTMLParser):
    """A page's elements with their attributes; fails where elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs), list(self._open)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), list(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts.append(data)
        elif "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    @property
    def links(self) -> list[str]:
        return [href for one in self.all("a") if (href := one["href"])]


def rows_of(page: str) -> list[list[object]]:
    return json.loads(Page(page).scripts[0])["rows"]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> CampaignDay:
    return seal_day(tmp_path_factory.mktemp("day"), 40)


def test_a_page_needs_nothing_but_itself_and_runs_no_script_but_its_own(day: CampaignDay) -> None:
    page = Page(render_report(DAY, [day]))
    assert page.links == ["#rows"]
    for _, attributes, _ in page.elements:
        assert attributes.keys().isdisjoint({"src", "srcset", "data", "action", "style", "onclick", "onload"})
    policy = next(one["content"] for one in page.all("meta") if "http-equiv" in one)
    assert policy
    data, script = page.scripts
    assert [one.get("type") for one in page.all("script")] == ["application/json", None]
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none';")
    assert len(json.loads(data)["rows"]) == 40
    assert "innerHTML" not in script


def test_a_screen_reader_finds_names_headers_and_every_control(day: CampaignDay, tmp_path: Path) -> None:
    page = Page(render_report(DAY, [day, seal_day(tmp_path, 4, campaign="other")], ui_url=UI))
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert max(Counter(ids).values()) == 1
    named = [one[name] for _, one, _ in page.elements for name in ("aria-labelledby", "aria-controls") if name in one]
    assert set(named) <= set(ids)
    assert all(one.get("scope") == "col" for one in page.all("th"))
    assert all("label" in around for tag, _, around in page.elements if tag in {"input", "select"})
    assert all(one.get("aria-label") and one.get("role") == "img" for one in page.all("svg"))
    assert [tag for tag, _, _ in page.elements if tag in {"h1", "h2"}] == ["h1", "h2", "h2", "h2"]
    assert [attributes["id"] for _, attributes, _ in page.elements if attributes.get("role") == "status"] == ["count"]


def test_without_a_script_the_figures_stand_and_the_list_says_what_it_lacks(day: CampaignDay) -> None:
    page = Page(render_report(DAY, [day]))
    assert [one for one in page.all("div") if "hidden" in one] == [{"id": "list", "hidden": None}]
    assert "1 campaign, 40 rows, 90% of 40 reviewed ones kept." in page.text
    assert "2 of 3 partitions are sealed" in page.text
    assert f"headrace export {DAY} --rejected" in page.text


def test_figures_are_those_of_the_sealed_tables(tmp_path: Path) -> None:
    day = seal_day(tmp_path, 90, rejected=lambda number: ["empty", "length"][: number % 3])
    rows, text = sealed_rows(tmp_path), Page(render_report(DAY, [day])).text
    num_kept = rows["kept"].sum()
    assert f"{num_kept / rows.height:.0%}kept of {rows.height} reviewed" in text
    for rule, count in rows["rejected_by"].explode().drop_nulls().value_counts().iter_rows():
        assert f"{rule}{count}" in text


def test_campaigns_that_made_rows_come_first_and_the_others_in_one_line(day: CampaignDay) -> None:
    unmade = [replace(day, campaign=name, shards=(), rows=day.rows.clear()) for name in ("early", "late")]
    text = Page(render_report(DAY, [unmade[0], day, unmade[1]])).text
    assert text.index("glossary") < text.index("Nothing is sealed yet of: early, late.")
    assert text.count("early") == 1


def test_partitions_link_into_dagster_by_partition_and_run(day: CampaignDay) -> None:
    links = Page(render_report(DAY, [day], ui_url=UI)).links
    shards = [f"{DAY}%7Cglossary-{shard:02d}" for shard in range(3)]
    assert [link for link in links if "/assets/" in link] == [
        f"{UI}/assets/generated_content?view=partitions&partition={shard}" for shard in shards
    ]
    prefixed = Page(render_report(DAY, [day], ui_url=UI, content_key="ours/generated_content")).links
    assert f"{UI}/assets/ours/generated_content?view=partitions&partition={shards[0]}" in prefixed
    assert [link for link in links if "/runs/" in link] == [f"{UI}/runs/run-of-{shard}" for shard in shards[:2]]


def test_text_from_models_is_escaped_in_samples_and_in_the_list(tmp_path: Path) -> None:
    html = render_report(DAY, [seal_day(tmp_path, 2, output=lambda _: "</script><script>alert(1)</script> &amp; <!--")])
    assert html.count("<script") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;amp;" in html
    assert [row[7] for row in rows_of(html)] == ["</script><script>alert(1)</script> &amp; <!--"] * 2


def test_a_full_day_is_at_most_five_million_bytes_and_says_what_is_left_out(day: CampaignDay) -> None:
    """48,310 rows, which only fit as a sample; every rejected one is counted, and here every one is listed."""
    numbers = pl.int_range(48_310, eager=True)
    full = replace(
        day,
        num_rejected_by={"length": 4_831},
        rows=pl.select(
            row_id=numbers.cast(pl.String).map_elements(
                lambda text: hashlib.sha256(text.encode()).hexdigest(), pl.String
            ),
            prompt=pl.format("Define the noun word{}.", numbers),
            output=pl.format(
                "{} ünd sö wéiter, Wört für Wört und Satz für Satz, bis die Seite voll ist" + "." * 300, numbers
            ),
            version_set=pl.lit(day.sets[0].version_set),
            kept=numbers % 10 != 0,
            rejected_by=pl.when(numbers % 10 == 0).then(pl.lit(["length"])).otherwise(pl.lit([], pl.List(pl.String))),
            partition=pl.lit(day.shards[0].partition),
            variation=pl.lit(None, pl.Int32),
        ),
    )
    html = render_report(DAY, [full])
    assert BYTES_MAX * 0.99 < len(html.encode()) <= BYTES_MAX == 5_000_000
    found = re.search(r"([\d,]+) of 48,310 rows are listed, their texts up to 160 characters: ([^<]*)\.", html)
    assert found
    assert found[2] == "all 4,831 that were rejected, and a fair sample of the others"
    rows = rows_of(html)
    assert f"{len(rows):,}" == found[1]
    assert sum(row[3] == 1 for row in rows) == 4_831


def test_figures_that_do_not_fit_are_named(day: CampaignDay) -> None:
    days = [replace(day, campaign=f"campaign-{number:02d}", rows=day.rows.clear()) for number in range(12)]
    html = render_report(DAY, days, bytes_max=120_000)
    assert len(html.encode()) <= 120_000
    assert "Their figures did not fit on this page" in html
    assert "campaign-11." in html


def test_of_many_shards_the_slowest_are_drawn_and_the_first_are_listed(day: CampaignDay) -> None:
    shards = [
        replace(day.shards[0], shard=f"s-{number}", figures=replace(day.total, seconds=300.0 - number))
        for number in range(250)
    ]
    html = render_report(DAY, [replace(day, shards=tuple(shards))])
    assert "the slowest; 234 more are faster" in html
    assert "And 50 partitions more, 50 of them sealed." in html
    assert (html.count("<td>s-199</td>"), html.count("<td>s-200</td>")) == (1, 0)
