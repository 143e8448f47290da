"""Preference pairs as ids: one prompt, and the chosen and the rejected answer, each with the end of its turn.

Prompt and answer together are exactly the ids of the whole chat. A token that reaches from the prompt into an answer
belongs to the answers. Both answers follow the same prompt ids, as trainers that compare their likelihoods need.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from headrace.chat.tokenizer import ChatTokenizer
from headrace.chat.turn_spans import SpannedChat
from headrace.handoff.schemas import PREFERENCE_EXAMPLES
from headrace.prep.chats import Document, document_chat, messages_of
from headrace.prep.split import Split
from headrace.prep.token_spans import TokenizedExample, ragged, tokenized_chats


def pair_chats(row: Document, tokenizer: ChatTokenizer) -> tuple[SpannedChat, SpannedChat]:
    """The prompt with the chosen, and with the rejected answer.

    Raises:
        InvalidInput: as `document_chat`.
    """
    carried = messages_of(row)
    chosen, rejected = (
        document_chat(row, [*carried["prompt"], *carried[name]], tokenizer, only_last=True)
        for name in ("chosen", "rejected")
    )
    return chosen, rejected


def tokenized_pairs(rows: Sequence[Document], tokenizer: ChatTokenizer) -> Iterator[TokenizedExample]:
    """The pairs of `rows`, in order: the prompt's ids, then the span of the chosen answer and that of the rejected one.

    Raises:
        InvalidInput: as `document_chat`.
    """
    chats = [chat for row in rows for chat in pair_chats(row, tokenizer)]
    examples = iter(tokenized_chats(chats, tokenizer))
    for chosen, rejected in zip(examples, examples, strict=True):
        [(chosen_start, chosen_end)], [(rejected_start, rejected_end)] = chosen.spans, rejected.spans
        start = _num_common(chosen.ids[:chosen_start], rejected.ids[:rejected_start])
        parts = chosen.ids[:chosen_end], rejected.ids[start:rejected_end]
        total = sum(map(len, parts))
        yield TokenizedExample(ids=np.concatenate(parts), spans=((start, chosen_end), (chosen_end, total)))


def pairs_table(split: Split, pairs: Sequence[TokenizedExample]) -> pa.Table:
    """A row a pair, as PREFERENCE_EXAMPLES."""
    spans = [((0, pair.spans[0][0]), *pair.spans) for pair in pairs]
    columns = [
        ragged([pair.ids[slice(*three[place])] for pair, three in zip(pairs, spans, strict=True)]) for place in range(3)
    ]
    return pa.Table.from_arrays([pa.array([split] * len(pairs), pa.string()), *columns], schema=PREFERENCE_EXAMPLES)


def _num_common(first: np.ndarray, second: np.ndarray) -> int:
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
