"""The table that is handed over: rows of a data-preparation pipeline, about 12.6 KB each.

Words follow Zipf's law and token ids follow the words, so that text, lists and ids compress as real ones do; embeddings
are unit vectors, images have a JPEG's header and its entropy. The same seed gives the same rows.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("embedding", pa.list_(pa.float32(), 384)),
        ("image", pa.binary()),
    ]
)
COLUMNS = SCHEMA.names
ROW_BYTES = 12_550  # what the columns take a row, on average
# About 100 MB: what a stage that makes images holds before it hands on a batch.
_BATCH_ROWS = 8192
_VOCABULARY = 20_000
_JPEG_HEADER = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb0043") + bytes(range(1, 65)) + b"\xff\xda"


def batches(num_rows: int, seed: int = 20) -> Iterator[pa.RecordBatch]:
    """One at a time; never more than two in memory."""
    words = _words()
    for start in range(0, num_rows, _BATCH_ROWS):
        yield _batch(words, start, min(_BATCH_ROWS, num_rows - start), np.random.default_rng([seed, start]))


def write_source(path: Path, num_bytes: int) -> int:
    """Writes about `num_bytes` as one Arrow file; its number of rows."""
    num_rows = max(num_bytes // ROW_BYTES, 10)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in batches(num_rows):
            writer.write_batch(batch)
    return num_rows


def read_source(path: Path) -> pa.Table:
    """Into memory of its own, as a stage holds what it has just made."""
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).read_all()


def _batch(words: list[str], start: int, num_rows: int, rng: np.random.Generator) -> pa.RecordBatch:
    lengths = rng.integers(16, 48, num_rows)
    ranks = (rng.zipf(1.3, int(lengths.sum())) - 1) % _VOCABULARY
    ends = np.cumsum(lengths)
    offsets = np.concatenate([[0], ends])
    prompts = [
        " ".join([words[rank] for rank in ranks[end - size : end]]) for end, size in zip(ends, lengths, strict=True)
    ]
    embedding = rng.standard_normal((num_rows, 384), np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    sizes = rng.integers(8_000, 13_000, num_rows)
    noise = memoryview(rng.bytes(int(sizes.sum())))
    image_ends = np.cumsum(sizes)
    images = [_JPEG_HEADER + noise[end - size : end] for end, size in zip(image_ends, sizes, strict=True)]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([hashlib.md5(b"%d" % row).hexdigest() for row in range(start, start + num_rows)], pa.string()),
            pa.array(prompts, pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ranks.astype(np.int32))),
            pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), 384),
            pa.array(images, pa.binary()),
        ],
        schema=SCHEMA,
    )


def _words() -> list[str]:
    rng = np.random.default_rng(7)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weights = np.array(
        [12.7, 9.1, 8.2, 7.5, 7, 6.7, 6.3, 6.1, 6, 4.3, 4, 2.8, 2.8, 2.4, 2.2, 2.4, 2, 1.9, 1, 1.5, 2, 0.8]
    )
    weights = np.concatenate([weights, np.full(len(letters) - len(weights), 0.1)])
    sizes = np.clip(rng.poisson(4.2, _VOCABULARY) + 1, 1, 14)
    return ["".join(rng.choice(letters, size, p=weights / weights.sum())) for size in sizes]
