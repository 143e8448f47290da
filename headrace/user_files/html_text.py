"""HTML as plain text, nothing left out that a reader would see: the one form in which every page and part is written.

A block is a line, an element within a line stays within it, `<br>` ends a line and `<pre>` is kept as it stands. A list
item begins with a dash, two blanks deeper for each list around it; a row of several cells becomes `| a | b |`. Fields
of forms, pictures, scripts and readings beside characters (`<rt>`) have no text. It knows nothing of style sheets, and
not what is a menu.

One walk over the tree, so the time grows with the page's length alone.
"""

import re
from typing import Any

# What a browser breaks the line around. Source: html.spec.whatwg.org, section 15.3, flow content and lists.
_BLOCK_TAGS = (
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li listing main menu nav ol optgroup p plaintext "
    "pre search section summary table tbody td tfoot th thead tr ul xmp"
)
BLOCKS = frozenset(_BLOCK_TAGS.split())
_TAGSWITHOUT_TEXT = (
    "annotation annotation-xml applet audio button canvas datalist embed head iframe input noscript object rp rt rtc "
    "script select style svg template textarea title video"
)
WITHOUT_TEXT = frozenset(_TAGSWITHOUT_TEXT.split())
_AS_WRITTEN = frozenset(("listing", "plaintext", "pre", "xmp"))
_ITEMS = frozenset(("dd", "dt", "li"))
_LISTS = frozenset(("dir", "dl", "menu", "ol", "ul"))
_CELLS = frozenset(("td", "th"))
# What is no character of a text; references such as `&#1;` bring them into a tree.
NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
# No text of a tree holds it.
_LINE_END = "\0"


def lines_of(tree: Any) -> list[str]:
    """The text of an element of lxml without comments, block by block; only what is in `<pre>` has line ends within."""
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    text = _Text()
    walk = etree.iterwalk(tree, events=("start", "end"))
    for event, element in walk:
        if event == "start":
            if text.begins(element):
                walk.skip_subtree()
        else:
            text.ends(element)
            if element is not tree:
                text.pieces.append(element.tail or "")
    text.ends_block()
    return text.lines


def _within_pre(element: Any) -> str:
    """What a `<pre>` shows, with its blanks and line ends; those right behind its tag and at its end are not shown."""
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    pieces: list[str] = []
    walk = etree.iterwalk(element, events=("start", "end"))
    for event, child in walk:
        if event == "end":
            pieces.append(child.tail or "" if child is not element else "")
        elif child.tag in WITHOUT_TEXT:
            walk.skip_subtree()
        else:
            pieces += ["\n" if child.tag == "br" else "", child.text or ""]
    return NO_XML.sub(" ", "".join(pieces)).replace("\r\n", "\n").removeprefix("\n").rstrip("\n")


class _Text:
    """What was read: whole lines, and the pieces of the line that is going on."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pieces: list[str] = []
        self._depth = 0
        self._dash = ""
        # The cells of a row, each with its lines; none outside of a row of several cells.
        self._cells: list[list[str]] | None = None

    def begins(self, element: Any) -> bool:
        """True where what is within has been dealt with."""
        tag = element.tag
        if tag in BLOCKS:
            self.ends_block()
        if tag in WITHOUT_TEXT:
            return True
        if tag in _AS_WRITTEN or tag == "table":
            # A program in a cell has lines of its own, and so has a table: such a table is there for the layout.
            self._ends_row()
        if tag in _AS_WRITTEN:
            self._add(_within_pre(element))
            return True
        if tag == "br":
            self.pieces.append(_LINE_END)
        elif tag in _LISTS:
            self._depth += 1
        elif tag in _ITEMS:
            self._dash = f"{'  ' * (self._depth - 1)}- "
        elif tag == "tr" and sum(cell.tag in _CELLS for cell in element) > 1:
            self._cells = []
        elif tag in _CELLS and self._cells is not None:
            self._cells.append([])
        self.pieces.append(element.text or "")
        return False

    def ends(self, element: Any) -> None:
        tag = element.tag
        if tag not in BLOCKS:
            return
        self.ends_block()
        if tag in _LISTS:
            self._depth -= 1
        if tag in _ITEMS:
            self._dash = ""
        if tag == "tr":
            self._ends_row()

    def ends_block(self) -> None:
        for line in "".join(self.pieces).split(_LINE_END):
            if words := " ".join(NO_XML.sub(" ", line).split()):
                self._add(words)
        self.pieces = []

    def _add(self, line: str) -> None:
        if not line.strip():
            return
        if self._cells:
            self._cells[-1].append(line)
            return
        self.lines.append(self._dash + line)
        self._dash = ""

    def _ends_row(self) -> None:
        cells, self._cells = self._cells, None
        if cells and any(cells):
            self._add(f"| {' | '.join(' '.join(lines) for lines in cells)} |")
