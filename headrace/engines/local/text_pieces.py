"""Turns tokens into pieces of text that are never taken back."""

from collections.abc import Sequence
from typing import Any

from headrace.engines.local.stop_texts import StopWatch

# Incomplete characters decode to this.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextPieces:
    """One answer's text. A token may be part of a character, or change the text of the token before it."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._watch = StopWatch(stops)
        self._token_ids: list[int] = []
        # Tokens from `_begin` on are decoded together; the text of tokens before `_end` was given out.
        self._begin = 0
        self._end = 0
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """The text that this token completes, or "". `is_stopped`: a stop text ended the answer."""
        self._token_ids.append(token_id)
        before = self._decoded(self._begin, self._end)
        after = self._decoded(self._begin, len(self._token_ids))
        if len(after) <= len(before) or after.endswith(_INCOMPLETE):
            return ""
        self._begin, self._end = self._end, len(self._token_ids)
        text, self.is_stopped = self._watch.feed(after[len(before) :])
        return text

    def rest(self) -> str:
        """The text kept back, at the answer's end."""
        if self.is_stopped:
            return ""
        before = self._decoded(self._begin, self._end)
        text, self.is_stopped = self._watch.feed(self._decoded(self._begin, len(self._token_ids))[len(before) :])
        return text if self.is_stopped else text + self._watch.rest()

    def _decoded(self, begin: int, end: int) -> str:
        return self._tokenizer.decode(self._token_ids[begin:end], skip_special_tokens=True) if end > begin else ""
