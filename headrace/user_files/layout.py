"""What a user's file is read as, and into what: records with the line they came from, or the reason why not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FileFormat = Literal["auto", "jsonl", "csv", "parquet", "text"]
TextUnit = Literal["line", "paragraph", "file"]

# A record longer than this is a quote that was never closed, or a line without an end, far more often than a text.
RECORD_BYTES_MAX = 16 * 2**20
# Text packs ten to thirty times smaller, logs a hundred times. What unpacks to more is taken for a bomb, above a size
# that any machine has room for.
EXPANSION_MAX = 200
EXPANDED_BYTES_FREE = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """How to read a file.

    `columns` are those that its header must name, or for plain text the one that it fills. `record_bytes_max` counts
    characters, of which a byte or more is needed for each.
    """

    columns: tuple[str, ...]
    format: FileFormat = "auto"
    encoding: str = "utf-8"
    text_unit: TextUnit = "line"
    # CSV has no word for null: an empty cell may stand for it.
    empty_is_null: bool = True
    record_bytes_max: int = RECORD_BYTES_MAX
    expanded_bytes_free: int = EXPANDED_BYTES_FREE


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    line: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """`line` 0 is the whole file; `loses_file` says that nobody knows how much more was lost than this.

    `is_empty`: nothing was lost, since there was nothing.
    """

    line: int
    reason: str
    excerpt: str = ""
    loses_file: bool = False
    is_empty: bool = False


class ExpandsTooMuch(Exception):
    """A small file that unpacks to more than any text does."""

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


def missing_columns(missing: list[str], got: list[str]) -> Unreadable:
    names = ", ".join(map(repr, missing))
    return Unreadable(line=0, reason=f"missing column {names}", excerpt=",".join(got), loses_file=True)


def header_fault(wanted: tuple[str, ...], header: list[str]) -> Unreadable | None:
    """What is wrong with a file's column names: one that is wanted is missing, or stands there more than once."""
    if missing := [name for name in wanted if name not in header]:
        return missing_columns(missing, header)
    if repeated := [name for name in wanted if header.count(name) > 1]:
        reason = f"column {repeated[0]!r} stands {header.count(repeated[0])} times in the header"
        return Unreadable(line=0, reason=reason, excerpt=",".join(header), loses_file=True)
    return None
