"""Foreign text in everything that Dagster's UI shows as Markdown."""

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.handoff.preview import preview_markdown
from headrace.rollout import interventions
from headrace.rollout.page import page_markdown, render_page
from headrace.rollout.status import read_status
from headrace.rollout.tables import journal_markdown
from headrace.text.visible import one_line
from headrace.training.heldout import SAMPLE_ARROW, Evaluation
from headrace.training.tables import samples_markdown
from headrace_dagster.handoff_metadata import lineage_markdown
from tests.rollout.scenes import Scene
from tests.text.foreign import FOREIGN
from tests.text.rendered import texts_shown

# A cell ends at 24 to 90 characters.
_BEGINNING = 20


def _begins(texts: Sequence[str], text: str) -> bool:
    wanted = one_line(text)[:_BEGINNING]
    return any(wanted in shown for shown in texts)


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_a_preview_shows_names_and_cells_as_they_are(text: str):
    readable = text.encode("utf-8", "replace").decode()
    shown = texts_shown(preview_markdown(pa.table({readable: [readable, None], "n": [1, 2]})))
    assert [one for one in shown if one.startswith(one_line(readable)[:10])] != []
    assert shown[-1] == "2"


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_samples_of_two_models_are_three_cells(text: str):
    def evaluation(answer: str) -> Evaluation:
        return Evaluation(
            weights_digest="a" * 64,
            heldout_loss=1.0,
            heldout_tokens=1,
            heldout_digest="b" * 64,
            seconds=1.0,
            samples=(f"{text}{SAMPLE_ARROW}{answer}",),
        )

    shown = texts_shown(samples_markdown(evaluation("before"), evaluation(text)))
    assert shown[:3] == ["prompt", "base", "trained"]
    assert shown[4] == "before"
    assert len(shown) == 6


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_a_journal_and_a_status_show_who_and_why_in_one_row(text: str, tmp_path: Path):
    if "\ud83d" in text:
        pytest.skip("a journal takes no text that UTF-8 has no form for")
    scene = Scene(tmp_path)
    scene.start(2)
    interventions.pause(scene.journal, by=text, reason=text)
    journal = texts_shown(journal_markdown(scene.journal.entries()))
    assert journal[:5] == ["#", "time", "event", "set", "reason"]
    assert _begins(journal[-1:], text)
    status = read_status(scene.store, scene.name, scene.clock)
    shown = texts_shown(page_markdown(status))
    assert _begins(shown[-1:], text)
    assert _begins(shown[-2:-1], text)
    assert one_line(text) in _text_of_page(render_page(replace(status, drift=(one_line(text),))))


def test_a_lineage_shows_names_as_they_are():
    shown = texts_shown(lineage_markdown(dict.fromkeys(FOREIGN[:6], "v1 abc")))
    assert shown[3::3] == [one_line(text) for text in FOREIGN[:6]]


def _text_of_page(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page))
