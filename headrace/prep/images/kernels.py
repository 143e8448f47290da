"""Compiled loops over pictures' hashes.

Not among the kernels for texts: numba's cache is invalidated by file, and a change here should compile nothing there.
No compiled function of another file may be called here.

`pictures` are four arrays: `coarse` (N,) uint64, `fine` (N, 4) uint64, `chroma` (N, 27) int16, `light` (N,) float64;
`near_masks` the 137 words of 16 bits of which at most 2 are set.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
import numpy as np

_BANDS, _BAND_BITS = 4, 16
_BAND_VALUES = 1 << _BAND_BITS
# Two hashes of 64 bits that differ in up to 11 of them differ in up to 2 bits of at least one of four bands.
COARSE_DISTANCE_MAX = 11
# 10% brighter or darker and cropped: 1.13 at most of 2,600 pairs.
LIGHT_RATIO_MAX = 1.25
_M1, _M2, _M4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
_SUM, _TOP = np.uint64(0x0101010101010101), np.uint64(56)
_ONE, _TWO, _FOUR = np.uint64(1), np.uint64(2), np.uint64(4)


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    # Without a folder for what was compiled it costs seconds at each start.
    with suppress(RuntimeError):
        return numba.njit(cache=True, nogil=True)(function)
    return numba.njit(nogil=True)(function)


@_cached
def first_kept(
    pictures: Any, group: np.ndarray, near_masks: np.ndarray, fine_max: int, chroma_max: float
) -> np.ndarray:
    """Of each picture, in their order, the first earlier one of its group that it looks like and that looks like none.

    Returns:
        (N,) int64: places; -1: there is none.
    """
    coarse, fine, chroma, light = pictures
    by_band, found = _by_band(coarse), np.empty(_BANDS * len(coarse), np.int64)
    first = np.full(len(coarse), -1, np.int64)
    for one in range(len(coarse)):
        best = one
        for place in range(_near_before(coarse, by_band, near_masks, one, found)):
            other = found[place]
            if other >= best or first[other] >= 0 or group[other] != group[one]:
                continue
            if _are_alike(fine, chroma, light, one, other, fine_max, chroma_max):
                best = other
        if best < one:
            first[one] = best
    return first


@_cached
def joined(pictures: Any, near_masks: np.ndarray, fine_max: int, chroma_max: float) -> np.ndarray:
    """Joins all pictures that look alike, and all that are joined by others.

    Returns:
        (N,) int64: of each picture one place that all have that it is joined with.
    """
    coarse, fine, chroma, light = pictures
    by_band, found = _by_band(coarse), np.empty(_BANDS * len(coarse), np.int64)
    parent = np.arange(len(coarse))
    for one in range(len(coarse)):
        for other in found[: _near_before(coarse, by_band, near_masks, one, found)]:
            ours, theirs = _root(parent, one), _root(parent, other)
            if ours != theirs and _are_alike(fine, chroma, light, one, other, fine_max, chroma_max):
                parent[max(ours, theirs)] = min(ours, theirs)
    for one in range(len(coarse)):
        parent[one] = _root(parent, one)
    return parent


@_cached
def _near_before(coarse: np.ndarray, by_band: Any, near_masks: np.ndarray, one: int, found: np.ndarray) -> int:
    """Fills `found` with the earlier pictures whose coarse hash is near; one may be there once a band.

    Returns: how many they are.
    """
    starts, members, words = by_band
    num = 0
    for band in range(_BANDS):
        own = _of_band(coarse[one], band)
        for mask in near_masks:
            bucket = own ^ mask
            for place in range(starts[band, bucket], starts[band, bucket + 1]):
                # Nearly all end here, without a look at another place of the memory.
                if _num_ones(words[band, place] ^ coarse[one]) > COARSE_DISTANCE_MAX:
                    continue
                # Within a bucket the earlier ones come first.
                if members[band, place] >= one:
                    break
                found[num] = members[band, place]
                num += 1
    return num


@_cached
def _root(parent: np.ndarray, one: int) -> int:
    while True:
        above = int(parent[one])
        if above == one:
            return one
        parent[one], one = parent[above], above


@_cached
def _of_band(word: np.uint64, band: int) -> Any:
    return np.int64((word >> np.uint64(band * _BAND_BITS)) & np.uint64(_BAND_VALUES - 1))


@_cached
def _by_band(coarse: np.ndarray) -> Any:
    """For each band: where a value's pictures begin, [band, value + 1], and pictures and hashes by value, in order."""
    starts = np.zeros((_BANDS, _BAND_VALUES + 1), np.int64)
    members = np.empty((_BANDS, len(coarse)), np.int64)
    words = np.empty((_BANDS, len(coarse)), np.uint64)
    for band in range(_BANDS):
        for one in range(len(coarse)):
            starts[band, _of_band(coarse[one], band) + 1] += 1
        starts[band] = np.cumsum(starts[band])
        filled = starts[band].copy()
        for one in range(len(coarse)):
            value = _of_band(coarse[one], band)
            members[band, filled[value]], words[band, filled[value]] = one, coarse[one]
            filled[value] += 1
    return starts, members, words


@_cached
def _are_alike(
    fine: np.ndarray, chroma: np.ndarray, light: np.ndarray, one: int, other: int, fine_max: int, chroma_max: float
) -> bool:
    """Of two whose coarse hashes are near."""
    if max(light[one], light[other]) > LIGHT_RATIO_MAX * min(light[one], light[other]):
        return False
    distance = 0
    for word in range(fine.shape[1]):
        distance += _num_ones(fine[one, word] ^ fine[other, word])
    if distance > fine_max:
        return False
    farthest = 0
    for channel in range(chroma.shape[1]):
        farthest = max(farthest, abs(chroma[one, channel] - chroma[other, channel]))
    return farthest <= chroma_max


@_cached
def _num_ones(word: np.uint64) -> Any:
    word = word - ((word >> _ONE) & _M1)
    word = (word & _M2) + ((word >> _TWO) & _M2)
    word = (word + (word >> _FOUR)) & _M4
    return np.int64((word * _SUM) >> _TOP)
