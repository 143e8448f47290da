"""Lines of a text file, plain or compressed, in bounded memory: skips what is too long, and reports it."""

import codecs
import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

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


class BoundedLines:
    """Iterates lines with their ends; cuts a line beyond the limit to its beginning, without an end.

    Raises:
        ExpandsTooMuch: while a compressed file is read.
    """

    def __init__(self, path: Path, layout: FileLayout, *, newline: str | None = None) -> None:
        """`newline` as for `open`: "" leaves line ends unchanged, for CSV."""
        # A byte order mark belongs to the encoding, not to the first column's name.
        encoding = encoding_of(path, layout)
        encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
        stream = pa.input_stream(str(path), compression="detect")
        self._text = io.TextIOWrapper(stream, encoding=encoding, errors="headrace.mark", newline=newline)
        self._path, self._chars_max = path, layout.record_bytes_max
        is_compressed = path.suffix.lower() in COMPRESSIONS
        self._left = expanded_bytes_max(path, layout) if is_compressed else None
        self._expanded_max = self._left
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
        self._count(line)
        self.was_cut = len(line) > self._chars_max and line[-1] not in "\r\n"
        if self.was_cut:
            self._pass_over()
        return line

    def _pass_over(self) -> None:
        while rest := self._text.readline(_PASSED_OVER_CHARS):
            self._count(rest)
            if rest[-1] in "\r\n":
                return

    def _count(self, text: str) -> None:
        if self._left is None or self._expanded_max is None:
            return
        self._left -= len(text)
        if self._left < 0:
            raise ExpandsTooMuch(self._path, self._expanded_max)
