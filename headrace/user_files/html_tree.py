"""The tree of an HTML page, within the limits that reading it has, and made simple for trafilatura.

Every limit counts what makes reading slow or loses text, before it does.
"""

import re
from collections.abc import Iterable
from itertools import chain, dropwhile
from typing import Any

from headrace.user_files.html_text import BLOCKS, NO_XML, WITHOUT_TEXT

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

# Beside blocks, what trafilatura is shown: it looks at the classes of spans and the density of links, and keeps the
# blanks of code. All else within a line is unwrapped, since it leaves out the text of what it does not know, and of
# `label`, `math`, `time` and others, even in the middle of a sentence.
_WITHIN_A_LINE = frozenset(("a", "br", "code", "span"))
# It tells forums by scripts, and deletes a head.
_SEEN = BLOCKS | WITHOUT_TEXT | _WITHIN_A_LINE
_LEFT_OUT = tuple(WITHOUT_TEXT - {"head", "script"})
_UNWRAPPED = "unwrapped"
# trafilatura writes TeX behind the element that it is of.
_WRITTEN_BEHIND = "written-behind"
# What holds paragraphs or is one. In a page with enough paragraphs trafilatura reads no other text.
_DIVISION_TAGS = "address article aside body center details div fieldset footer form header main nav search section"
_DIVISIONS = frozenset(_DIVISION_TAGS.split())
# What begins with a text of its own, and may hold more behind a block.
_CELLS_AND_ITEMS = frozenset(("blockquote", "dd", "dt", "li", "td", "th"))
_OF_TABLES = ("caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr")
# Blocks that it deletes or does not know. A section is looked at less than a division, which may hold few links.
_WRITTEN_AS = {
    "dir": "ul",
    "figcaption": "section",
    "figure": "section",
    "listing": "pre",
    "plaintext": "pre",
    "xmp": "pre",
}
# trafilatura keeps these as elements, each with a text of its own.
_ENDS_RUN = BLOCKS | {"br", "code"}
# trafilatura takes up to 10 CPU s for so many, and four times as long for twice as many.
ELEMENTS_MAX = 30_000
# Links that follow each other in one paragraph: so many take a second. Several such count by their squares.
RUN_MAX = 4_000
# What begins like a character reference.
_REFERENCE = re.compile(r"&(?=[#A-Za-z])")
_BLANK_LINE = re.compile(r"(?<=\n)[^\S\n]*(?=\n)")
# trafilatura leaves out empty lines, and takes this character out of a line at the very end.
_KEPT_BLANK_LINE = "\u2424"


class NoPage(ValueError):
    """What is no HTML page that can be read; the text says why."""


def tree_of(html: str) -> Any:
    """As trafilatura parses it, but whole: its own parser ends at a depth of 256, and does not say so.

    A quotation within a line (`<q>`) has its quotation marks, as in a browser, a formula (`<math>`) is its TeX where it
    brings it, and a block or `<br>` in a `<pre>` ends a line of it.

    Raises:
        NoPage: it is no HTML, too deep, or has a tag of too many attributes.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
    from lxml.html import HTMLParser, document_fromstring
    from trafilatura.htmlprocessing import recover_math
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
    for formula in tree.iter("math"):
        behind = formula.tail
        recover_math(formula)
        if formula.tail != behind:
            formula.tag = _WRITTEN_BEHIND
    etree.strip_elements(tree, _WRITTEN_BEHIND, with_tail=False)
    for program in tree.iter("pre", "listing"):
        for line in program.iterdescendants(*BLOCKS, "br"):
            line.tag = "span"
            line.tail = f"\n{line.tail or ''}"
    return tree


def make_simple(tree: Any) -> bool:
    """Takes from a tree what trafilatura would lose text at, or be slow at; no text is lost.

    Elements within a line that decide nothing are unwrapped, text that stands beside blocks is a paragraph, and tables
    that are there for the layout are divisions, as is a picture with what is written below it. trafilatura walks over
    the texts of a paragraph again for each element that it unwraps there itself, so spans, of which it looks at the
    classes, are unwrapped as well where they are too many. Blank lines of a `<pre>` get a mark that keeps them. What
    begins like a character reference (`&lt;`, which a page writes `&amp;lt;`) is escaped: trafilatura reads it again.

    Returns:
        False where trafilatura would take minutes even so.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    if sum(1 for _ in tree.iter(*BLOCKS)) > ELEMENTS_MAX:
        return False
    etree.strip_elements(tree, *_LEFT_OUT, with_tail=False)
    for block in tree.iter(*_WRITTEN_AS):
        # Its class tells trafilatura of a picture, not of the words below it.
        block.attrib.clear()
        block.tag = _WRITTEN_AS[block.tag]
    _make_divisions_of_layout(tree)
    hold_blocks = _ancestors(tree.iter(*BLOCKS))
    # What is within itself was never closed, and what is within such a link would be taken for links.
    never_closed = _ancestors(tree.iter("a")) | _ancestors(tree.iter("code"))
    _unwrap(
        tree,
        [each for each in tree.iter() if _decides_nothing(each, each in hold_blocks, each in never_closed)],
    )
    for block in tree.iter("p", "summary"):
        # It loses what it does not expect within, and a summary without details around it.
        if block in hold_blocks or (block.tag == "summary" and block.getparent().tag != "details"):
            block.tag = "section"
    kept_as_written = {code for pre in tree.iter("pre") for code in pre.iter("code")}
    for code in tree.iter("code"):
        if code not in kept_as_written:
            _make_flat(code)
    for block in list(tree.iter(*_DIVISIONS, *_CELLS_AND_ITEMS)):
        _make_paragraphs(block, hold_blocks)
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
        if next(pre.iterancestors(*_CELLS_AND_ITEMS), None) is not None:
            # There trafilatura keeps the lines of what is code to it, such as of one span.
            _make_flat(pre)
            code = pre.makeelement("span")
            code.text, pre.text = f"\n{pre.text}\n", None
            pre.append(code)
    for element in tree.iter():
        if element.text:
            element.text = _REFERENCE.sub("&amp;", element.text)
        if element.tail:
            element.tail = _REFERENCE.sub("&amp;", element.tail)
    return True


def _ancestors(elements: Iterable[Any]) -> set[Any]:
    found: set[Any] = set()
    for element in elements:
        for ancestor in element.iterancestors():
            if ancestor in found:
                break
            found.add(ancestor)
    return found


def _decides_nothing(element: Any, holds_blocks: bool, is_never_closed: bool) -> bool:
    if element.tag == "a":
        # A place to link to is no link.
        return is_never_closed or "href" not in element.attrib
    if element.tag == "code":
        return is_never_closed or holds_blocks
    if element.tag == "span":
        return holds_blocks or not element.attrib
    return element.tag not in _SEEN


def _make_divisions_of_layout(tree: Any) -> None:
    """Tables that hold tables or programs of several lines are there for the layout: trafilatura writes the inner ones
    behind the outer, and a program in one line.

    Quotations in a cell of another table are divisions too.
    """
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    programs = (pre for pre in tree.iter("pre") if "\n" in "".join(pre.itertext()).strip())
    hold_tables = _ancestors(chain(tree.iter("table"), programs))
    around: list[bool] = []
    parts: list[Any] = []
    for event, element in etree.iterwalk(tree, events=("start", "end"), tag=_OF_TABLES):
        if element.tag == "table":
            if event == "end":
                around.pop()
                continue
            around.append(element in hold_tables or element.get("role") in ("presentation", "none"))
        if event == "start" and around and around[-1]:
            parts.append(element)
    for part in parts:
        part.tag = "section"
    # What is left of cells holds no others, so each element is gone over once. Of a quotation trafilatura keeps there
    # what stands before its first block.
    for cell in tree.iter("td", "th"):
        for quotation in cell.iterdescendants("blockquote"):
            quotation.tag = "section"


def _make_paragraphs(division: Any, hold_blocks: set[Any]) -> None:
    """Puts each run of text and of elements within a line that stands between blocks into a `<p>`."""
    if division.tag in ("div", "section") and not division.attrib and division not in hold_blocks:
        division.tag = "p"
        return
    children = list(division)
    run: Any = None
    if division.tag in _CELLS_AND_ITEMS:
        # Its first text is no paragraph, or a list item would have its dash in a line of its own.
        children = list(dropwhile(lambda child: child.tag not in BLOCKS and child not in hold_blocks, children))
    elif division.text and division.text.strip():
        run = division.makeelement("p")
        run.text, division.text = division.text, None
        division.insert(0, run)
    for child in children:
        if child.tag not in BLOCKS and child not in hold_blocks:
            if run is None:
                run = child.makeelement("p")
                child.addprevious(run)
            run.append(child)
            continue
        run = None
        behind, child.tail = child.tail, None
        if behind and behind.strip():
            run = child.makeelement("p")
            run.text = behind
            child.addnext(run)


def _make_flat(code: Any) -> None:
    """Leaves one text in it: where it holds elements, trafilatura loses or moves what stands behind them."""
    for line_end in code.iter("br"):
        line_end.tail = f"\n{line_end.tail or ''}"
    text = "".join(code.itertext())
    del code[:]
    code.text = text


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
