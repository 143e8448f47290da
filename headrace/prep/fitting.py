"""What becomes of examples that are longer than a sequence: dropped, cut or split, as the corpus says.

A prompt is never cut, and an example that keeps no token with loss is dropped. A text that lost its end has no token
for it: the model does not learn to stop there. Knows ids and spans alone; conversations, whose turns stay whole, are
cut where they are rendered.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from headrace.prep.example_forms import Overlong
from headrace.prep.token_spans import TokenizedExample

Outcome = Literal["whole", "truncated", "split", "dropped"]


class Fitted(NamedTuple):
    """One document's examples, each of which fits. `num_tokens`: of the whole, or of a pair's longer chat."""

    outcome: Outcome
    num_tokens: int
    examples: Sequence[TokenizedExample]


def whole(example: TokenizedExample) -> Fitted:
    return Fitted(outcome="whole", num_tokens=example.num_tokens, examples=(example,))


def dropped(num_tokens: int) -> Fitted:
    return Fitted(outcome="dropped", num_tokens=num_tokens, examples=())


def truncated(example: TokenizedExample, num_tokens: int) -> Fitted:
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


def fitted_text(text: TokenizedExample, num_beginning: int, length: int, overlong: Overlong) -> Fitted:
    """Args:
    num_beginning: tokens before the text, which stay.
    """
    ids = text.ids
    if len(ids) <= length:
        return whole(text)
    if overlong == "truncate_end":
        return truncated(learnt_text(ids[:length]), len(ids))
    if overlong == "truncate_start" and length > num_beginning:
        kept = np.concatenate([ids[:num_beginning], ids[len(ids) - (length - num_beginning) :]])
        return truncated(learnt_text(kept), len(ids))
    if overlong == "split":
        return Fitted(outcome="split", num_tokens=len(ids), examples=list(_pieces(ids, length)))
    return dropped(len(ids))


def fitted_pair(pair: TokenizedExample, length: int, overlong: Overlong) -> Fitted:
    """Cuts the ends of both answers."""
    [(start, chosen_end), (_, end)] = pair.spans
    num_tokens = start + max(chosen_end - start, end - chosen_end)
    if num_tokens <= length:
        return Fitted(outcome="whole", num_tokens=num_tokens, examples=(pair,))
    num_kept = length - start
    if overlong == "truncate_end" and num_kept > 0:
        chosen, rejected = (part[:num_kept] for part in (pair.ids[start:chosen_end], pair.ids[chosen_end:]))
        # What told them apart may be gone.
        if not np.array_equal(chosen, rejected):
            ids = np.concatenate([pair.ids[:start], chosen, rejected])
            middle = start + len(chosen)
            return truncated(TokenizedExample(ids=ids, spans=((start, middle), (middle, len(ids)))), num_tokens)
    return dropped(num_tokens)


def learnt_text(ids: np.ndarray) -> TokenizedExample:
    """All of a text but its first token, which nothing predicts."""
    return TokenizedExample(ids=ids, spans=((1, len(ids)),))


def _pieces(ids: np.ndarray, length: int) -> Iterator[TokenizedExample]:
    for start in range(0, len(ids), length):
        # A single token would be predicted by nothing: the last one takes the token before it along, which is not
        # learnt again. Otherwise some texts would lose their end-of-text token.
        yield learnt_text(ids[min(start, len(ids) - 2) : start + length])
