"""The text of an HTML page: what it is about, without menus, notices and scripts; code, lists and tables as lines.

trafilatura decides what belongs to the text. It keeps little rather than a menu, so a page of links has none. A table
becomes a line for each row with bars between cells, a list item begins with a dash, and code keeps its indentation.
Only the markup counts: what a script would add is not there.

A page in another encoding than UTF-8 says so in its head; who knows it better says it in the layout. A page of more
than 4 MiB is refused: its markup alone takes trafilatura a minute. So is one whose elements are nested deeper than the
parser follows (about 2,000), since it would lose all text behind that place, and one with a tag of hundreds of
attributes, of which each is compared with all others.
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
# A tag with its attributes, where none of them is in a script; to the end of the page where it has no end.
_TAG = re.compile(
    r"""(?is)<!--(?:-?>|.*?-->|.*)|<((?:script|style)\b(?:[^>"']++|"[^"]*"|'[^']*')*+)(?:.*?</(?:script|style)|.*)"""
    r"""|<([a-z](?:[^>"']++|"[^"]*"|'[^']*')*+)"""
)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_ATTRIBUTE = re.compile(r"[^\s=/]+")
_TAG_ATTRIBUTES_MAX = 500
# trafilatura repeats what a list holds for each list around it.
_LISTS_DEPTH_MAX = 100
_TOO_DEEP = "its elements are nested deeper than can be read: its text behind that place would be lost"
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
    tree = _tree(html)
    title = tree.find(".//title")
    named = " ".join("".join(title.itertext()).split()) if title is not None else ""
    try:
        return trafilatura.extract(tree, favor_recall=True) or "", named or None
    except RecursionError:
        raise NoPage(_TOO_DEEP) from None


def _tree(html: str) -> Any:
    """As trafilatura parses it, but whole: its own parser ends at a depth of 256, and does not say so."""
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
    from lxml.html import HTMLParser, document_fromstring
    from trafilatura.utils import repair_faulty_html

    for tag in _TAG.finditer(html):
        opened = tag[1] or tag[2] or ""
        if len(opened) > 2 * _TAG_ATTRIBUTES_MAX:
            # Values count among the names where they have no quotes: twice as many words may be.
            num = len(_ATTRIBUTE.findall(_QUOTED.sub(" ", opened)))
            if num > 2 * _TAG_ATTRIBUTES_MAX:
                raise NoPage(f"a tag has more than {_TAG_ATTRIBUTES_MAX} attributes, the most that one may have")
    html = repair_faulty_html(html, html[:50].lower())
    parser = HTMLParser(
        collect_ids=False,
        default_doctype=False,
        encoding="utf-8",
        huge_tree=True,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        tree = document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    except (etree.LxmlError, ValueError):
        raise NoPage("no HTML") from None
    if any("xcessive depth" in entry.message for entry in parser.error_log):
        raise NoPage(_TOO_DEEP)
    depth = 0
    for event, _ in etree.iterwalk(tree, events=("start", "end"), tag=("ul", "ol", "dl")):
        depth += 1 if event == "start" else -1
        if depth > _LISTS_DEPTH_MAX:
            raise NoPage(_TOO_DEEP)
    return tree


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
        encoding = _AS_BROWSERS.get(name, name)
        if _reads_ascii(encoding):
            yield encoding


def _reads_ascii(encoding: str) -> bool:
    """Whether a head that was read as ASCII can be right about it: UTF-16 without its mark cannot, as in browsers."""
    try:
        return b"<meta>".decode(encoding) == "<meta>"
    except (LookupError, ValueError):
        return False
