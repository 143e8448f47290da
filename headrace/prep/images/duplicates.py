"""Which pictures of a corpus are copies of which: equal as training sees them, or so alike that a person sees one.

Pictures are taken in a stated order, best first; one that looks like an earlier picture that is kept is its copy. So a
copy has a kept original that it was compared with, chains of small differences do not grow into one group, and nothing
depends on the order of reading. Two pictures look alike if both their perceptual hashes, the colours of all ninths and
their brightness are near; what is small in them, a digit or a lamp, is not seen. All pairs whose coarse hashes differ
in up to 11 bits are found, not a sample of them; beyond that pictures count as different. A mirrored picture is another
one.
"""

from itertools import combinations

import numpy as np
import polars as pl

from headrace.prep.images.corpus import ImageDuplicates

EXACT_DUPLICATE, NEAR_DUPLICATE = "exact_duplicate", "near_duplicate"


def best_first(pictures: pl.DataFrame) -> pl.DataFrame:
    """The order in which copies find their original: most pixels in the file, then by source.

    Args:
        pictures: of IMAGE_SIGNATURES.
    """
    return pictures.sort(
        pl.col("width").cast(pl.Int64) * pl.col("height"),
        "source_file",
        "source_line",
        "image_id",
        descending=[True, False, False, False],
    )


def copies(pictures: pl.DataFrame, settings: ImageDuplicates) -> pl.DataFrame:
    """Args:
        pictures: `best_first`, with `caption_key`.

    Returns:
        rule: `exact_duplicate`, `near_duplicate` or null, in the pictures' order.
        copy_of: of a duplicate, the kept picture's place.
        distance: of a near duplicate, the number of bits in which the fine hashes differ.
    """
    keys = ["pixels", *(["caption_key"] if settings.captions == "compared" else [])]
    first = first_with_same(pictures, keys)
    is_first = first == pl.int_range(pictures.height, dtype=pl.Int64, eager=True)
    firsts = is_first.arg_true().cast(pl.Int64)
    near = _first_kept(pictures.filter(is_first), settings)
    original = first.to_numpy().copy()
    original[firsts.to_numpy()[near >= 0]] = firsts.to_numpy()[near[near >= 0]]
    # An exact copy of a near copy is a copy of what is kept.
    original = original[original]
    places = np.arange(pictures.height)
    fine = _words(pictures.get_column("fine_hash"), 4)
    distance = np.bitwise_count(fine ^ fine[original]).sum(axis=1, dtype=np.int64)
    found = pl.DataFrame({"copy_of": original, "distance": distance, "is_first": is_first})
    is_copy = pl.Series(original != places)
    same = pictures.get_column("pixels") == pictures.get_column("pixels").gather(original)
    return found.select(
        pl.when(is_copy)
        .then(pl.when(same).then(pl.lit(EXACT_DUPLICATE)).otherwise(pl.lit(NEAR_DUPLICATE)))
        .alias("rule"),
        pl.when(is_copy).then("copy_of").alias("copy_of"),
        pl.when(is_copy & ~same).then("distance").alias("distance"),
    )


def first_with_same(pictures: pl.DataFrame, keys: list[str]) -> pl.Series:
    """Of each picture the place of the first one with the same values in these columns."""
    placed = pictures.select(*keys).with_row_index("place")
    return placed.select(pl.col("place").cast(pl.Int64).first().over(keys)).to_series()


def look_alikes(pictures: pl.DataFrame, settings: ImageDuplicates) -> np.ndarray:
    """(N,) one number for all pictures that look alike, whatever their captions, and that are joined by others."""
    from headrace.prep.images import kernels

    return kernels.joined(_compared(pictures), _NEAR_MASKS, settings.hash_distance_max, settings.colour_distance_max)


def _first_kept(pictures: pl.DataFrame, settings: ImageDuplicates) -> np.ndarray:
    """(N,) of each picture the place of the kept one that it looks like; -1: none."""
    # Its import costs 0.4 CPU s, compiling a few, once a machine.
    from headrace.prep.images import kernels

    group = np.zeros(pictures.height, np.int64)
    if settings.captions == "compared":
        group = np.array(pictures.get_column("caption_key").rank("dense"), np.int64)
    limits = settings.hash_distance_max, settings.colour_distance_max
    return kernels.first_kept(_compared(pictures), group, _NEAR_MASKS, *limits)


def _compared(pictures: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What kernels compare: coarse (N,) and fine (N, 4) hashes, colours without brightness (N, 27), and the mean
    brightness (N,), at least 1.
    """
    colours = _words(pictures.get_column("colours"), 27, np.uint8).astype(np.int16).reshape(-1, 9, 3)
    chroma = colours - colours.mean(axis=2, keepdims=True).round().astype(np.int16)
    # Copied: what is compiled for an array that can be written is not for one that cannot.
    coarse = np.array(pictures.get_column("coarse_hash"), np.uint64)
    light = np.maximum(colours.mean(axis=(1, 2)), 1.0)
    return coarse, _words(pictures.get_column("fine_hash"), 4), np.ascontiguousarray(chroma.reshape(-1, 27)), light


def _words(column: pl.Series, num: int, kind: type = np.uint64) -> np.ndarray:
    """(N, num) of a column of N byte strings of one length."""
    return np.frombuffer(b"".join(column), kind).reshape(-1, num)


# Every way in which at most 2 of a band's 16 bits differ, the likeliest first.
_NEAR_MASKS = np.array(
    [sum(1 << bit for bit in bits) for num in range(3) for bits in combinations(range(16), num)], np.int64
)
