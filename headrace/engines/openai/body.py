"""How much of an answer is read: what its tokens may need, and a limit for all, counted after decompression.

We ask for no compression. Where a proxy compresses all the same, it is undone here, a bounded step at a time: a few
kilobytes of gzip hold gigabytes.
"""

import zlib

from headrace.engines.openai.wire import AnswerBroken

# An answer's text: the longest tokens are 128 characters, and JSON may spell each character in six.
_BYTES_A_TOKEN = 512
_CHARACTERS_A_TOKEN = 128
_CHARACTERS_BESIDE = 1024
# An event beside its text: ids, names, some servers' statistics; 300 bytes are usual.
_EVENT_BYTES_A_TOKEN = 2048
_BYTES_BESIDE = 262_144
_BYTES_MAX = 67_108_864
# gzip and zlib, found by their heads.
_ANY_DEFLATE = 47


def characters_max(num_tokens_max: int) -> int:
    """Characters, thoughts too, that so many tokens may be; a little is left for servers that count otherwise."""
    return _CHARACTERS_BESIDE + _CHARACTERS_A_TOKEN * num_tokens_max


def answer_bytes_max(num_tokens_max: int, *, stream: bool) -> int:
    """Bytes that an answer of so many tokens may have."""
    each = _EVENT_BYTES_A_TOKEN if stream else _BYTES_A_TOKEN
    return min(_BYTES_BESIDE + each * num_tokens_max, _BYTES_MAX)


class BoundedBody:
    """Bytes as they come from the network in, plain bytes out."""

    def __init__(self, encoding: str | None, num_bytes_max: int) -> None:
        """Raises: AnswerBroken: nobody here can undo this encoding."""
        name = (encoding or "identity").strip().lower()
        if name not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise AnswerBroken(f"its content encoding is {name[:40]!r}, which was not asked for")
        self._inflate = zlib.decompressobj(_ANY_DEFLATE) if name in {"gzip", "x-gzip", "deflate"} else None
        self.num_bytes_max = num_bytes_max
        self.num_bytes = 0

    def feed(self, raw: bytes) -> bytes:
        """Raises: AnswerBroken: it is more than such an answer can be, or not in its encoding."""
        if self._inflate is not None:
            try:
                # One more than there is room for, so that too much is seen.
                raw = self._inflate.decompress(raw, self.num_bytes_max - self.num_bytes + 1)
            except zlib.error:
                raise AnswerBroken("it is not in the content encoding that its header names") from None
        self.num_bytes += len(raw)
        if self.num_bytes > self.num_bytes_max:
            raise AnswerBroken(f"it is longer than {self.num_bytes_max} bytes, more than such an answer can be")
        return raw
