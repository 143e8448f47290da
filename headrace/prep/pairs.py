"""Preference pairs as ids: one prompt, and the chosen and the rejected answer, each with the end of its turn.

Prompt and answer together are exactly the ids of the whole chat. A token that reaches from the prompt into an answer
belongs to the answers. Both answers follow the same prompt ids, as trainers that compare their likelihoods need.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.chat.tokenizer import ChatTokenizer
from headrace.chat.turn_spans import SpannedChat
from headrace.handoff.schemas import PREFERENCE_EXAMPLES
from headrace.prep.chats import Document, document_chat, messages_of
from headrace.prep.split import Split
from headrace.prep.token_spans import tokenized_chats


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedPair:
    """Token ids (int32): `prompt_ids` and either answer's make one chat, up to the end of its turn."""

    prompt_ids: np.ndarray
    chosen_ids: np.ndarray
    rejected_ids: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    @property
    def longer(self) -> int:
        """Tokens of the longer chat."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def num_loss_tokens(self) -> int:
        return len(self.chosen_ids) + len(self.rejected_ids)


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


def tokenized_pairs(rows: Sequence[Document], tokenizer: ChatTokenizer) -> Iterator[TokenizedPair]:
    """The pairs of `rows`, in order.

    Raises:
        InvalidInput: as `document_chat`.
    """
    chats = [chat for row in rows for chat in pair_chats(row, tokenizer)]
    examples = iter(tokenized_chats(chats, tokenizer))
    for chosen, rejected in zip(examples, examples, strict=True):
        [(chosen_start, chosen_end)], [(rejected_start, rejected_end)] = chosen.spans, rejected.spans
        start = _num_common(chosen.ids[:chosen_start], rejected.ids[:rejected_start])
        yield TokenizedPair(
            prompt_ids=chosen.ids[:start],
            chosen_ids=chosen.ids[start:chosen_end],
            rejected_ids=rejected.ids[start:rejected_end],
        )


def pairs_table(split: Split, pairs: Sequence[TokenizedPair]) -> pa.Table:
    """A row a pair, as PREFERENCE_EXAMPLES."""
    columns = [_lists([getattr(pair, name) for pair in pairs]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    return pa.Table.from_arrays([pa.array([split] * len(pairs), pa.string()), *columns], schema=PREFERENCE_EXAMPLES)


def _lists(rows: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int32)
    values = np.concatenate([np.empty(0, dtype=np.int32), *rows])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _num_common(first: np.ndarray, second: np.ndarray) -> int:
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
