"""How a document's characters are made uniform before rules judge it: as little as its kind of text allows.

A blank that looks like noise in prose is a program's structure, a table's column or a Markdown line break, and U+200B
is how Khmer and Thai are told where a word ends. So `text`, the default, changes no blank but those at the end, and
`code` changes nothing at all.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from headrace.prep.text_keys import composed

NormalForm = Literal["text", "prose", "line", "code"]

# Soft hyphen, word joiner, byte order mark: no script needs them. Joiners and U+200B separate or join letters.
_INVISIBLE = "[\u00ad\u2060\ufeff]"
_CONTROL = r"[\p{Cc}&&[^\n\t]]"


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """The form of each column: `text` (blanks and lines stay as they are), `prose` (single blanks, at most one empty
    line in a row), `line` (single blanks, one line) or `code` (byte for byte; of plain text cut into lines, each line's
    end is a line feed, and a byte order mark stays in a text that is a whole file in UTF-8)."""

    text: NormalForm = "text"
    """The documents' texts."""
    term: NormalForm = "line"
    """The documents' terms."""
    category: NormalForm = "line"
    """The documents' categories."""
    examples: NormalForm = "line"
    """Each of the documents' examples."""


def normalised(documents: pl.DataFrame, forms: Normalization) -> pl.DataFrame:
    """The documents with their columns in their forms; an empty name becomes null, an empty example goes."""
    examples = in_form(pl.element(), forms.examples).replace("", None).drop_nulls()
    return documents.with_columns(
        in_form(pl.col("term"), forms.term).replace("", None),
        in_form(pl.col("category"), forms.category).replace("", None),
        in_form(pl.col("text"), forms.text),
        pl.col("examples").list.eval(examples),
    )


def in_form(column: pl.Expr, form: NormalForm) -> pl.Expr:
    """A column of texts in a form.

    text: Unicode NFC, lines that end with a line feed, no control or invisible characters, no blank lines before the
    first line, no blanks after the last.
    prose: beside that no blanks at the ends of lines, single blanks, and at most one empty line in a row.
    line: single blanks alone, on one line.
    code: as it is, byte for byte.
    """
    match form:
        case "code":
            return column
        case "text":
            return _visible(column).str.replace(r"^(?:[ \t]*\n)+", "").str.strip_chars_end()
        case "prose":
            return (
                _visible(column)
                .str.replace_all(r"[^\S\n]+", " ")
                .str.replace_all(r" ?\n ?", "\n")
                .str.replace_all(r"\n{3,}", "\n\n")
                .str.strip_chars()
            )
        case "line":
            return _visible(column).str.replace_all(r"\s+", " ").str.strip_chars()


def _visible(column: pl.Expr) -> pl.Expr:
    # Without what is invisible first: it keeps an accent from its letter.
    return (
        column.str.replace_all(_INVISIBLE, "")
        .map_batches(composed, return_dtype=pl.String, is_elementwise=True)
        .str.replace_all(r"\r\n?", "\n")
        .str.replace_all(_CONTROL, " ")
    )
