"""A column of texts as the compiled loops read it."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

# Rows that are one Arrow string array at a time: polars keeps strings in a form that has to be copied.
BATCH_ROWS = 8192


def utf8_batches(texts: pl.Series) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows, their texts' UTF-8 (uint8), and int64 [row + 1] offsets into it; a null is an empty text."""
    for start in range(0, len(texts), BATCH_ROWS):
        strings = texts.slice(start, BATCH_ROWS).fill_null("").to_arrow(compat_level=pl.CompatLevel.oldest())
        assert isinstance(strings, pa.LargeStringArray)
        _, offsets, data = strings.buffers()
        ends = np.frombuffer(offsets, np.int64)[strings.offset : strings.offset + len(strings) + 1]
        yield slice(start, start + len(strings)), np.frombuffer(data or b"", np.uint8), ends
