"""Foreign text in Markdown, as Dagster's UI renders it (CommonMark with GitHub's tables and links).

Text goes in through `inline`, tables through `table`: no other place writes a cell. A text cannot become a link, a
picture, HTML or another table's column; it looks as it was written.
"""

import re
from collections.abc import Sequence

from headrace.text.visible import one_line, shortened

# Dagster's UI shows Markdown inline below 1,000 characters, and behind a button above.
CHARS_MAX = 999

# Entities for two of them: parsers disagree about backslashes before a table's bar.
_ENTITIES = {"\\": "&#92;", "|": "&#124;"}
_SYNTAX = re.compile(
    r"[\\`*\[\]<|~$]|&(?=[#A-Za-z])"
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"  # within a word it is a letter to every parser
    r"|^(?:[-+#=>]|[0-9]+(?=[.)](?: |$)))"  # what begins a list, a heading or a quotation where it begins a line
)
# The renderer makes links of bare addresses after it has parsed everything else, so that no escape keeps it from that.
# A word joiner, which takes no room, does.
_ADDRESS = re.compile(r"(:)(?=//)|(www)(?=\.)|(@)(?=[-\w])|(mailto:|xmpp:)", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def inline(text: str, chars_max: int | None = None) -> str:
    """One line of text inside of a paragraph or a cell, cut to `chars_max` of its own characters."""
    flat = one_line(text)
    flat = flat if chars_max is None else shortened(flat, chars_max)
    return _SYNTAX.sub(_escape, _ADDRESS.sub(rf"\g<0>{_WORD_JOINER}", flat))


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    cell_chars_max: int | None = None,
) -> str:
    """A table whose cells show the texts as they are. `right`: headers of columns of numbers."""
    rules = f"|{'|'.join('-:' if header in right else '-' for header in headers)}|"
    return "\n".join([_line(headers, cell_chars_max), rules, *(_line(row, cell_chars_max) for row in rows)])


def fitting_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    cell_chars_max: int | None = None,
    chars_max: int = CHARS_MAX,
    newest_last: bool = False,
) -> str:
    """A table of as many rows as fit into `chars_max`, and how many are left out; with `newest_last` the last ones."""
    whole = table(headers, rows, right=right, cell_chars_max=cell_chars_max)
    if len(whole) <= chars_max:
        return whole
    head = table(headers, [], right=right, cell_chars_max=cell_chars_max)
    room = chars_max - len(head) - len(_more(len(rows), headers)) - 1
    shown: list[str] = []
    for row in reversed(rows) if newest_last else rows:
        line = _line(row, cell_chars_max)
        if len(line) + 1 > room:
            break
        room -= len(line) + 1
        shown.append(line)
    more = _more(len(rows) - len(shown), headers)
    return "\n".join([head, more, *reversed(shown)] if newest_last else [head, *shown, more])


def _line(cells: Sequence[str], chars_max: int | None) -> str:
    return f"|{'|'.join(inline(cell, chars_max) for cell in cells)}|"


def _more(count: int, headers: Sequence[str]) -> str:
    return f"|and {count:,} more{'|' * len(headers)}"


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if found.isdecimal():
        # With its full stop it would begin a list.
        return found + _WORD_JOINER
    return _ENTITIES.get(found) or f"\\{found}"
