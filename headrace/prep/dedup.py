"""Drops exact and near duplicates of documents, and keeps the first copy of each.

MinHash LSH proposes near duplicates, and their exact Jaccard similarity confirms them: no document is dropped on an
estimate. What is compared are sequences of tokens (`token_rule`), in every script alike. LSH finds a pair at the
threshold in 999 of 1,000 cases or more, and more similar pairs more surely; missed pairs stay. It works on one shard
and misses copies in two shards, so a corpus should be dealt to its shards by similarity, as the demo's is.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import polars as pl
import xxhash

from headrace.prep.corpus import NearDuplicates
from headrace.prep.text_keys import text_keys_of
from headrace.prep.token_rule import folded, kinds
from headrace.prep.utf8 import utf8_batches

# The least share of pairs at the threshold that LSH must propose.
_RECALL_MIN = 0.999


def exact_duplicates(documents: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """For each document, the place of the first one that is equal in all `columns` (Int64); null: that is itself.

    Not compared are the Unicode form, case, and how blanks and line breaks stand, but for the blanks that lines begin
    with: they are part of a program. Holds 20 bytes for each document.
    """
    keys = [text_keys_of(pl.col(name)) for name in columns]
    # Of 64 bits, two of a billion documents would share one by chance.
    hashes = (pl.struct(key.hash(seed).alias(str(at)) for at, key in enumerate(keys)).hash(seed) for seed in (0, 1))
    hashed = documents.select(one.alias(f"hash {at}") for at, one in enumerate(hashes)).with_row_index("place")
    is_first = pl.struct("hash 0", "hash 1").is_first_distinct()
    copies = hashed.filter(~is_first).join(hashed.filter(is_first), on=["hash 0", "hash 1"], suffix=" of first")
    copy_of = pl.repeat(None, documents.height, dtype=pl.Int64, eager=True).alias("copy_of")
    return copy_of.scatter(copies["place"], copies["place of first"])


def near_duplicates(documents: pl.DataFrame, columns: Sequence[str], settings: NearDuplicates) -> pl.DataFrame:
    """For each document, an earlier kept one whose text overlaps with its own by at least `settings.jaccard`.

    Columns other than `text` must be equal, as for exact duplicates. Only kept documents count as originals: in a chain
    of texts that each resemble the next, every second one may stay. A text without tokens is never a duplicate. Holds 8
    bytes a band and text, and 4 for each sequence of the texts that share a band's key with another.

    Returns:
        copy_of: the place of the kept document (Int64); null: there is none.
        similarity: the Jaccard similarity of both (Float64), or null.
    """
    # Its import costs 0.4 CPU s, compiling 3 more, once a machine.
    from headrace.prep import kernels

    num_bands, num_rows = bands(settings.jaccard, settings.num_permutations)
    factors, summands = _permutations(num_bands * num_rows)
    texts, others = documents.get_column("text"), [text_keys_of(pl.col(name)) for name in columns if name != "text"]
    numbers = np.zeros(len(texts), np.uint64)
    if others:
        hashes = pl.struct(key.hash().alias(str(at)) for at, key in enumerate(others)).hash()
        numbers = documents.select(hashes.alias("beside")).get_column("beside").to_numpy()
    keys = np.empty((len(texts), num_bands), np.uint64)
    has_tokens = np.zeros(len(texts), np.bool_)
    for rows, found, bounds in _sequences(texts, settings.shingle_words):
        kernels.band_keys(found, bounds, factors, summands, numbers[rows], keys[rows])
        has_tokens[rows] = np.diff(bounds) > 0
    groups, num_groups = _groups(keys, has_tokens)
    has_company: np.ndarray = np.max(groups, axis=1, initial=-1) >= 0
    sets, sizes = [np.zeros(0, np.uint32)], [np.zeros(1, np.int64)]
    for _, found, bounds in _sequences(texts.filter(pl.Series(has_company)), settings.shingle_words):
        members, num_members = _sets(found, bounds)
        sets.append(members)
        sizes.append(num_members)
    originals, similarities = kernels.repeats(
        groups[has_company], num_groups, np.concatenate(sets), np.cumsum(np.concatenate(sizes)), settings.jaccard
    )
    places = np.flatnonzero(has_company)
    copy_of, similarity = np.full(len(texts), -1, np.int64), np.zeros(len(texts))
    copy_of[has_company], similarity[has_company] = np.where(originals < 0, -1, places[originals]), similarities
    found = pl.DataFrame({"copy_of": copy_of, "similarity": similarity})
    return found.select(pl.when(pl.col("copy_of") >= 0).then(pl.all()))


def bands(threshold: float, num_permutations: int) -> tuple[int, int]:
    """How many bands of how many rows: as many rows as propose pairs at the threshold surely enough.

    A pair of similarity s shares a band of r rows with probability s^r, and is proposed with 1 - (1 - s^r)^b. Fewer
    rows propose more pairs that the exact comparison must reject.
    """
    num_rows = 1
    while 1 - (1 - threshold ** (num_rows + 1)) ** (num_permutations // (num_rows + 1)) >= _RECALL_MIN:
        num_rows += 1
    return num_permutations // num_rows, num_rows


def _permutations(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and summands, uint32 [number]: each pair permutes the numbers below 2^32."""
    drawn = [xxhash.xxh3_64_intdigest(b"permutation", seed=index) for index in range(number)]
    factors = np.array([one & 0xFFFFFFFF | 1 for one in drawn], dtype=np.uint32)
    return factors, np.array([one >> 32 for one in drawn], dtype=np.uint32)


def _sequences(texts: pl.Series, num_tokens: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows, and their sequences as `kernels.sequences` makes them; a null is an empty text."""
    from headrace.prep import kernels

    for rows, data, ends in utf8_batches(texts):
        # A token has at least one byte.
        found = np.empty(ends[-1] - ends[0], np.uint32)
        bounds = kernels.sequences(data, ends, kinds(), folded(), num_tokens, found)
        yield rows, found[: bounds[-1]], bounds


def _sets(found: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each text's sequences sorted and each once (uint32), and how many each text has (int64)."""
    # numpy's sort is the fastest by far, and has no way to sort parts.
    for start, stop in pairwise(bounds.tolist()):
        found[start:stop].sort()
    is_first = np.ones(len(found) + 1, np.bool_)
    is_first[1:-1] = found[1:] != found[:-1]
    is_first[bounds] = True
    numbers = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_first[:-1])])
    return found[is_first[:-1]], np.diff(numbers[bounds])


def _groups(keys: np.ndarray, has_tokens: np.ndarray) -> tuple[np.ndarray, int]:
    """int32 [text, band]: the number of the group that shares a band's key, -1 for a text alone; how many groups."""
    from headrace.prep import kernels

    groups = np.empty(keys.shape, np.int32)
    return groups, kernels.groups(keys, has_tokens, groups)
