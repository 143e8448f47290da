"""The text of an HTML page: what it is about, without menus, notices and scripts; code, lists and tables as lines.

trafilatura decides what belongs to the text, and leaves out navigation, what is beside and below the text, forms,
divisions and short paragraphs that are little but links, and a heading that nothing follows. A page of links has no
text. Other words are kept, once and in their order, whatever element they are in. A table
becomes a line for each row with bars between cells, a list item begins with a dash, and code keeps its indentation.
Only the markup counts: what a script would add is not there.

Short texts, which trafilatura breaks at elements within a line, are written as the page has them; so are parts of
pages, such as a database keeps, in which nothing is a menu. A page of more than 30,000 elements or with thousands of
links in one paragraph, for which trafilatura would take minutes, is written whole, menus and all. In the other pages a
paragraph of more than 50 characters that repeats the one before is left out.

A page of more than 4 MiB is refused. So is one whose elements are nested deeper than the parser follows (about 2,000),
since it would lose all text behind that place, and one with a tag of hundreds of attributes, of which each is compared
with all others.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.user_files.html_encodings import WrongEncoding, decoded_page
from headrace.user_files.html_text import lines_of
from headrace.user_files.html_tree import TOO_DEEP, NoPage, make_simple, tree_of
from headrace.user_files.layout import FileLayout, Record, Unreadable, missing_columns

PAGE_BYTES_MAX = 4 * 2**20
COLUMNS = ("text", "title")
_DOCUMENT = re.compile(r"(?i)<(?:html|body|!doctype)\b")
# Below it trafilatura takes what it finds by other ways, which break lines at elements within a line and join blocks.
# Source: MIN_EXTRACTED_SIZE in its settings.cfg.
_SHORT_CHARS = 250
# What the two ways of writing a text differ in: blanks, dashes of list items, bars of tables.
_BETWEEN_WORDS = re.compile(r"[\s|-]+")


def read_html(path: Path, layout: FileLayout) -> Iterator[Record | Unreadable]:
    """One record for the page: its `text`, empty if there is none, and its `title`, null if there is none."""
    if missing := [name for name in layout.columns if name not in COLUMNS]:
        yield missing_columns(missing, list(COLUMNS))
        return
    with pa.input_stream(str(path), compression="detect") as stream:
        body = stream.read(PAGE_BYTES_MAX + 1)
    try:
        if len(body) > PAGE_BYTES_MAX:
            raise NoPage(f"longer than {PAGE_BYTES_MAX:,} bytes, the most that one page may have")
        _trafilatura()
        text, title = page_of(decoded_page(body, layout.encodings))
    except (NoPage, WrongEncoding) as error:
        yield Unreadable(line=0, reason=str(error), excerpt=repr(body[:80]), loses_file=True)
        return
    yield Record(line=1, fields={"text": text, "title": title})


def page_of(html: str) -> tuple[str, str | None]:
    """The text of a page or of a part of one, and its title.

    Raises:
        NoPage: it is too long, or no HTML. InvalidInput: the package that reads it is not installed.
    """
    if len(html) > PAGE_BYTES_MAX:
        raise NoPage(f"longer than {PAGE_BYTES_MAX:,} characters, the most that one page may have")
    trafilatura = _trafilatura()
    whole = _DOCUMENT.search(html)
    tree = tree_of(html if whole else f"<html><body>{html}</body></html>")
    title = tree.find(".//title")
    named = " ".join("".join(title.itertext()).split()) if title is not None else ""
    lines = lines_of(tree)
    if not whole or not make_simple(tree):
        return "\n".join(lines), named or None
    try:
        found = trafilatura.extract(tree, favor_recall=True) or ""
    except RecursionError:
        raise NoPage(TOO_DEEP) from None
    return _as_it_stands(found, lines) if len(found) < _SHORT_CHARS else found, named or None


def _as_it_stands(found: str, lines: list[str]) -> str:
    """Those of the page's lines that are in what was found, if all of that is in them.

    Both have the same order. trafilatura leaves out a paragraph that repeats the one before, which is here.
    """
    wanted = _words(found)
    kept: list[str] = []
    end = 0
    for line in lines:
        words = _words(line)
        if words and wanted.startswith(words, end):
            kept.append(line)
            end += len(words)
        elif kept and line == kept[-1]:
            kept.append(line)
    return "\n".join(kept) if end == len(wanted) else found


def _words(text: str) -> str:
    return _BETWEEN_WORDS.sub("", unicodedata.normalize("NFC", text))


def _trafilatura() -> Any:
    try:
        import trafilatura
    except ImportError as error:
        raise InvalidInput(
            'HTML is read with trafilatura, which is not installed: install "headrace[html]", or prepare the texts '
            f"yourself ({error})."
        ) from error
    return trafilatura
