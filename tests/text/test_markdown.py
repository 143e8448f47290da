"""What readers of Dagster's UI see, through two implementations of its Markdown that nobody here wrote."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from headrace.text.markdown import inline, table
from headrace.text.visible import one_line
from tests.text.foreign import EVERYTHING, FOREIGN
from tests.text.rendered import render

# remark-gfm turns these into links after everything else is parsed, escapes or not.
_BARE_ADDRESS = re.compile(r"(?:https?://|www(?=\.))[-.\w]+|[-.\w+]+@[-\w]+(?:\.[-\w]+)+", re.IGNORECASE)
_CELL = re.compile(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", re.DOTALL)
_TABLE = {"table", "thead", "tbody", "tr", "th", "td"}
_RENDERERS = {
    "cmark-gfm": render,
    "markdown-it": MarkdownIt("commonmark").enable(["table", "strikethrough"]).render,
}


def _shown(rendered: str) -> list[str]:
    """Texts of a table's cells as a browser shows them, without the joiner that nobody sees."""
    return [html.unescape(cell).replace("\u2060", "") for cell in _CELL.findall(rendered)]


@pytest.mark.parametrize("renderer", _RENDERERS.values(), ids=_RENDERERS)
def test_foreign_text_in_a_table_is_seen_as_it_was_written(renderer):
    rendered = renderer(table(["a|b", "*n*"], [[text, "7"] for text in (*FOREIGN, EVERYTHING)], right=["*n*"]))
    assert _shown(rendered)[::2] == ["a|b", *map(one_line, (*FOREIGN, EVERYTHING))]
    assert _shown(rendered)[1::2] == ["*n*", *["7"] * (len(FOREIGN) + 1)]
    assert {tag.split()[0] for tag in re.findall(r"<([^/>]+)>", rendered)} == {
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert not _BARE_ADDRESS.search(html.unescape(rendered))


@pytest.mark.parametrize("renderer", _RENDERERS.values(), ids=_RENDERERS)
@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_text_alone_is_one_paragraph_of_text(renderer, text: str):
    rendered = renderer(inline(text))
    assert html.unescape(rendered).replace("\u2060", "") == f"<p>{one_line(text)}</p>\n"
    assert not _BARE_ADDRESS.search(html.unescape(rendered))


def test_a_cell_is_cut_by_its_own_characters_and_not_within_an_escape():
    assert inline("||||||", 4) == "&#124;&#124;&#124;…"
