"""Conversations as ids, with loss on the assistant's turns; overlong ones lose whole turns.

`truncate_end` keeps the beginning, up to the last of the assistant's turns that fits. `truncate_start` keeps the system
turn and as many of the last exchanges as fit: an exchange begins with a user's turn. What is left is rendered anew,
since a template may treat a first turn specially.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from headrace.chat.template import Message
from headrace.chat.tokenizer import ChatTokenizer
from headrace.chat.turn_spans import SpannedChat
from headrace.prep.chats import Document, document_chat, messages_of
from headrace.prep.corpus import Corpus
from headrace.prep.fitting import Fitted, dropped, truncated, whole
from headrace.prep.token_spans import TokenizedExample, tokenized_chats


def conversation_chat(corpus: Corpus, row: Document, tokenizer: ChatTokenizer) -> SpannedChat:
    """Raises: InvalidInput: as `document_chat`."""
    carried = messages_of(row)
    return _chat(corpus, row, carried["messages"], carried.get("tools"), tokenizer)


def fitted_conversation(corpus: Corpus, row: Document, example: TokenizedExample, tokenizer: ChatTokenizer) -> Fitted:
    """Raises: InvalidInput: as `document_chat`."""
    if example.num_tokens <= corpus.sequence_length:
        return whole(example)
    kept = None
    if corpus.example.overlong == "truncate_end":
        kept = _beginning(example, corpus.sequence_length)
    elif corpus.example.overlong == "truncate_start":
        kept = _ending(corpus, row, tokenizer)
    return truncated(kept, example.num_tokens) if kept else dropped(example.num_tokens)


def _chat(
    corpus: Corpus, row: Document, messages: Sequence[Message], tools: Any, tokenizer: ChatTokenizer
) -> SpannedChat:
    return document_chat(row, messages, tokenizer, tools=tools, only_last=corpus.example.loss == "last")


def _beginning(example: TokenizedExample, length: int) -> TokenizedExample | None:
    spans = tuple(span for span in example.spans if span[1] <= length)
    return TokenizedExample(ids=example.ids[: spans[-1][1]], spans=spans) if spans else None


def _ending(corpus: Corpus, row: Document, tokenizer: ChatTokenizer) -> TokenizedExample | None:
    carried = messages_of(row)
    messages: list[Message] = carried["messages"]
    system = messages[:1] if messages[0]["role"] == "system" else []
    # Where an exchange begins that has an answer after it.
    learnt = (one["role"] == "assistant" and one.get("weight", 1) for one in messages)
    last_answer = max(number for number, is_learnt in enumerate(learnt) if is_learnt)
    starts = [number for number, one in enumerate(messages[:last_answer]) if one["role"] == "user"]
    starts = [start for start in starts if start > len(system)]

    def example_from(start: int) -> TokenizedExample:
        chat = _chat(corpus, row, [*system, *messages[start:]], carried.get("tools"), tokenizer)
        [example] = tokenized_chats([chat], tokenizer)
        return example

    # A shorter chat has fewer tokens, so the first start that fits is found by halving.
    fits = bisect_left(starts, True, key=lambda start: example_from(start).num_tokens <= corpus.sequence_length)
    return example_from(starts[fits]) if fits < len(starts) else None
