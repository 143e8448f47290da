"""Foreign text in Markdown for Dagster's UI (CommonMark with GitHub's tables and links).

Text goes through `inline`, tables through `table`: nothing else writes a cell. A text cannot become a link, a picture,
HTML or another table's column; it looks as it was written.
"""

import re
from collections.abc import Sequence

from headrace.text.visible import one_line, shortened

# Dagster's UI shows Markdown inline below 1,000 characters, and longer Markdown behind a button.
CHARS_MAX = 999

# Entities for these two: parsers disagree about backslashes before a table's bar.
_ENTITIES = {"\\": "&#92;", "|": "&#124;"}
_SYNTAX = re.compile(
    r"[\\`*\[\]<|~$]|&(?=[#A-Za-z])"
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"  # within a word every parser takes it for a letter
    r"|^(?:[-+#=>]|[0-9]+(?=[.)](?: |$)))"  # at the beginning of a line it would begin a list, a heading or a quotation
)
# The renderer turns bare addresses into links after parsing everything else, so no escape prevents that. A word joiner,
# which has no width, does.
_ADDRESS = re.compile(r"(:)(?=//)|(www)(?=\.)|(@)(?=[-\w])|(mailto:|xmpp:)", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def inline(text: str, chars_max: int | None = None) -> str:
    """One line of text inside a paragraph or a cell, cut to `chars_max` of its own characters."""
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
    """A table whose cells show the texts unchanged. `right`: headers of number columns."""
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
    """A table of as many rows as fit into `chars_max`, and how many are omitted; `newest_last` keeps the last rows."""
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
