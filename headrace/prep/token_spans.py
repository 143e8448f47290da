"""Rendered chats as ids, with the spans of tokens that carry loss.

The tokenizer encodes each chat as a whole; what carries loss is then found by its characters. A document is only text:
if it contains a special token, its characters are encoded, and no turn ends. Knows nothing of sequences and packing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np
import pyarrow as pa
from tokenizers import Encoding

from headrace.chat.tokenizer import ChatTokenizer, RenderedChat
from headrace.chat.turn_spans import Span, SpannedChat
from headrace.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedExample:
    """Token ids (int32) of one example; those in `spans` carry loss. Of a pair: the prompt's, the chosen answer's, the
    rejected one's."""

    ids: np.ndarray
    spans: tuple[Span, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def num_loss_tokens(self) -> int:
        return sum(end - start for start, end in self.spans)


def ragged(rows: Sequence[np.ndarray]) -> pa.ListArray:
    """Arrays of int32 as lists."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    if offsets[-1] >= 2**31:
        raise InvalidInput(f"A shard has {offsets[-1]:,} tokens, wanted fewer than 2^31: raise num_shards.")
    values = np.concatenate([np.empty(0, dtype=np.int32), *rows])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def tokenized_chats(chats: Sequence[SpannedChat], tokenizer: ChatTokenizer) -> Iterator[TokenizedExample]:
    """The chats as ids, in order."""
    before = min((chat.spans[0][0] for chat in chats), default=0)
    encoded = _encoded([chat.chat for chat in chats], before, tokenizer)
    for chat, (num_shared, shared_ids, ids, encoding) in zip(chats, encoded, strict=True):
        spans: list[Span] = []
        used = 0
        for chars in chat.spans:
            start, end = _token_span(encoding, chars[0] - num_shared, chars[1] - num_shared)
            # A token that holds the end of one and the beginning of the next counts once.
            start = max(start, used)
            spans.append((len(shared_ids) + start, len(shared_ids) + max(start, end)))
            used = end
        yield TokenizedExample(ids=np.asarray([*shared_ids, *ids], dtype=np.int32), spans=tuple(spans))


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


def _token_span(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
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
