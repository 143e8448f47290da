"""What a reader sees of Markdown, by GitHub's own renderer, which nobody here wrote."""

import html
import re

import cmarkgfm
from cmarkgfm.cmark import Options

# What remark-gfm, of Dagster's UI, makes links of after everything else is parsed.
_BARE_ADDRESS = re.compile(r"(?:https?://|www(?=\.))[-.\w]+|[-.\w+]+@[-\w]+(?:\.[-\w]+)+", re.IGNORECASE)
_TAG = re.compile(r"<(/?\w+)([^>]*)>")
_DATA_PICTURE = re.compile(r' src="data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+" alt="[a-z0-9, ]+" /')
_HARMLESS = {"table", "thead", "tbody", "tr", "th", "td", "p", "strong", "em"}


def render(markdown: str) -> str:
    """HTML with whatever the text brings: nothing is cleaned up after the fact."""
    return cmarkgfm.github_flavored_markdown_to_html(markdown, options=Options.CMARK_OPT_UNSAFE)


def texts_shown(markdown: str) -> list[str]:
    """The texts of a rendering, cell by cell; fails if there is anything that is fetched, linked or foreign HTML."""
    rendered = render(markdown)
    for tag, attributes in _TAG.findall(rendered):
        harmless = tag.strip("/") in _HARMLESS and attributes in {"", ' align="right"'}
        assert harmless or (tag == "img" and _DATA_PICTURE.fullmatch(attributes)), (tag, attributes)
    texts = [html.unescape(text).strip() for text in _TAG.sub("\n", rendered).split("\n") if text.strip()]
    assert not any(_BARE_ADDRESS.search(text) for text in texts), texts
    return [text.replace("\u2060", "") for text in texts]
