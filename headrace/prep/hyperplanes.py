"""Keys of vectors: two whose cosine is high share one nearly always, and others seldom.

Random hyperplanes through the origin: each gives one bit, on which side a vector is, and two vectors at an angle θ
agree in it with probability 1 - θ/π. A band is some bits together, and a key is a band's. Bits are decided in whole
numbers, so they are the same on every machine.

The price depends on the threshold: to find what is 0.8 alike, bands must be so short that vectors which have nothing
in common often share one. Embeddings whose vectors all point the same way (a mean cosine far above 0) propose many
pairs at any threshold; each is compared, so they cost time and no verdict.

Source: Charikar 2002, Similarity estimation techniques from rounding algorithms, section 3.
"""

from functools import lru_cache
from math import acos, ceil, log, pi

import numpy as np
import xxhash

# The least share of pairs at the threshold that share a key; of pairs above it, more do.
RECALL_MIN = 0.98
# Of a document: 16 bytes each where shards exchange keys. Twice as many allow three more bits a band.
NUM_BANDS_MAX = 64
_NUM_BITS_MAX = 64
# Whole numbers stand for parts of 1: the angle of two vectors changes by less than 1e-3 of it.
_SCALE = 1 << 14
_FIRST, _SECOND, _THIRD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def bands(cosine: float) -> tuple[int, int]:
    """How many bands of how many bits: as many bits as `NUM_BANDS_MAX` bands of them find pairs at `cosine`."""
    num_bits = 1
    while num_bits < _NUM_BITS_MAX and _num_needed(cosine, num_bits + 1) <= NUM_BANDS_MAX:
        num_bits += 1
    return _num_needed(cosine, num_bits), num_bits


def missed_share(cosine: float, num_bands: int, num_bits: int) -> float:
    """The share of pairs of this cosine that share no key."""
    return (1 - (1 - acos(cosine) / pi) ** num_bits) ** num_bands


def _num_needed(cosine: float, num_bits: int) -> int:
    return ceil(log(1 - RECALL_MIN) / log(1 - (1 - acos(cosine) / pi) ** num_bits))


def keys(vectors: np.ndarray, beside: np.ndarray, num_bands: int, num_bits: int) -> np.ndarray:
    """uint64 [text, band].

    Args:
        vectors: float [text, dimension], of length 1.
        beside: uint64 [text]; texts with different values share no key.
    """
    # Sums of products of whole numbers below 2^53 are exact in any order, so also in a library's.
    whole = np.rint(vectors.astype(np.float64) * _SCALE)
    sides = whole @ _planes(vectors.shape[1], num_bands * num_bits) >= 0
    powers = np.left_shift(np.uint64(1), np.arange(num_bits, dtype=np.uint64))
    bits = sides.reshape(len(vectors), num_bands, num_bits) @ powers
    mixed = (bits + _FIRST) * _SECOND ^ beside[:, None] ^ (np.arange(num_bands, dtype=np.uint64) * _FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _SECOND
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _THIRD
    return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=2)
def _planes(dimension: int, number: int) -> np.ndarray:
    """Float64 [dimension, plane], whole numbers: sums of four bytes, whose directions are as good as normal ones."""
    seed = xxhash.xxh3_64_intdigest(b"hyperplanes")
    raw = np.random.Philox(key=seed).random_raw((dimension * number + 1) // 2).astype("<u8")
    drawn = raw.view(np.uint8).reshape(-1, 4).sum(axis=1, dtype=np.int64) - 510
    return drawn[: dimension * number].reshape(dimension, number).astype(np.float64)
