"""Vectors of many mapped DOCUMENT_EMBEDDINGS, by the number of their row."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from headrace.errors import InvalidInput


def text_digests(texts: pl.Series) -> list[bytes]:
    """xxh3_128 of each text's UTF-8, under which its vector is kept."""
    return [xxhash.xxh3_128_digest(text.encode()) for text in texts]


class VectorRows:
    def __init__(self, tables: Iterable[pa.Table]) -> None:
        """Args: tables: their rows are numbered through."""
        self._batches = [batch for table in tables for batch in table.to_batches()]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    @cached_property
    def dimension(self) -> int:
        """0: there is no vector.

        Raises: InvalidInput: there are two.
        """
        lengths = [np.diff(batch.column("vector").offsets.to_numpy()) for batch in self._batches]
        found = np.unique(np.concatenate([np.zeros(0, np.int32), *lengths]))
        if len(found := found[found > 0]) > 1:
            raise InvalidInput(
                f"Documents have embeddings of {found[0]} and of {found[1]} numbers, which are those of two models. "
                "Materialize document_embeddings of all shards again."
            )
        return int(found[0]) if len(found) else 0

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """float16 [number, dimension] of rows that have a vector.

        Args: numbers: int64, ascending.
        """
        found = np.empty((len(numbers), self.dimension), np.float16)
        for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
            first, stop = np.searchsorted(numbers, [start, start + batch.num_rows])
            if first < stop:
                vectors = batch.column("vector")
                offsets = vectors.offsets.to_numpy()
                rows = vectors.values.to_numpy()[offsets[0] : offsets[-1]].reshape(-1, self.dimension)
                found[first:stop] = rows[(offsets[numbers[first:stop] - start] - offsets[0]) // self.dimension]
        return found

    def are_there(self, numbers: np.ndarray) -> np.ndarray:
        """bool [number], of rows with or without a vector. `numbers` as in `at`."""
        found = np.zeros(len(numbers), np.bool_)
        for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
            first, stop = np.searchsorted(numbers, [start, start + batch.num_rows])
            found[first:stop] = np.diff(batch.column("vector").offsets.to_numpy())[numbers[first:stop] - start] > 0
        return found

    def num_characters(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [number], of the texts as rules left them. `numbers` as in `at`."""
        found = np.empty(len(numbers), np.int64)
        for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
            first, stop = np.searchsorted(numbers, [start, start + batch.num_rows])
            found[first:stop] = batch.column("num_characters").to_numpy()[numbers[first:stop] - start]
        return found
