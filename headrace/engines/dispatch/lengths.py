"""Predicts how long answers get from recent ones, since a turn's need is unknown before its end."""

from bisect import bisect_right
from collections import deque
from itertools import accumulate

_NUM_KEPT = 512
# Sorting 512 numbers at each answer would cost more than dispatching it.
_NUM_BETWEEN_SORTS = 16
# Weight that each answer leaves to earlier ones in the mean of tokens a character.
_KEPT_SHARE = 0.99
# With fewer longer answers their mean is meaningless.
_NUM_LONGER_MIN = 5


class AnswerLengths:
    """Output tokens of recent answers."""

    def __init__(self, prior_num_tokens: int) -> None:
        self._prior = float(prior_num_tokens)
        self._kept: deque[int] = deque(maxlen=_NUM_KEPT)
        self._sorted: list[int] = []
        # Sums of the k longest, for k = 0, 1, …
        self._tail_sums: list[float] = [0.0]
        self._num_new = 0
        # A quarter token a character, as for English, until answers are known.
        self._num_tokens = 1.0
        self._num_characters = 4.0

    @property
    def tokens_a_character(self) -> float:
        return self._num_tokens / self._num_characters

    def add(self, num_tokens: int, num_characters: int) -> None:
        """Records an answer; `num_characters` 0: it did not come in pieces."""
        if num_characters:
            self._num_tokens = _KEPT_SHARE * self._num_tokens + num_tokens
            self._num_characters = _KEPT_SHARE * self._num_characters + num_characters
        self._kept.append(num_tokens)
        self._num_new += 1
        if self._num_new >= min(_NUM_BETWEEN_SORTS, len(self._kept)):
            self._sorted = sorted(self._kept)
            self._tail_sums = [0.0, *accumulate(reversed(self._sorted), initial=None)]
            self._num_new = 0

    def expected(self, num_tokens_max: int) -> float:
        """Expected tokens of an answer that has not begun."""
        return self.remaining(0, num_tokens_max)

    def remaining(self, num_made: int, num_tokens_max: int) -> float:
        """Expected further tokens of an answer that already has `num_made`. Long answers tend to get longer."""
        num_longer = len(self._sorted) - bisect_right(self._sorted, num_made)
        if num_longer >= _NUM_LONGER_MIN:
            left = self._tail_sums[num_longer] / num_longer - num_made
        else:
            left = max(self._prior - num_made, num_made / 2, 1.0)
        return max(1.0, min(left, num_tokens_max - num_made))
