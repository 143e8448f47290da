"""Separates special tokens in foreign text from those that a template writes.

A tokenizer sees one text and takes each `<|im_end|>` in it for the end of a turn, whoever wrote it. So special tokens
within a message are wrapped in marks before the template renders it; those outside of marks are the template's. The
template's tokens are then replaced by aliases of the same length, made of private characters that nobody can guess. A
copy of the tokenizer, which knows the aliases but not the tokens, encodes the whole text. Everything else about the
tokenizer stays the same, including what it does at the text's beginning and beside a special token.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from tokenizers import AddedToken, Encoding, Tokenizer

from headrace.errors import InvalidInput

# Planes 15 and 16: their characters have no meaning.
_PRIVATE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))


class PlainBackend:
    """Wraps `backend`; marks say which occurrences of `tokens` are the template's own."""

    def __init__(self, backend: Tokenizer, tokens: Collection[str]) -> None:
        self._backend = backend
        # A token precedes the tokens that it contains.
        self._tokens = sorted(tokens, key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, self._tokens)) or r"(?!)")
        self._flags = {token.content: token for token in backend.get_added_tokens_decoder().values()}
        self._normalized = [token for token in self._tokens if self._flags[token].normalized]

    def spells_one(self, text: str) -> bool:
        """Whether the tokenizer would find one of the tokens in `text`."""
        return self.any_spells_one([text])

    def any_spells_one(self, texts: Sequence[str]) -> bool:
        """Whether it would in one of `texts`."""
        # One search for all, since most have none; more than one text only seems to spell a token across a border.
        if self._spelt.search("".join(texts)) and any(map(self._spelt.search, texts)):
            return True
        normalizer = self._backend.normalizer
        if not self._normalized or normalizer is None:
            return False
        # The tokenizer looks for some tokens after its normalizer, which narrows full-width letters.
        normal = map(normalizer.normalize_str, texts)
        return any(token in text for text in normal for token in self._normalized)

    def marks_for(self, texts: Sequence[str]) -> "Marks":
        """Two mark characters that none of `texts` contains."""
        taken = {character for text in texts for character in text}
        begin, end = _first_free(taken, 2)
        return Marks(self._spelt, self._alias, begin, end)

    def encode(self, marked: str) -> tuple[list[int], Encoding]:
        """The ids of a marked text, and an encoding with offsets into the unmarked text.

        Raises:
            InvalidInput: the tokenizer makes a special token of plain text.
        """
        encoding = self._aliased.encode(marked, add_special_tokens=False)
        meant = self._ids
        if any(token_id in self._forbidden for token_id in encoding.ids):
            raise InvalidInput(
                "A message spells a special token that this model's tokenizer makes of any such text: it cannot be "
                "told from a turn. Take it out of the text."
            )
        return [meant.get(token_id, token_id) for token_id in encoding.ids], encoding

    @cached_property
    def _alias(self) -> dict[str, str]:
        draw = secrets.SystemRandom()
        aliases = {token: "".join(chr(draw.choice(_PRIVATE)) for _ in token) for token in self._tokens}
        assert len(set(aliases.values())) == len(aliases)
        return aliases

    @cached_property
    def _aliased(self) -> Tokenizer:
        body = json.loads(self._backend.to_str())
        body["added_tokens"] = [token for token in body["added_tokens"] if token["content"] not in self._alias]
        backend = Tokenizer.from_str(json.dumps(body))
        backend.add_tokens([self._aliased_token(token) for token in self._tokens])
        return backend

    def _aliased_token(self, token: str) -> AddedToken:
        flags = self._flags[token]
        # Found before the normalizer runs: the template's tokens count exactly as written.
        return AddedToken(
            self._alias[token], lstrip=flags.lstrip, rstrip=flags.rstrip, normalized=False, special=flags.special
        )

    @cached_property
    def _ids(self) -> dict[int, int]:
        """Maps the copy's ids of added tokens to the tokenizer's own, which may differ."""
        own = {self._alias[token]: token for token in self._tokens}
        added = self._aliased.get_added_tokens_decoder().items()
        pairs = (
            (token_id, self._backend.token_to_id(own.get(token.content, token.content))) for token_id, token in added
        )
        return {token_id: meant for token_id, meant in pairs if meant is not None}

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        """Ids that plain text must not get. The id for unknown words is not one of them."""
        model = json.loads(self._backend.to_str())["model"]
        unknown = {self._backend.token_to_id(model.get("unk_token") or ""), model.get("unk_id")}
        ids = {self._backend.token_to_id(token) for token in self._tokens}
        return frozenset(token_id for token_id in ids - unknown if token_id is not None and token_id not in self._ids)


class Marks:
    """Two characters that surround each special token in a message."""

    def __init__(self, spelt: re.Pattern[str], alias: dict[str, str], begin: str, end: str) -> None:
        self._spelt, self._alias, self._begin, self._end = spelt, alias, begin, end
        # A template that cuts messages may leave half of a pair: a single mark is never text either.
        self._wrapped = re.compile(f"{begin}({spelt.pattern}){end}|[{begin}{end}]")

    def around(self, text: str) -> str:
        """Raises: InvalidInput: the text contains an alias, which nobody can know."""
        if any(alias in text for alias in self._alias.values()):
            raise InvalidInput("A message holds private-use characters that are taken here. Take them out of the text.")
        return self._spelt.sub(lambda found: f"{self._begin}{found[0]}{self._end}", text)

    def resolved(self, rendered: str) -> tuple[str, str]:
        """The text without marks, and the same with an alias for each token outside of marks."""
        pieces = list(self._pieces(rendered))
        text = "".join(piece for piece, _ in pieces)
        marked = "".join(
            piece if is_foreign else self._spelt.sub(lambda found: self._alias[found[0]], piece)
            for piece, is_foreign in pieces
        )
        return text, marked

    def _pieces(self, rendered: str) -> Iterator[tuple[str, bool]]:
        """Runs of text, and whether each comes from a message."""
        place = 0
        for found in self._wrapped.finditer(rendered):
            yield rendered[place : found.start()], False
            yield found[1] or "", True
            place = found.end()
        yield rendered[place:], False


def _first_free(taken: Collection[str], count: int) -> list[str]:
    free = (chr(code) for code in _PRIVATE if chr(code) not in taken)
    return [next(free) for _ in range(count)]
