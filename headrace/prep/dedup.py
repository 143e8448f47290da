"""Finds exact and near copies among documents, and twins: documents whose texts are alike, and both stay.

Documents that share a key (`signatures`) are compared in full: no document is dropped on an estimate. What is compared
are sequences of tokens (`token_rule`), in every script alike. Of copies the longest text stays; of equally long ones
the first by its file's name, then by its line. So neither the order of shards nor that of files decides. A dropped
document is nobody's original: in a chain of texts that each resemble the next, every second one may stay. What another
column tells apart is no copy, and a twin all the same.

Memory holds 16 bytes for each row of documents that share a key, about 200 for each of these documents, and 2 to 4 bits
for each of its sequences, of at most 1,024; what is compared of their texts, 4 bytes a sequence, is in a file that is
mapped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np
import polars as pl

from headrace.prep.dedup_settings import NearDuplicates
from headrace.prep.signatures import KEY_ROWS, Signer, sequences_of

EXACT_DUPLICATE = "exact_duplicate"
NEAR_DUPLICATE = "near_duplicate"
# Above every similarity.
_NONE = 2.0
# Texts of one template share keys all over: without a limit, n of them would cost n² comparisons.
_NUM_COMPARED_MAX = 10_000
_BATCH_ROWS = 4096


class Documents(Protocol):
    """Documents by number, from 0 on, in their normal form, with `source_file` and `source_line`."""

    def at(self, numbers: np.ndarray) -> pl.DataFrame:
        """Args: numbers: int64, ascending."""
        ...


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How documents are compared: copies are equal in all `columns` but the text, twins in none; `near`,
    `twins_jaccard`: None: not at all."""

    columns: Sequence[str]
    near: NearDuplicates | None
    twins_jaccard: float | None

    @property
    def signer(self) -> Signer:
        return Signer(self.columns, self.near, self.twins_jaccard)


@dataclass(frozen=True, kw_only=True)
class Found:
    """`copies`: `document`, `copy_of` (numbers), `rule`, `similarity`. `twins`: `document`, and `twins`, a number that
    is the same for those linked by a chain of twins."""

    copies: pl.DataFrame
    twins: pl.DataFrame


def in_company(ranges: Iterable[np.ndarray]) -> np.ndarray:
    """Of `KEY_ROWS` by ranges of keys, those whose key another document has, too, in the order of keys."""
    from headrace.prep import kernels

    found = [np.zeros(0, KEY_ROWS)]
    for rows in ranges:
        # Sorted are these alone: to sort all took longer than to make them.
        shared = rows[kernels.shared_keys(np.ascontiguousarray(rows["key"]))]
        found.append(shared[np.lexsort((shared["document"], shared["key"]))])
    return np.concatenate(found)


def copies_among(rows: np.ndarray, documents: Documents, comparison: Comparison) -> Found:
    """Args: rows: as `in_company` finds them."""
    numbers, text = np.unique(rows["document"], return_inverse=True)
    with Sets() as sets:
        ranked = _ranked(numbers, documents, comparison.signer, sets)
        originals = pl.col("text").first().over(*_EXACT, "beside")
        ranked = ranked.with_columns(pl.when(originals != pl.col("text")).then(originals).alias("original"))
        near, similarities, parents = _compared(text, rows["key"], ranked, sets, comparison)
    is_near = near >= 0
    exact = ranked.drop_nulls("original")
    copied, original = exact.get_column("text").to_numpy(), exact.get_column("original").to_numpy()
    # Named is a document that stays: where the first of the exact copies is a near copy, what that is a copy of.
    original = np.where(is_near[original], near[original], original)
    copies = [
        _copies(numbers, copied, original, EXACT_DUPLICATE),
        _copies(numbers, np.flatnonzero(is_near), near[is_near], NEAR_DUPLICATE, similarities[is_near]),
    ]
    twins = pl.DataFrame({"document": numbers, "twins": parents})
    twins = twins.filter(pl.len().over("twins") > 1)
    return Found(copies=pl.concat(copies).sort("document"), twins=twins)


def _compared(
    text: np.ndarray, keys: np.ndarray, ranked: pl.DataFrame, sets: "Sets", comparison: Comparison
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `copies_and_twins` returns it, of the texts of `ranked` that have no `original`.

    Args:
        text, keys: a row for each key that a text shares with another, in the order of keys.
    """
    from headrace.prep import pair_kernels

    unique, mapped = ranked.filter(pl.col("original").is_null()), sets.mapped()
    order, parents, of_key = unique.get_column("text").to_numpy(), np.arange(ranked.height), numbered(keys)
    copy_jaccard = comparison.near.jaccard if comparison.near else _NONE
    twin_jaccard = comparison.twins_jaccard or _NONE
    limits = copy_jaccard, twin_jaccard, _NUM_COMPARED_MAX
    if len(comparison.columns) == 1:
        return pair_kernels.copies_and_twins(order, *grouped(text, of_key), *mapped, *limits, parents)
    # Copies are looked for among documents that are equal beside the text, twins among all that stay.
    beside = ranked.sort("text").get_column("beside").to_numpy()[text]
    by_beside = np.lexsort((beside, of_key))
    groups = np.empty_like(of_key)
    groups[by_beside] = numbered(of_key[by_beside], beside[by_beside])
    limits = copy_jaccard, _NONE, _NUM_COMPARED_MAX
    near, similarities, _ = pair_kernels.copies_and_twins(
        order, *grouped(text, groups), *mapped, *limits, parents.copy()
    )
    if comparison.twins_jaccard is None:
        return near, similarities, parents
    kept = unique.filter(pl.Series(near[order] < 0)).with_columns(pl.col("text").first().over(_EXACT).alias("first"))
    parents[kept.get_column("text").to_numpy()] = kept.get_column("first").to_numpy()
    # One of equal texts is compared for all of them: it may be the answer to most prompts.
    order = kept.get_column("first").unique(maintain_order=True).to_numpy()
    limits = _NONE, twin_jaccard, _NUM_COMPARED_MAX
    _, _, parents = pair_kernels.copies_and_twins(order, *grouped(text, of_key), *mapped, *limits, parents)
    return near, similarities, parents


def numbered(*columns: np.ndarray) -> np.ndarray:
    """int64 [row]: rows have one number if they are equal, from 0 on; equal ones stand together."""
    is_new = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        is_new[1:] |= column[1:] != column[:-1]
    return np.cumsum(is_new)


def grouped(text: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """int64 [text + 1] offsets into int32 groups, those of each text, and how many groups there are."""
    by_text = np.argsort(text, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(text))).astype(np.int64)
    return starts, groups[by_text].astype(np.int32), int(groups.max(initial=-1)) + 1


class Sets:
    """Each text's sequences, sorted and each once, in a temporary file."""

    def __enter__(self) -> "Sets":
        self._file = TemporaryFile(prefix="headrace-sequences-")
        self._sizes = [np.zeros(1, np.int64)]
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, found: np.ndarray, bounds: np.ndarray) -> None:
        # numpy's sort is the fastest by far, and has no way to sort parts.
        for start, stop in pairwise(bounds.tolist()):
            found[start:stop].sort()
        is_first = np.ones(len(found) + 1, np.bool_)
        is_first[1:-1] = found[1:] != found[:-1]
        is_first[bounds] = True
        found[is_first[:-1]].tofile(self._file)
        numbers = np.append(0, np.cumsum(is_first[:-1]))
        self._sizes.append(np.diff(numbers[bounds]))

    def mapped(self) -> tuple[np.ndarray, np.ndarray]:
        """uint32 [sequence], and int64 [text + 1] offsets into it."""
        bounds = np.cumsum(np.concatenate(self._sizes))
        self._file.flush()
        if not bounds[-1]:
            return np.zeros(0, np.uint32), bounds
        mapped: np.memmap[Any, Any] = np.memmap(self._file, np.uint32, "r+", shape=(int(bounds[-1]),))
        return np.asarray(mapped), bounds


def _ranked(numbers: np.ndarray, documents: Documents, signer: Signer, sets: Sets) -> pl.DataFrame:
    """`text` (a place in `numbers`) with its exact keys, those to keep first; fills `sets`."""
    frames = [pl.DataFrame(schema=_RANKED)]
    for start, some in _batches(numbers):
        found = documents.at(some)
        if signer.num_bands:
            for _, sequences, bounds in sequences_of(found.get_column("text"), signer.num_tokens):
                sets.add(sequences, bounds)
        else:
            # Exact copies alone: nothing else is compared.
            sets.add(np.zeros(0, np.uint32), np.zeros(len(some) + 1, np.int64))
        # Of 64 bits, two of a billion documents would share one by chance.
        exact = signer.exact_keys(found, num_hashes=len(_EXACT))
        frames.append(
            found.select(
                pl.Series("text", np.arange(start, start + len(some))),
                *(pl.Series(name, one) for name, one in zip(_EXACT, exact, strict=True)),
                pl.Series("beside", signer.beside(found)),
                pl.col("text").str.len_chars().cast(pl.Int64).alias("length"),
                "source_file",
                pl.col("source_line").cast(pl.Int64),
            )
        )
    return pl.concat(frames).sort(
        pl.col("length"), "source_file", "source_line", "text", descending=[True, False, False, False]
    )


_EXACT = ("exact 0", "exact 1")
_RANKED = {
    "text": pl.Int64,
    **dict.fromkeys((*_EXACT, "beside"), pl.UInt64),
    "length": pl.Int64,
    "source_file": pl.String,
    "source_line": pl.Int64,
}


def _batches(numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(numbers), _BATCH_ROWS):
        yield start, numbers[start : start + _BATCH_ROWS]


def _copies(
    numbers: np.ndarray, texts: np.ndarray, originals: np.ndarray, rule: str, similarities: np.ndarray | None = None
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "document": numbers[texts],
            "copy_of": numbers[originals],
            "rule": pl.repeat(rule, len(texts), dtype=pl.String, eager=True),
            "similarity": pl.Series(similarities, dtype=pl.Float64)
            if similarities is not None
            else pl.repeat(None, len(texts), dtype=pl.Float64, eager=True),
        }
    )
