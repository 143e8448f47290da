"""How a user's file is read, and the result: records with their line, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headrace.errors import InvalidInput
from headrace.user_files.text_encodings import UNDECODABLE

FileFormat = Literal["auto", "jsonl", "csv", "parquet", "text", "html"]
TextUnit = Literal["line", "paragraph", "file"]

# A longer record is far more often an unclosed quote, or a line without an end, than a text.
RECORD_BYTES_MAX = 16 * 2**20
# Text compresses ten to thirty times, logs a hundred times. A file that expands more counts as a bomb, if its size
# exceeds what every machine has room for.
EXPANSION_MAX = 200
EXPANDED_BYTES_FREE = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """How to read a file.

    `columns`: the header must name them, or for plain text, the column to fill. `record_bytes_max` counts characters;
    each needs at least one byte.
    """

    columns: tuple[str, ...]
    format: FileFormat = "auto"
    # Tried in order: one file is in one of them.
    encodings: tuple[str, ...] = ("utf-8",)
    # None: comma, semicolon, tab or `|`, whichever the header is written with.
    delimiter: str | None = None
    text_unit: TextUnit = "line"
    # Of plain text in paragraphs or files: each line ends as in the file, not with a line feed, and a whole file keeps
    # its byte order mark of UTF-8. Ids depend on it.
    bytes_kept: bool = False
    # CSV has no null: an empty cell may stand for it.
    empty_is_null: bool = True
    record_bytes_max: int = RECORD_BYTES_MAX
    # What is parsed at once, where a parser takes whole blocks.
    block_bytes: int = 2**20
    expanded_bytes_free: int = EXPANDED_BYTES_FREE


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    line: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """`line` 0 is the whole file; `loses_file`: an unknown number of further records is lost.

    `is_empty`: nothing was lost, since there was nothing.
    """

    line: int
    reason: str
    excerpt: str = ""
    loses_file: bool = False
    is_empty: bool = False


def check_delimiter(delimiter: str | None, file_format: FileFormat) -> None:
    """Raises: InvalidInput: it cannot separate a CSV's fields, or the format has none."""
    if delimiter is None:
        return
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise InvalidInput(f"delimiter must be one character that is no quote and no line end, got {delimiter!r}.")
    if file_format not in ("auto", "csv"):
        raise InvalidInput(f"delimiter is for CSV, got {delimiter!r} with format={file_format!r}: leave it out.")


class ExpandsTooMuch(Exception):
    """A small file that expands to more than any text does."""

    def __init__(self, path: Path, expanded_bytes_max: int) -> None:
        super().__init__(
            f"{path.stat().st_size:,} bytes unpack to more than {expanded_bytes_max:,}, which no text does; unpack it "
            "yourself if it is meant"
        )


def expanded_bytes_max(path: Path, layout: FileLayout) -> int:
    return max(layout.expanded_bytes_free, EXPANSION_MAX * path.stat().st_size)


def too_long(line: int, layout: FileLayout, excerpt: str = "", *, loses_file: bool = False) -> Unreadable:
    reason = f"longer than {layout.record_bytes_max:,} characters, the most that one record may have"
    return Unreadable(line=line, reason=reason, excerpt=excerpt, loses_file=loses_file)


def wrong_encoding(line: int, text: str, layout: FileLayout) -> Unreadable:
    shown = text.replace(UNDECODABLE, "\ufffd")
    return Unreadable(line=line, reason=f"wrong encoding, wanted {' or '.join(layout.encodings)}", excerpt=shown)


def missing_columns(missing: list[str], got: list[str]) -> Unreadable:
    names = ", ".join(map(repr, missing))
    return Unreadable(line=0, reason=f"missing column {names}", excerpt=",".join(got), loses_file=True)


def header_fault(wanted: tuple[str, ...], header: list[str]) -> Unreadable | None:
    """What is wrong with a file's column names: a wanted one is missing, or occurs more than once."""
    if missing := [name for name in wanted if name not in header]:
        return missing_columns(missing, header)
    if repeated := [name for name in wanted if header.count(name) > 1]:
        reason = f"column {repeated[0]!r} stands {header.count(repeated[0])} times in the header"
        return Unreadable(line=0, reason=reason, excerpt=",".join(header), loses_file=True)
    return None
