"""The rollout page: whole, self-contained, and safe to open."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from headrace.rollout import interventions
from headrace.rollout.charts import Interval, interval_chart, weight_chart
from headrace.rollout.gates import MIRRORED_PASS_RATE, PASS_RATE, Evidence, GateSettings, decide
from headrace.rollout.page import page_markdown, render_page
from headrace.rollout.plan import Plan
from headrace.rollout.sequential.samples import Sample
from headrace.rollout.status import BadRows, read_status
from tests.rollout.builders import steps
from tests.rollout.scenes import ANA, Scene, make_long_scene

PLAN = Plan(steps=steps(0.05, 0.25, 0.5), quorum=2)
_VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Complains about a tag that is not closed, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text_of(page: str) -> str:
    reader = Balanced()
    reader.feed(page)
    assert reader.open == []
    return " ".join(" ".join(reader.text).split())


def page_of(scene: Scene, **changes: Any) -> str:
    return render_page(replace(read_status(scene.store, scene.name, scene.clock, plan=PLAN), **changes))


def test_the_page_says_where_the_rollout_stands(tmp_path: Path) -> None:
    text = text_of(page_of(make_long_scene(tmp_path)))
    assert "support on trial" in text
    assert "gets 25% of the units beside" in text
    assert "884 units of at most 2,000" in text
    assert "2 of 3 step" in text
    assert "gateway-a ready 14.2 judge, writer" in text
    assert "rolled back moved at their next turn" in text
    assert "writer.decoding.temperature 0.7 0.4" in text


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = page_of(make_long_scene(tmp_path))
    links = re.findall(r"(?:src|href|url|@import)\s*[=(]", page)
    assert links == []
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "<script" not in page


def test_every_entry_stands_in_the_journal_newest_first(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    page = page_of(scene)
    digests = re.findall(r'title="([0-9a-f]{64})"><code>[0-9a-f]{12}</code></td></tr>\n<tr><td class="n">', page)
    assert digests == [entry.digest for entry in reversed(scene.journal.entries())][: len(digests)]
    assert len(digests) == len(scene.journal.entries()) - 1


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.start(2)
    nasty = "<script>alert('a')</script><b>&"
    interventions.pause(scene.journal, by=nasty, reason=nasty)
    page = page_of(scene, drift=(nasty,))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    assert nasty in text_of(page)


def test_words_of_a_prompt_that_changed_are_marked(tmp_path: Path) -> None:
    page = page_of(make_long_scene(tmp_path))
    assert "You answer in short and <del>friendly</del> sentences." in page
    assert "You answer in short and <ins>exact</ins> sentences." in page


@pytest.mark.parametrize(
    ("arrange", "tag"),
    [
        (lambda scene: None, "stable"),
        (lambda scene: scene.add("proposed", 2), "being prepared"),
        (lambda scene: scene.start(2), "on trial"),
        (lambda scene: (scene.start(2), interventions.pause(scene.journal, **ANA)), "paused"),
        (lambda scene: scene.abort(2), "rolled back"),
        (lambda scene: scene.promote(2), "promoted"),
    ],
    ids=["stable", "proposed", "trial", "paused", "rolled back", "promoted"],
)
def test_the_tag_says_it_in_two_words(arrange: Any, tag: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    arrange(scene)
    assert f"support {tag}" in text_of(page_of(scene))


def test_rows_to_make_again_come_first(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.abort(2)
    rows = [
        BadRows(version_set=scene.sets[2].id, partition=key, version=version, num_rows=1000, is_published=version == 1)
        for version, key in enumerate(("2026-11-20|a-00", "2026-11-21|a-00"))
    ]
    text = text_of(page_of(scene, bad_rows=tuple(rows)))
    assert "made 2,000 rows; 1,000 of them are still what readers get" in text
    assert text.index("2026-11-21|a-00 v1 1,000 to make again") < text.index("2026-11-20|a-00 v0 1,000 replaced")


def test_a_set_that_cannot_be_read_is_shown_with_its_error(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.start(2)
    (tmp_path / f"version_sets/{scene.sets[2].id}.json").unlink()
    text = text_of(page_of(scene))
    assert "is not in the store" in text
    assert "so what differs is unknown" in text


def test_evidence_is_shown_with_bands_margins_and_words(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    gate = GateSettings(min_rows=50, pass_rate_margin=None, margins={"error": 0.02, "latency_seconds": 0.5})
    evidence = Evidence(
        metrics={
            "error": (Sample.of_counts(860, 11), Sample.of_counts(2600, 31)),
            "latency_seconds": (Sample(), Sample.of_values([1.0, 2.0] * 40)),
            "output_tokens": (Sample.of_values([60.0, 62.0] * 40), Sample.of_values([58.0, 56.0] * 40)),
        },
        heldout_candidate=3.0134,
        heldout_stable=3.0,
    )
    verdict = decide(evidence, gate, is_last_step=False)
    page = page_of(scene, plan=replace(PLAN, gate=gate), evidence=evidence, verdict=verdict)
    text = text_of(page)
    assert f"The gate says: {verdict.action.replace('_', ' ')} {verdict.reason}" in text
    assert "Share of failed units candidate 1.28% of 860 stable 1.19% of 2,600" in text
    assert f"The candidate is {verdict.findings['error'].sentence}." in text
    assert "Seconds a unit stable 1.5 of 80" in text
    assert "Too few of both sets to compare yet." in text
    assert "Output tokens a unit candidate 61 of 80 stable 57 of 80" in text
    assert "Not judged by this plan." in text
    assert "candidate 3.013 stable 3.000" in text
    assert page.count('band"') == 4  # both sets' errors, their difference, and the stable set's seconds


def test_the_evidence_of_a_trial_that_is_over_explains_its_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.abort(2)
    # What came after it has no evidence yet, and does not borrow any.
    scene.add("proposed", 3)
    gate = GateSettings(min_rows=50, pass_rate_margin=0.1)
    evidence = Evidence(metrics={PASS_RATE: (Sample.of_counts(100, 40), Sample.of_counts(400, 380))})
    verdict = decide(evidence, gate)
    text = text_of(page_of(scene, plan=replace(PLAN, gate=gate), evidence=evidence, verdict=verdict))
    assert "Evidence of the last trial" in text
    assert "rolled back 40% of 100 stable 95% of 400" in text
    assert "The gate says" not in text
    assert "Last entry: proposed, by controller" in text


def test_mirrored_rows_are_shown_as_a_difference(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    gate = GateSettings(min_rows=20, pass_rate_margin=None, margins={"mirrored_pass_rate": 0.1})
    evidence = Evidence(paired={MIRRORED_PASS_RATE: Sample.of_values([0.0] * 380 + [-1.0] * 11 + [1.0] * 9)})
    verdict = decide(evidence, gate, is_last_step=False)
    text = text_of(page_of(scene, plan=replace(PLAN, gate=gate), evidence=evidence, verdict=verdict))
    assert "Over 400 prompts the candidate is " in text
    assert "worse by margin 10%" in text


def test_a_roles_metric_has_a_heading_in_words(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    margins = {"painter.pass_rate": 0.2, "speaker.character_error_rate": 0.1}
    gate = GateSettings(min_rows=50, pass_rate_margin=None, margins=margins)
    arms = (Sample.of_counts(100, 90), Sample.of_counts(100, 95))
    evidence = Evidence(metrics=dict.fromkeys(margins, arms))
    verdict = decide(evidence, gate, is_last_step=False)
    text = text_of(page_of(scene, plan=replace(PLAN, gate=gate), evidence=evidence, verdict=verdict))
    assert "Share of its parts that the review keeps (painter)" in text
    assert "Share of letters misheard (speaker)" in text
    assert "Painter.pass_rate" not in text


def test_an_empty_rollout_has_a_page(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    text = text_of(render_page(read_status(scene.store, "nothing", scene.clock)))
    assert "nothing not started" in text


def test_the_markdown_is_short_and_keeps_the_newest_entries(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    for number in range(30):
        act = interventions.pause if number % 2 == 0 else interventions.resume
        act(scene.journal, by="ana", reason="because | it is " + "long " * 60)
    markdown = page_markdown(read_status(scene.store, scene.name, scene.clock))
    assert len(markdown) < 1000
    assert markdown.startswith("**writer=tiny:4")
    rows = [line for line in markdown.splitlines() if re.match(r"\|\d", line)]
    assert [int(row.split("|")[1]) for row in rows] == sorted(int(row.split("|")[1]) for row in rows)
    assert int(rows[-1].split("|")[1]) == scene.journal.head()
    assert all("because &#124; it is" in row for row in rows[-3:])


def test_weights_are_drawn_in_order_and_within_the_chart(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    status = read_status(scene.store, scene.name, scene.clock)
    chart = ElementTree.fromstring(weight_chart(status.history, dict.fromkeys(status.sets, 0), now=status.now))
    shares = [node for node in chart.iter() if node.get("class", "").endswith("share")]
    edges = [(float(node.attrib["x"]), float(node.attrib["x"]) + float(node.attrib["width"])) for node in shares]
    assert [round(float(node.attrib["height"]) / 190, 3) for node in shares] == [0.05, 0.5, 0.1, 0.05, 0.25]
    assert edges == sorted(edges)
    assert edges[-1][1] <= 1080


def test_clocks_that_ran_backwards_still_draw_a_chart(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.clock.advance(-9000)
    scene.start(2)
    status = read_status(scene.store, scene.name, scene.clock)
    chart = ElementTree.fromstring(weight_chart(status.history, dict.fromkeys(status.sets, 0), now=0.0))
    assert all(float(node.attrib["width"]) >= 0 for node in chart.iter() if node.get("width"))


@pytest.mark.parametrize("worse", ["higher", "lower"])
def test_a_band_is_drawn_around_its_mean(worse: str) -> None:
    rows = [
        Interval(label="candidate", mean=0.9, low=0.85, high=0.93, text="90%"),
        Interval(label="stable", mean=0.92, text="92%", color=1),
    ]
    drawn = interval_chart(rows, title="a < b", bound=0.82, worse=worse, is_share=True)
    chart = ElementTree.fromstring(drawn)
    nodes = list(chart.iter())
    band = next(node for node in nodes if node.get("class", "").endswith("band"))
    dot = next(node for node in nodes if node.get("cx"))
    left = float(band.attrib["x"])
    assert left < float(dot.attrib["cx"]) < left + float(band.attrib["width"])
    beyond = next(node for node in nodes if node.get("class") == "beyond")
    line = next(node for node in nodes if node.get("class") == "bound")
    edge = float(beyond.attrib["x"]) + (float(beyond.attrib["width"]) if worse == "lower" else 0.0)
    assert edge == pytest.approx(float(line.attrib["x1"]), abs=0.11)
