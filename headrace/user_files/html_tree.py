"""The tree of an HTML page, within the limits that reading it has, and made simple for trafilatura.

Every limit counts what makes reading slow or loses text, before it does.
"""

import re
from typing import Any

from headrace.user_files.html_text import BLOCKS, NO_XML

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
TOO_DEEP = "its elements are nested deeper than can be read: its text behind that place would be lost"

# Without a meaning that plain text shows. trafilatura unwraps most of them too, but later; what `time` holds it leaves
# out, even in the middle of a sentence.
_TAGS_WITHIN_A_LINE = (
    "abbr acronym b bdi bdo big cite data dfn em font i img ins kbd mark nobr rb ruby samp small span "
    "strong sub sup time tt u var wbr"
)
_WITHIN_A_LINE = tuple(_TAGS_WITHIN_A_LINE.split())
_UNWRAPPED = "unwrapped"
# Fields of forms and the readings beside Chinese characters: trafilatura takes them into a short page, and out of a
# longer one.
_BESIDE_THE_TEXT = ("button", "datalist", "input", "rp", "rt", "rtc", "select", "svg", "textarea")
# trafilatura keeps these as elements, each with a text of its own.
_ENDS_RUN = BLOCKS | {"br", "code", "del", "s", "strike"}
# trafilatura takes up to 10 CPU s for so many, and four times as long for twice as many.
ELEMENTS_MAX = 30_000
# Links that follow each other in one paragraph: so many take a second. Several such count by their squares.
RUN_MAX = 4_000
_BLANK_LINE = re.compile(r"(?<=\n)[^\S\n]*(?=\n)")
# trafilatura leaves out empty lines, and takes this character out of a line at the very end.
_KEPT_BLANK_LINE = "\u2424"


class NoPage(ValueError):
    """What is no HTML page that can be read; the text says why."""


def tree_of(html: str) -> Any:
    """As trafilatura parses it, but whole: its own parser ends at a depth of 256, and does not say so.

    A quotation within a line (`<q>`) has its quotation marks, as in a browser.

    Raises:
        NoPage: it is no HTML, too deep, or has a tag of too many attributes.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
    from lxml.html import HTMLParser, document_fromstring
    from trafilatura.utils import repair_faulty_html

    html = NO_XML.sub(" ", html)
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
        raise NoPage(TOO_DEEP)
    depth = 0
    for event, _ in etree.iterwalk(tree, events=("start", "end"), tag=("ul", "ol", "dl")):
        depth += 1 if event == "start" else -1
        if depth > _LISTS_DEPTH_MAX:
            raise NoPage(TOO_DEEP)
    for quotation in tree.iter("q"):
        quotation.text = f'"{quotation.text or ""}'
        if len(quotation):
            quotation[-1].tail = f'{quotation[-1].tail or ""}"'
        else:
            quotation.text += '"'
        quotation.tag = "span"
    return tree


def make_simple(tree: Any) -> bool:
    """Takes from a tree what trafilatura would lose text at, or be slow at; no text is lost.

    Elements within a line that decide nothing are unwrapped. It walks over the texts of a paragraph again for each
    element that it unwraps there itself, so spans, of which it looks at the classes, are unwrapped as well where they
    are too many. Blank lines of a `<pre>` get a mark with which it keeps them.

    Returns:
        False where trafilatura would take minutes even so.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    etree.strip_elements(tree, *_BESIDE_THE_TEXT, with_tail=False)
    decides_nothing = [each for each in tree.iter(*_WITHIN_A_LINE) if each.tag != "span" or not each.attrib]
    # A place to link to is no link, and where it is never closed it would make one of all that follows.
    _unwrap(tree, decides_nothing + [each for each in tree.iter("a") if "href" not in each.attrib])
    if _is_slow(tree):
        _unwrap(tree, list(tree.iter("span")))
        if _is_slow(tree):
            return False
    for pre in tree.iter("pre"):
        if next(pre.iterancestors("table"), None) is not None:
            # There trafilatura makes one line of it.
            continue
        for element in pre.iter():
            if element.text:
                element.text = _BLANK_LINE.sub(_KEPT_BLANK_LINE, element.text)
            if element.tail and element is not pre:
                element.tail = _BLANK_LINE.sub(_KEPT_BLANK_LINE, element.tail)
    return True


def _unwrap(tree: Any, elements: list[Any]) -> None:
    """Also joins the texts that lay around them: as many nodes, they would be walked over for each of them."""
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    for element in elements:
        element.tag = _UNWRAPPED
    etree.strip_tags(tree, _UNWRAPPED)
    for element in tree.iter():
        if element.text:
            element.text = NO_XML.sub(" ", element.text)
        if element.tail:
            element.tail = NO_XML.sub(" ", element.tail)


def _is_slow(tree: Any) -> bool:
    """Whether trafilatura would go over elements too often, which it does for each of a kind over those before it."""
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    num = work = 0
    runs = [0]
    for event, element in etree.iterwalk(tree, events=("start", "end")):
        num += event == "start"
        if element.tag not in _ENDS_RUN:
            runs[-1] += event == "start"
            continue
        # What runs on within a line ends where a block begins, and what stands behind the block is another run.
        work += runs[-1] ** 2
        runs[-1] = 0
        if event == "start":
            runs.append(0)
        else:
            runs.pop()
    return num > ELEMENTS_MAX or work > RUN_MAX**2
