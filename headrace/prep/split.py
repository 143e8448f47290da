"""Decides which documents train the model and which measure it.

A stable hash of the term decides, so all documents of a term are on one side, in any shard and after any number of new
documents. A document without a term is split by its text. Terms whose documents are twins (`dedup`) are on one side,
too: that of the one among them whose hash is least, so a new twin of an old one moves as few as it can. Knows nothing
of synonyms: terms of equal meaning may fall on two sides.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import xxhash

from headrace.prep.text_keys import text_key, unit_interval

Split = Literal["train", "heldout"]


def is_heldout(key: str, heldout_share: float) -> bool:
    """Whether a term is held out; a larger share holds out the same terms and more."""
    return unit_interval(text_key(key)) < heldout_share


def split_of(term: str | None, text: str, heldout_share: float) -> Split:
    return "heldout" if is_heldout(text if term is None else term, heldout_share) else "train"


def split_key(term: str | None, text: str) -> int:
    """What decides the side of a document, as a number that is independent of the side."""
    return xxhash.xxh3_64_intdigest(text_key(text if term is None else term).encode())


class MovedKeys:
    """Keys that are linked by twins, and those of them that stand on another side than they would alone."""

    def __init__(self, heldout_share: float) -> None:
        self._heldout_share = heldout_share
        self._own: dict[int, Split] = {}
        self._parents: dict[int, int] = {}
        self._first_of: dict[int, int] = {}

    def add(self, documents: Iterable[tuple[int, tuple[str | None, str]]]) -> None:
        """Args: documents: the number that twins have in common, and term and text of each document."""
        for twins, (term, text) in documents:
            key = split_key(term, text)
            if key not in self._parents:
                self._parents[key], self._own[key] = key, split_of(term, text, self._heldout_share)
            one, other = self._root(key), self._root(self._first_of.setdefault(twins, key))
            # The least decides.
            self._parents[max(one, other)] = min(one, other)

    def moved(self) -> Mapping[int, Split]:
        """Key → the side on which its twins are."""
        sides = {key: self._own[self._root(key)] for key in self._parents}
        return {key: side for key, side in sides.items() if side != self._own[key]}

    def _root(self, key: int) -> int:
        while (parent := self._parents[key]) != key:
            self._parents[key] = key = self._parents[parent]
        return key
