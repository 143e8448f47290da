"""Lines of a text file, plain or compressed, in bounded memory: skips what is too long, and reports it."""

import codecs
import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.user_files.layout import ExpandsTooMuch, FileLayout, expanded_bytes_max
from headrace.user_files.text_encodings import UNDECODABLE

COMPRESSIONS = {".gz", ".bz2", ".zst", ".lz4"}
_PASSED_OVER_CHARS = 2**20


def encoding_of(path: Path, layout: FileLayout) -> str:
    """The first of the layout's encodings that reads most of the file's lines beyond ASCII; none does: the first.

    Not the first that reads all lines: `latin-1` reads any, and would turn a whole UTF-8 file with one damaged byte
    into other letters.
    """
    if len(layout.encodings) == 1:
        return layout.encodings[0]
    for encoding in layout.encodings:
        num_read = num_damaged = 0
        # UTF-16 refuses a file without its mark instead of decoding it.
        with suppress(UnicodeError), BoundedLines(path, replace(layout, encodings=(encoding,))) as lines:
            for line in lines:
                num_damaged += UNDECODABLE in line
                num_read += not line.isascii() and UNDECODABLE not in line
            if num_damaged <= num_read:
                return encoding
    return layout.encodings[0]


class Expansion:
    """How much more a compressed file may expand to."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        is_compressed = path.suffix.lower() in COMPRESSIONS
        self._path, self._most = path, expanded_bytes_max(path, layout) if is_compressed else None
        self._left = self._most

    @property
    def is_limited(self) -> bool:
        return self._left is not None

    def allows(self, num_characters: int) -> bool:
        return self._left is None or num_characters <= self._left

    def count(self, num_characters: int) -> None:
        """Raises: ExpandsTooMuch: with these characters it is too much."""
        if self._left is None or self._most is None:
            return
        self._left -= num_characters
        if self._left < 0:
            raise ExpandsTooMuch(self._path, self._most)


class BoundedLines:
    """Iterates lines with their ends; cuts a line beyond the limit to its beginning, without an end.

    Raises:
        ExpandsTooMuch: while a compressed file is read.
    """

    def __init__(
        self,
        path: Path,
        layout: FileLayout,
        *,
        newline: str | None = None,
        mark_kept: bool = False,
        block: bytes | None = None,
        expansion: Expansion | None = None,
    ) -> None:
        """Args:
        newline: as for `open`: "" leaves line ends unchanged.
        mark_kept: whether a byte order mark of UTF-8 is a part of the first line.
        block: bytes of the file in UTF-8, which are read instead of it.
        expansion: what was counted of the file so far.
        """
        encoding = encoding_of(path, layout) if block is None else "utf-8"
        # A byte order mark belongs to the encoding, not to the first column's name.
        if block is None and not mark_kept and codecs.lookup(encoding).name == "utf-8":
            encoding = "utf-8-sig"
        stream: Any = pa.input_stream(str(path), compression="detect") if block is None else io.BytesIO(block)
        self._text = io.TextIOWrapper(stream, encoding=encoding, errors="headrace.mark", newline=newline)
        self._chars_max = layout.record_bytes_max
        self._expansion = expansion or Expansion(path, layout)
        self.was_cut = False

    def __enter__(self) -> "BoundedLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # One character more, since a line that just fills the limit is not too long.
        line = self._text.readline(self._chars_max + 1)
        if not line:
            raise StopIteration
        self._expansion.count(len(line))
        self.was_cut = len(line) > self._chars_max and line[-1] not in "\r\n"
        if self.was_cut:
            self._pass_over()
        return line

    def _pass_over(self) -> None:
        while rest := self._text.readline(_PASSED_OVER_CHARS):
            self._expansion.count(len(rest))
            if rest[-1] in "\r\n":
                return
