"""What becomes of examples that are longer than a sequence: dropped, cut or split, as the corpus says.

A prompt is never cut, and an example that keeps no token with loss is dropped. A text that lost its end has no token
for it: the model does not learn to stop there. Knows ids and spans alone; conversations, whose turns stay whole, are
cut where they are rendered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headrace.prep.example_forms import Overlong
from headrace.prep.pairs import TokenizedPair
from headrace.prep.token_spans import TokenizedExample

Outcome = Literal["whole", "truncated", "split", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One document's examples, each of which fits. `num_tokens`: of the whole, or of a pair's longer chat."""

    outcome: Outcome
    num_tokens: int
    examples: Sequence[TokenizedExample | TokenizedPair]


def whole(example: TokenizedExample | TokenizedPair) -> Fitted:
    num_tokens = example.longer if isinstance(example, TokenizedPair) else example.num_tokens
    return Fitted(outcome="whole", num_tokens=num_tokens, examples=(example,))


def dropped(num_tokens: int) -> Fitted:
    return Fitted(outcome="dropped", num_tokens=num_tokens, examples=())


def truncated(example: TokenizedExample | TokenizedPair, num_tokens: int) -> Fitted:
    return Fitted(outcome="truncated", num_tokens=num_tokens, examples=(example,))


def fitted_completion(example: TokenizedExample, length: int, overlong: Overlong) -> Fitted:
    """Cuts the span that carries loss; what stands before and after it stays."""
    if example.num_tokens <= length:
        return whole(example)
    [(start, end)] = example.spans
    ids = example.ids
    if overlong == "truncate_end" and start < length:
        return truncated(TokenizedExample(ids=ids[:length], spans=((start, min(end, length)),)), len(ids))
    num_kept = length - (len(ids) - (end - start))
    # One token would be the turn's end alone.
    if overlong == "truncate_start" and num_kept > 1:
        kept = np.concatenate([ids[:start], ids[end - num_kept :]])
        return truncated(TokenizedExample(ids=kept, spans=((start, start + num_kept),)), len(ids))
    return dropped(len(ids))


def fitted_text(ids: np.ndarray, num_beginning: int, length: int, overlong: Overlong) -> Fitted:
    """Args:
    num_beginning: tokens before the text, which stay.
    """
    if len(ids) <= length:
        return whole(_learnt(ids))
    if overlong == "truncate_end":
        return truncated(_learnt(ids[:length]), len(ids))
    if overlong == "truncate_start" and length > num_beginning:
        kept = np.concatenate([ids[:num_beginning], ids[len(ids) - (length - num_beginning) :]])
        return truncated(_learnt(kept), len(ids))
    if overlong == "split":
        return Fitted(outcome="split", num_tokens=len(ids), examples=list(_pieces(ids, length)))
    return dropped(len(ids))


def fitted_pair(pair: TokenizedPair, length: int, overlong: Overlong) -> Fitted:
    """Cuts the ends of both answers."""
    if pair.longer <= length:
        return whole(pair)
    num_kept = length - len(pair.prompt_ids)
    if overlong == "truncate_end" and num_kept > 0:
        cut = TokenizedPair(
            prompt_ids=pair.prompt_ids, chosen_ids=pair.chosen_ids[:num_kept], rejected_ids=pair.rejected_ids[:num_kept]
        )
        # What told them apart may be gone.
        if not np.array_equal(cut.chosen_ids, cut.rejected_ids):
            return truncated(cut, pair.longer)
    return dropped(pair.longer)


def _learnt(ids: np.ndarray) -> TokenizedExample:
    """All of a text but its first token, which nothing predicts."""
    return TokenizedExample(ids=ids, spans=((1, len(ids)),))


def _pieces(ids: np.ndarray, length: int) -> Iterator[TokenizedExample]:
    for start in range(0, len(ids), length):
        piece = ids[start : start + length]
        # A single token teaches nothing.
        if len(piece) > 1:
            yield _learnt(piece)
