"""The text of an HTML page: what it is about, without menus, notices and scripts; code, lists and tables as lines.

trafilatura decides what belongs to the text. It keeps little rather than a menu, so a page of links has none. A table
becomes a line for each row with bars between cells, a list item begins with a dash, and code keeps its indentation.
Only the markup counts: what a script would add is not there.

A page in another encoding than UTF-8 says so in its head; who knows it better says it in the layout. A page of more
than 4 MiB is refused: its markup alone takes trafilatura a minute.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.user_files.layout import FileLayout, Record, Unreadable, missing_columns

PAGE_BYTES_MAX = 4 * 2**20
COLUMNS = ("text", "title")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]{2,40})", re.IGNORECASE)
# Where the standard wants a page to say it; a byte order mark comes before.
_HEAD_BYTES = 4096
# What browsers take an old name for. Source: encoding.spec.whatwg.org, names and labels.
_AS_BROWSERS = {
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
}
_DOCUMENT = re.compile(r"(?i)<(?:html|body|!doctype)\b")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


class NoPage(ValueError):
    """What is no HTML page that can be read; the text says why."""


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
        text, title = page_of(_decoded(body, layout))
    except NoPage as error:
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
    html = _NO_XML.sub(" ", html)
    if not _DOCUMENT.search(html):
        # A part, such as a database keeps; alone it is taken for no HTML.
        html = f"<html><body><article>{html}</article></body></html>"
    tree = trafilatura.load_html(html)
    if tree is None:
        raise NoPage("no HTML")
    title = tree.find(".//title")
    named = " ".join("".join(title.itertext()).split()) if title is not None else ""
    return trafilatura.extract(tree, favor_recall=True) or "", named or None


def _trafilatura() -> Any:
    try:
        import trafilatura
    except ImportError as error:
        raise InvalidInput(
            'HTML is read with trafilatura, which is not installed: install "headrace[html]", or prepare the texts '
            f"yourself ({error})."
        ) from error
    return trafilatura


def _decoded(body: bytes, layout: FileLayout) -> str:
    for encoding in _encodings(body, layout):
        try:
            return body.decode(encoding)
        except (LookupError, ValueError):
            continue
    raise NoPage(f"wrong encoding, wanted {' or '.join(layout.encodings)}, or what its head says")


def _encodings(body: bytes, layout: FileLayout) -> Iterator[str]:
    """In the order in which they are tried: the layout's word, UTF-8, which nothing else looks like, the page's."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield "utf-16"
    yield from (encoding for encoding in layout.encodings if encoding != "utf-8")
    yield "utf-8-sig"
    if said := _META_CHARSET.search(body[:_HEAD_BYTES]):
        name = said[1].decode().lower()
        yield _AS_BROWSERS.get(name, name)
