"""Keys of documents: two of equal or similar texts share one of them nearly always, and others seldom.

One key stands for the text as exact copies have it, the others for bands of a MinHash signature. What else makes
documents copies is in no key, since twins stand on one side of the split whatever it is. All are the same on every
machine, so that shards can be signed by many. A row is a key and a document; rows are kept in files by ranges of the
key, so that memory holds a batch of documents, or a range, never all.
"""

from collections.abc import Iterator, Sequence
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self

import numpy as np
import polars as pl
import xxhash

from headrace.prep.corpus import Corpus
from headrace.prep.dedup_settings import NUM_KEY_RANGES, NearDuplicates
from headrace.prep.text_keys import keys_in_ascii, text_keys_of
from headrace.prep.token_rule import folded, kinds
from headrace.prep.utf8 import utf8_batches

# A key, and the document that has it.
KEY_ROWS = np.dtype([("key", "<u8"), ("document", "<i8")])
_RANGE_SHIFT = np.uint64(64 - NUM_KEY_RANGES.bit_length() + 1)

# The least share of pairs at the threshold that are found: of copies, and of twins on two sides of a split.
COPY_RECALL_MIN, TWIN_RECALL_MIN = 0.999, 0.98


class Signer:
    """Makes the keys of documents in their normal form, as one corpus compares them."""

    def __init__(self, columns: Sequence[str], near: NearDuplicates | None, twins_jaccard: float | None) -> None:
        self._others = [text_keys_of(pl.col(name)) for name in columns if name != "text"]
        thresholds = [(near.jaccard, COPY_RECALL_MIN)] if near else []
        thresholds += [(twins_jaccard, TWIN_RECALL_MIN)] if twins_jaccard else []
        settings = near or NearDuplicates()
        self.num_tokens, self.num_bands, self._num_rows = settings.shingle_words, 0, 1
        self._factors = self._summands = np.zeros(0, np.uint32)
        if thresholds:
            self.num_bands, self._num_rows = bands(thresholds, settings.num_permutations)
            self._factors, self._summands = _permutations(self.num_bands * self._num_rows)

    @classmethod
    def of(cls, corpus: Corpus) -> "Signer":
        return cls(corpus.duplicate_columns, corpus.near_duplicates, corpus.twins_jaccard)

    def missed_share(self, similarity: np.ndarray) -> np.ndarray:
        """The share of pairs of these similarities that share no band."""
        return (1 - similarity**self._num_rows) ** self.num_bands

    def exact_keys(self, documents: pl.DataFrame, *, num_hashes: int = 1) -> np.ndarray:
        """uint64 [hash, document]: equal for equal texts, seldom for others."""
        return _hashes(documents, [text_keys_of(pl.col("text"))], num_hashes)

    def beside(self, documents: pl.DataFrame) -> np.ndarray:
        """uint64 [document], of the columns beside the text that make copies: equal where these are, seldom else."""
        return _hashes(documents, self._others, 1)[0]

    def rows(self, documents: pl.DataFrame, numbers: np.ndarray) -> np.ndarray:
        """`KEY_ROWS` of documents, of which `numbers` (int64) are the names; equal texts share one of them.

        A text without tokens has no band. One whose bands say as much has no exact key.
        """
        if not self.num_bands:
            return self._exact_rows(documents, numbers)
        has_tokens, banded = self._banded(documents.get_column("text"), numbers)
        # One beyond ASCII whose key is that of an ASCII text meets it in the bands of that.
        places, keys = keys_in_ascii(documents.get_column("text"))
        _, also = self._banded(keys, numbers[places])
        # Texts of ASCII with one exact key have the same tokens, so they share bands; of others, `text_keys` may
        # overlook more than the token rule does (Unicode's forms), and it costs more than all the rest here.
        text = pl.col("text")
        is_ascii = documents.select(text.str.len_bytes() == text.str.len_chars()).to_series().fill_null(True)
        needed = ~(is_ascii.to_numpy() & has_tokens)
        exact = self._exact_rows(documents.filter(pl.Series(needed)), numbers[needed])
        return np.concatenate([exact, banded, also])

    def _banded(self, texts: pl.Series, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which texts have tokens, and the `KEY_ROWS` of these."""
        from headrace.prep import kernels

        keys = np.empty((len(texts), self.num_bands), np.uint64)
        has_tokens = np.zeros(len(texts), np.bool_)
        for rows, found, bounds in sequences_of(texts, self.num_tokens):
            kernels.band_keys(found, bounds, self._factors, self._summands, keys[rows])
            has_tokens[rows] = np.diff(bounds) > 0
        banded = np.empty((int(has_tokens.sum()), self.num_bands), KEY_ROWS)
        banded["key"], banded["document"] = keys[has_tokens], numbers[has_tokens, None]
        return has_tokens, banded.ravel()

    def _exact_rows(self, documents: pl.DataFrame, numbers: np.ndarray) -> np.ndarray:
        exact = np.empty(documents.height, KEY_ROWS)
        exact["key"], exact["document"] = self.exact_keys(documents)[0], numbers
        return exact


# Of each range: a small shard needs no file, of which 64 cost more than their rows.
_HELD_BYTES = 128 * 1024


class KeyFiles:
    """Rows of each range of keys, beyond the first in temporary files without names; a context, at whose end they are
    gone."""

    def __enter__(self) -> Self:
        self._files = [
            SpooledTemporaryFile(_HELD_BYTES, prefix="headrace-keys-")  # noqa: SIM115
            for _ in range(NUM_KEY_RANGES)
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for file in self._files:
            file.close()

    def add(self, rows: np.ndarray) -> None:
        ranges = (rows["key"] >> _RANGE_SHIFT).astype(np.uint8)
        ordered = rows[np.argsort(ranges, kind="stable")]
        ends = np.cumsum(np.bincount(ranges, minlength=NUM_KEY_RANGES))
        for file, one in zip(self._files, np.split(ordered, ends[:-1]), strict=True):
            file.write(one.tobytes())

    def ranges(self) -> Iterator[np.ndarray]:
        """The rows of each range, in the order of ranges."""
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), KEY_ROWS)


def bounds_of_ranges(keys: np.ndarray, numbers: range) -> np.ndarray:
    """int64 [range + 1]: where each of these consecutive ranges begins in uint64 `keys`, ascending, and the last
    ends."""
    firsts = np.array([number << int(_RANGE_SHIFT) for number in numbers], np.uint64)
    last = np.uint64((numbers.stop << int(_RANGE_SHIFT)) - 1)
    return np.append(np.searchsorted(keys, firsts), np.searchsorted(keys, last, side="right"))


def bands(thresholds: Sequence[tuple[float, float]], num_permutations: int) -> tuple[int, int]:
    """How many bands of how many rows: as many rows as propose pairs at each threshold with its least recall.

    A pair of similarity s shares a band of r rows with probability s^r, and is proposed with 1 - (1 - s^r)^b. Fewer
    rows propose more pairs that the exact comparison must reject.
    """
    num_rows = 1
    while all(recall(at, num_permutations, num_rows + 1) >= least for at, least in thresholds):
        num_rows += 1
    return num_permutations // num_rows, num_rows


def recall(similarity: float, num_permutations: int, num_rows: int) -> float:
    """The share of pairs of this similarity that share a band."""
    return 1 - (1 - similarity**num_rows) ** (num_permutations // num_rows)


def sequences_of(texts: pl.Series, num_tokens: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows, and their sequences as `kernels.sequences` makes them; a null is an empty text."""
    from headrace.prep import kernels

    for rows, data, ends in utf8_batches(texts):
        # A token has at least one byte.
        found = np.empty(ends[-1] - ends[0], np.uint32)
        bounds = kernels.sequences(data, ends, kinds(), folded(), num_tokens, found)
        yield rows, found[: bounds[-1]], bounds


def _hashes(documents: pl.DataFrame, columns: Sequence[pl.Expr], number: int) -> np.ndarray:
    """uint64 [hash, document]. Compared column by column: ("2", "10 apples") is not ("2 10", "apples")."""
    # Its import costs 0.4 CPU s, compiling 3 more, once a machine.
    from headrace.prep import kernels

    hashes = np.repeat(np.arange(number, dtype=np.uint64)[:, None], documents.height, axis=1)
    for column in columns:
        for rows, data, ends in utf8_batches(documents.select(column.alias("key")).get_column("key")):
            for one in hashes:
                kernels.text_hashes(data, ends, one[rows])
    return hashes


def _permutations(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and summands, uint32 [number]: each pair permutes the numbers below 2^32."""
    drawn = [xxhash.xxh3_64_intdigest(b"permutation", seed=index) for index in range(number)]
    factors = np.array([one & 0xFFFFFFFF | 1 for one in drawn], dtype=np.uint32)
    return factors, np.array([one >> 32 for one in drawn], dtype=np.uint32)
