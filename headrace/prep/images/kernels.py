"""Compiled loops over pictures' hashes.

Not among the kernels for texts: numba's cache is invalidated by file, and a change here should compile nothing there.
Nothing of another file may be called.
"""

import numba
import numpy as np

BANDS, BAND_BITS = 4, 16
# Two coarse hashes that differ in up to 11 bits differ in up to 2 of the 16 bits of at least one of four bands.
COARSE_DISTANCE_MAX = 11


@numba.njit(cache=True, nogil=True, inline="always")
def _ones(word):  # pragma: no cover
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True, nogil=True)
def nearest_kept(coarse, fine, chroma, group, near_masks, fine_max, chroma_max, copy_of):  # pragma: no cover
    """For each of N pictures, best first, the first better one that is kept and that it looks like.

    Args:
        coarse: (N,) uint64.
        fine: (N, 4) uint64.
        chroma: (N, 27) int16.
        group: (N,) int64; only pictures of one group are compared.
        near_masks: the 137 words of 16 bits of which at most 2 are set.
        copy_of: (N,) int64; filled with places, -1: kept.
    """
    num = len(coarse)
    num_buckets = 1 << BAND_BITS
    starts = np.zeros((BANDS, num_buckets + 1), np.int64)
    members = np.empty((BANDS, num), np.int64)
    for band in range(BANDS):
        shift = np.uint64(band * BAND_BITS)
        for one in range(num):
            starts[band, np.int64((coarse[one] >> shift) & np.uint64(0xFFFF)) + 1] += 1
        for bucket in range(num_buckets):
            starts[band, bucket + 1] += starts[band, bucket]
        filled = starts[band, :num_buckets].copy()
        for one in range(num):
            bucket = np.int64((coarse[one] >> shift) & np.uint64(0xFFFF))
            members[band, filled[bucket]] = one
            filled[bucket] += 1
    for one in range(num):
        best = one
        for band in range(BANDS):
            own = np.int64((coarse[one] >> np.uint64(band * BAND_BITS)) & np.uint64(0xFFFF))
            for mask in near_masks:
                bucket = own ^ mask
                # Within a bucket the better ones come first.
                for place in range(starts[band, bucket], starts[band, bucket + 1]):
                    other = members[band, place]
                    if other >= best:
                        break
                    if copy_of[other] >= 0 or group[other] != group[one]:
                        continue
                    if _ones(coarse[one] ^ coarse[other]) > COARSE_DISTANCE_MAX:
                        continue
                    distance = np.uint64(0)
                    for word in range(4):
                        distance += _ones(fine[one, word] ^ fine[other, word])
                    if distance > fine_max:
                        continue
                    is_near = True
                    for channel in range(27):
                        if abs(chroma[one, channel] - chroma[other, channel]) > chroma_max:
                            is_near = False
                            break
                    if is_near:
                        best = other
                        break
        copy_of[one] = best if best < one else -1
