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
    num_beginning: tokens before the text, which stay, and stand before each piece of it.
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
        return Fitted(outcome="split", num_tokens=len(ids), examples=list(_pieces(ids, num_beginning, length)))
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


def _pieces(ids: np.ndarray, num_beginning: int, length: int) -> Iterator[TokenizedExample]:
    """Each token of the text is learnt in one piece, as it is in the whole.

    A later piece begins as the text does, if there is room for that, then with the token before its own: that one
    predicts the first of them, and is not learnt again.
    """
    yield learnt_text(ids[:length])
    beginning = ids[:num_beginning] if num_beginning + 1 < length else ids[:0]
    num_context = len(beginning) + 1
    for start in range(length, len(ids), length - num_context):
        piece = np.concatenate([beginning, ids[start - 1 : start + length - num_context]])
        yield TokenizedExample(ids=piece, spans=((num_context, len(piece)),))
