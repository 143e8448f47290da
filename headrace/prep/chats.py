"""Documents as chats in a model's own template, tokenized, with the span of tokens that bear loss.

The text is what the template renders and the ids are what the tokenizer makes of it as a whole; the completion is found
again among the tokens by its characters. What a document holds is text: where it spells a special token, it gets the
ids of its characters, and ends no turn. Knows nothing of sequences and packing.
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
    """Token ids (int32) of one chat; those in [label_start, label_end) bear loss."""

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
        # The end token is to be learnt, the line break behind it is not.
        end = len(chat.text) - len(behind) + len(behind.rstrip())
        label_start, label_end = _label_span(encoding, start - num_shared, end - num_shared)
        yield TokenizedExample(
            ids=np.asarray([*shared_ids, *ids], dtype=np.int32),
            label_start=len(shared_ids) + label_start,
            label_end=len(shared_ids) + label_end,
        )


def _encoded(
    chats: Sequence[RenderedChat], before: int, tokenizer: ChatTokenizer
) -> Iterator[tuple[int, list[int], list[int], Encoding]]:
    """Of each chat: the characters that are encoded once for all, their ids, the others' ids and encoding."""
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
    """What the template puts behind every completion: the end of the turn, often a line break."""
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
    """What all chats begin with, up to a special token that ends before `before`, and its ids.

    A special token is a boundary that no other token reaches across, so the system turn need be tokenized only once: a
    quarter of the whole work. Empty where the tokenizer does not hold to that.
    """
    # Of sorted texts, the first and the last have in common what all have. Texts, so not commonpath.
    common = commonprefix([min(chats, default=""), max(chats, default="")])[:before]  # noqa: RUF071
    ends = [common.rfind(token) + len(token) for token in tokenizer.special_tokens if token in common]
    # One more character in common: whatever a tokenizer makes of a boundary's two sides, it is the same for all chats.
    shared = common[: max((end for end in ends if end < len(common)), default=0)]
    if not shared:
        return "", []
    whole, beginning, rest = tokenizer.encode_batch([chats[0], shared, chats[0][len(shared) :]])
    return (shared, beginning.ids) if whole.ids == beginning.ids + rest.ids else ("", [])


def _label_span(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    """The tokens that hold a character of [start, end): from the first to one behind the last.

    A token that begins in the template and ends in the completion counts, as in `[/INST] word`, where the space belongs
    to both: the model will have to make it.
    """
    first, behind = encoding.char_to_token(start), encoding.char_to_token(end)
    if first is not None and behind is not None:
        span = encoding.token_to_chars(behind)
        return first, behind if span and span[0] >= end else behind + 1
    # `end` is behind the last character, or one of the two belongs to no token: rare, so a search will do.
    held = [token for token, (begins, ends) in enumerate(encoding.offsets) if begins < end and ends > start]
    return (held[0], held[-1] + 1) if held else (0, 0)
