"""Limits how much of an answer is read, by its tokens and in total, counted after decompression.

We ask for no compression. If a proxy compresses anyway, this module decompresses in bounded steps: a few kilobytes of
gzip can hold gigabytes.
"""

import zlib

from headrace.engines.openai.wire import AnswerBroken

# For an answer's text (`meaning.characters_max`): JSON may need six bytes for a character.
_BYTES_A_TOKEN = 512
# For an event without its text: ids, names, some servers' statistics; 300 bytes are usual.
_EVENT_BYTES_A_TOKEN = 2048
_BYTES_BESIDE = 262_144
_BYTES_MAX = 67_108_864
# gzip and zlib, detected by their headers.
_ANY_DEFLATE = 47


def answer_bytes_max(num_tokens_max: int, *, stream: bool) -> int:
    """Most bytes of an answer with so many tokens."""
    each = _EVENT_BYTES_A_TOKEN if stream else _BYTES_A_TOKEN
    return min(_BYTES_BESIDE + each * num_tokens_max, _BYTES_MAX)


class BoundedBody:
    """Takes bytes from the network, returns decompressed bytes."""

    def __init__(self, encoding: str | None, num_bytes_max: int) -> None:
        """Raises: AnswerBroken: the encoding is unknown."""
        name = (encoding or "identity").strip().lower()
        if name not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise AnswerBroken(f"its content encoding is {name[:40]!r}, which was not asked for")
        self._inflate = zlib.decompressobj(_ANY_DEFLATE) if name in {"gzip", "x-gzip", "deflate"} else None
        self.num_bytes_max = num_bytes_max
        self.num_bytes = 0

    def feed(self, raw: bytes) -> bytes:
        """Raises: AnswerBroken: the answer is too long, or its encoding is broken."""
        if self._inflate is not None:
            try:
                # One byte beyond the limit, so that an excess is noticed.
                raw = self._inflate.decompress(raw, self.num_bytes_max - self.num_bytes + 1)
            except zlib.error:
                raise AnswerBroken("it is not in the content encoding that its header names") from None
        self.num_bytes += len(raw)
        if self.num_bytes > self.num_bytes_max:
            raise AnswerBroken(f"it is longer than {self.num_bytes_max} bytes, more than such an answer can be")
        return raw
