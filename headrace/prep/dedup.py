"""Finds exact and near copies among documents, and twins: documents that are alike, and both stay.

Documents that share a key (`signatures`) are compared in full: no document is dropped on an estimate. What is compared
are sequences of tokens (`token_rule`), in every script alike. Of copies the longest text stays; of equally long ones
the first by its file's name, then by its line. So neither the order of shards nor that of files decides. A dropped
document is nobody's original: in a chain of texts that each resemble the next, every second one may stay.

Memory holds 16 bytes for each row of documents that share a key, and about 200 for each of these documents; what is
compared of their texts, 4 bytes a sequence, is in a file that is mapped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np
import polars as pl

from headrace.prep.corpus import NearDuplicates
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
    """How documents are compared; `near`, `twins_jaccard`: None: not at all."""

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
    from headrace.prep import pair_kernels

    numbers, text = np.unique(rows["document"], return_inverse=True)
    is_new = np.append(True, rows["key"][1:] != rows["key"][:-1])[: len(rows)]
    by_text = np.argsort(text, kind="stable")
    groups = (np.cumsum(is_new) - 1)[by_text].astype(np.int32)
    starts = np.append(0, np.cumsum(np.bincount(text, minlength=len(numbers)))).astype(np.int64)
    with Sets() as sets:
        ranked = _ranked(numbers, documents, comparison.signer, sets)
        originals = pl.col("text").first().over("exact 0", "exact 1")
        ranked = ranked.with_columns(pl.when(originals != pl.col("text")).then(originals).alias("original"))
        order = ranked.filter(pl.col("original").is_null()).get_column("text").to_numpy()
        near, similarities, parents = pair_kernels.copies_and_twins(
            order,
            starts,
            groups,
            int(is_new.sum()),
            *sets.mapped(),
            comparison.near.jaccard if comparison.near else _NONE,
            comparison.twins_jaccard or _NONE,
            _NUM_COMPARED_MAX,
        )
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
        exact = signer.exact_keys(found, num_hashes=2)
        frames.append(
            found.select(
                pl.Series("text", np.arange(start, start + len(some))),
                *(pl.Series(f"exact {number}", one) for number, one in enumerate(exact)),
                pl.col("text").str.len_chars().cast(pl.Int64).alias("length"),
                "source_file",
                pl.col("source_line").cast(pl.Int64),
            )
        )
    return pl.concat(frames).sort(
        pl.col("length"), "source_file", "source_line", "text", descending=[True, False, False, False]
    )


_RANKED = {
    "text": pl.Int64,
    "exact 0": pl.UInt64,
    "exact 1": pl.UInt64,
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
