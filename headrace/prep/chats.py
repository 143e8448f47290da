"""Documents as chats in a model's own template, tokenized, with the span of tokens that carry loss.

The template renders the text, and the tokenizer encodes it as a whole; the completion's tokens are then found by its
characters. A document is only text: if it contains a special token, its characters are encoded, and no turn ends. Knows
nothing of sequences and packing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np
from tokenizers import Encoding

from headrace.chat.template import Message
from headrace.chat.tokenizer import ChatTokenizer, RenderedChat
from headrace.errors import InvalidInput
from headrace.prep.corpus import Corpus

# A row of clean documents: term, category and text.
Document = Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedExample:
    """Token ids (int32) of one chat; those in [label_start, label_end) carry loss."""

    ids: np.ndarray
    label_start: int
    label_end: int


def tokenized(corpus: Corpus, rows: Sequence[Document], tokenizer: ChatTokenizer) -> Iterator[TokenizedExample]:
    """The chats of `rows` as ids, in order.

    Raises:
        InvalidInput: the model's chat template refuses a system turn, or changes the completion.
    """
    completions = [corpus.completion.format_map(row) for row in rows]
    chats = [tokenizer.rendered(_messages(corpus, *pair)) for pair in zip(rows, completions, strict=True)]
    behind = _behind_completion(corpus, tokenizer)
    starts = [
        _completion_start(chat.text, completion, behind) for chat, completion in zip(chats, completions, strict=True)
    ]
    for chat, start, (num_shared, shared_ids, ids, encoding) in zip(
        chats, starts, _encoded(chats, min(starts, default=0), tokenizer), strict=True
    ):
        # The model should learn the end token, but not the line break after it.
        end = len(chat.text) - len(behind) + len(behind.rstrip())
        label_start, label_end = _label_span(encoding, start - num_shared, end - num_shared)
        yield TokenizedExample(
            ids=np.asarray([*shared_ids, *ids], dtype=np.int32),
            label_start=len(shared_ids) + label_start,
            label_end=len(shared_ids) + label_end,
        )


def shown_example(corpus: Corpus, row: Document, tokenizer: ChatTokenizer | None) -> str:
    """One training example for people, as the model will read it; without a tokenizer turn by turn."""
    messages = _messages(corpus, row, corpus.completion.format_map(row))
    if tokenizer is not None:
        return tokenizer.render(messages)
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _encoded(
    chats: Sequence[RenderedChat], before: int, tokenizer: ChatTokenizer
) -> Iterator[tuple[int, list[int], list[int], Encoding]]:
    """For each chat: the characters that are encoded once for all, their ids, and the rest's ids and encoding."""
    plain = [chat.text for chat in chats if chat.marked is None]
    shared, shared_ids = _shared_beginning(plain, before, tokenizer)
    encodings = iter(tokenizer.encode_batch([text[len(shared) :] for text in plain]))
    for chat in chats:
        if chat.marked is None:
            encoding = next(encodings)
            yield len(shared), shared_ids, encoding.ids, encoding
        else:
            yield 0, [], *tokenizer.encode(chat)


def _messages(corpus: Corpus, row: Document, completion: str) -> list[Message]:
    turns = {
        "system": None if corpus.prompt.system is None else corpus.prompt.system.format_map(row),
        "user": corpus.prompt.user.format_map(row),
        "assistant": completion,
    }
    return [{"role": role, "content": content} for role, content in turns.items() if content is not None]


def _behind_completion(corpus: Corpus, tokenizer: ChatTokenizer) -> str:
    """The template's text after every completion: the end of the turn, often with a line break."""
    completion = "the completion"
    probe = tokenizer.render(_messages(corpus, {"term": "term", "category": "category"}, completion))
    _, found, behind = probe.rpartition(completion)
    if not found or not behind.strip():
        raise InvalidInput(
            f"The base model's chat template does not end the assistant's turn, got {probe!r}: nothing would teach the "
            "model to stop. Take an instruct model."
        )
    return behind


def _completion_start(chat: str, completion: str, behind: str) -> int:
    start = len(chat) - len(behind) - len(completion)
    if chat[start:] != completion + behind:
        raise InvalidInput(
            f"The base model's chat template does not keep the completion {completion!r} as it is, got {chat!r}. "
            "Take a model whose template copies the assistant's words."
        )
    return start


def _shared_beginning(chats: Sequence[str], before: int, tokenizer: ChatTokenizer) -> tuple[str, list[int]]:
    """The common beginning of all chats, up to a special token that ends before `before`, and its ids.

    No other token reaches across a special token, so the system turn is tokenized only once: a quarter of the whole
    work. Empty if the tokenizer does not respect that border.
    """
    # The first and last of sorted texts share the prefix that all share. These are texts, so not commonpath.
    common = commonprefix([min(chats, default=""), max(chats, default="")])[:before]  # noqa: RUF071
    ends = [common.rfind(token) + len(token) for token in tokenizer.special_tokens if token in common]
    # One more common character: then a tokenizer sees the same on both sides of the border in all chats.
    shared = common[: max((end for end in ends if end < len(common)), default=0)]
    if not shared:
        return "", []
    whole, beginning, rest = tokenizer.encode_batch([chats[0], shared, chats[0][len(shared) :]])
    return (shared, beginning.ids) if whole.ids == beginning.ids + rest.ids else ("", [])


def _label_span(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    """The tokens that hold a character of [start, end): from the first to one after the last.

    A token that begins in the template and ends in the completion counts, as in `[/INST] word`, whose space belongs to
    both: the model will have to generate it.
    """
    first, behind = encoding.char_to_token(start), encoding.char_to_token(end)
    if first is not None and behind is not None:
        span = encoding.token_to_chars(behind)
        return first, behind if span and span[0] >= end else behind + 1
    # `end` lies after the last character, or one of the two is in no token: rare, so a search is enough.
    held = [token for token, (begins, ends) in enumerate(encoding.offsets) if begins < end and ends > start]
    return (held[0], held[-1] + 1) if held else (0, 0)
