"""Decides which documents train the model and which measure it.

A stable hash of the term decides, so all documents of a term are on one side, in any shard and after any number of new
documents. A document without a term is split by its text. Terms whose documents are twins (`dedup`) are on one side,
too: that of the one among them whose hash is least, so a new twin of an old one moves as few as it can. Knows nothing
of synonyms: terms of equal meaning may fall on two sides.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl
import pyarrow as pa
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


@dataclass(frozen=True, kw_only=True)
class HeldoutShare:
    num_documents: int
    num_heldout: int

    @property
    def share(self) -> float:
        return self.num_heldout / self.num_documents if self.num_documents else 0.0

    def is_near(self, wanted: float) -> bool:
        """Whether it is off by less than half of it, or by what chance explains (three standard deviations of single
        documents: those of one term are no more)."""
        chance = 3 * (wanted * (1 - wanted) * self.num_documents) ** 0.5
        return abs(self.num_heldout - wanted * self.num_documents) <= max(chance, wanted * self.num_documents / 2)


def heldout_share_of(shards: Iterable[pa.Table]) -> HeldoutShare:
    """Takes CLEAN_DOCUMENTS, of which `split` is enough."""
    num_documents = num_heldout = 0
    for table in shards:
        num_documents += table.num_rows
        num_heldout += pl.DataFrame(table).filter(pl.col("split") == "heldout").height
    return HeldoutShare(num_documents=num_documents, num_heldout=num_heldout)


class MovedKeys:
    """Keys that are linked by twins, and those of them that stand on another side than they would alone."""

    def __init__(self, heldout_share: float) -> None:
        self._heldout_share = heldout_share
        self._own: dict[int, Split] = {}
        self._parents: dict[int, int] = {}
        self._first_of: dict[int, int] = {}
        self._num_documents: Counter[int] = Counter()

    def add(self, documents: Iterable[tuple[int, tuple[str | None, str]]]) -> list[int]:
        """The key of each document.

        Args:
            documents: the number that twins have in common, and term and text of each document.
        """
        keys = []
        for twins, (term, text) in documents:
            key = split_key(term, text)
            if key not in self._parents:
                self._parents[key], self._own[key] = key, split_of(term, text, self._heldout_share)
            one, other = self._root(key), self._root(self._first_of.setdefault(twins, key))
            # The least decides.
            self._parents[max(one, other)] = min(one, other)
            keys.append(key)
        self._num_documents.update(keys)
        return keys

    def num_largest(self) -> int:
        """How many twins are linked at most, by similarity or by a term."""
        groups: Counter[int] = Counter()
        for key, number in self._num_documents.items():
            groups[self._root(key)] += number
        return max(groups.values(), default=0)

    def moved(self) -> Mapping[int, Split]:
        """Key → the side on which its twins are."""
        sides: dict[int, Split] = {key: self._own[self._root(key)] for key in self._parents}
        return {key: side for key, side in sides.items() if side != self._own[key]}

    def _root(self, key: int) -> int:
        while (parent := self._parents[key]) != key:
            self._parents[key] = key = self._parents[parent]
        return key
