"""The inner loops that compare texts with each other, compiled, over their sets of sequences.

A set is ascending uint32 numbers, each once; the sets of many texts are one array `sets` and int64 [text + 1] offsets
into it, `bounds`. No function calls one of another file: numba compiles a function anew only if its own file has
changed.
"""

import numpy as np

from headrace.prep.compiling import compiled

_NUM_WORDS_MAX = 32
_BITS_OF_2, _BITS_OF_4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_BITS_OF_8, _BYTES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)


@compiled
def _root(parents: np.ndarray, text: int) -> int:
    while parents[text] != text:
        parents[text] = parents[parents[text]]
        text = parents[text]
    return text


@compiled
def _num_shared_min(size: int, least: float) -> int:
    """Of two sets of together `size` members, how many both hold if their similarity is `least`."""
    # A little less than the exact bound, which floating point may miss by one.
    return int(np.ceil(least * size / (1 + least) - 1e-9))


@compiled
def _jaccard(one: np.ndarray, other: np.ndarray, least: float) -> float:
    """Of two sets, each sorted, one of which has a member; 0 as soon as it is seen to be below `least`.

    Most pairs of a template's texts are given up after a part of them.
    """
    shared, left, right = 0, 0, 0
    needed = _num_shared_min(len(one) + len(other), least)
    spare, other_spare = len(one) - needed, len(other) - needed
    while left < len(one) and right < len(other):
        if one[left] == other[right]:
            shared, left, right = shared + 1, left + 1, right + 1
        elif one[left] < other[right]:
            left += 1
            if left - shared > spare:
                return 0.0
        else:
            right += 1
            if right - shared > other_spare:
                return 0.0
    return shared / (len(one) + len(other) - shared)


@compiled
def _num_words(size: int) -> int:
    """Of the parities of a set: a power of two, with two bits a member, and no more than a page of text needs."""
    number = 1
    while number < _NUM_WORDS_MAX and 32 * number < size:
        number *= 2
    return number


@compiled
def _write_parities(members: np.ndarray, words: np.ndarray) -> None:
    """A bit for each remainder, which is set if an odd number of members leave it."""
    words[:] = 0
    mask = np.uint32(64 * len(words) - 1)
    for member in members:
        place = member & mask
        words[place >> np.uint32(6)] ^= np.uint64(1) << np.uint64(place & np.uint32(63))


@compiled
def _num_apart_min(words: np.ndarray, one: int, length: int, other: int, other_length: int) -> np.int64:
    """By the parities of two sets, how many members at least are in one of them alone: one where they differ.

    Args:
        one, other: where each begins in `words`; the longer one is folded, so that both count the same remainders.
    """
    if length > other_length:
        one, length, other, other_length = other, other_length, one, length
    number = np.int64(0)
    for at in range(length):
        word = words[one + at]
        for more in range(at, other_length, length):
            word ^= words[other + more]
        # How many bits are set: of 2, of 4, of 8, and of all.
        word = word - ((word >> np.uint64(1)) & _BITS_OF_2)
        word = (word & _BITS_OF_4) + ((word >> np.uint64(2)) & _BITS_OF_4)
        word = (word + (word >> np.uint64(4))) & _BITS_OF_8
        number += np.int64((word * _BYTES) >> np.uint64(56))
    return number


@compiled
def copies_and_twins(
    order: np.ndarray,
    starts: np.ndarray,
    groups: np.ndarray,
    num_groups: int,
    sets: np.ndarray,
    bounds: np.ndarray,
    copy_jaccard: float,
    twin_jaccard: float,
    num_compared_max: int,
    parents: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each text, one before it in `order` that it is a copy of, by how much, and which kept texts are its twins.

    A text that was dropped is nobody's original and nobody's twin. A text is compared with all kept ones before it
    that share a group with it, but with no more than `num_compared_max`, those that came last. Texts of one template
    share groups all over; parities of their sets, of two bits a member, show of most pairs that they differ in too much
    (Sandes et al. 2020, bitmap filter), for a twentieth of what comparing them costs.

    Args:
        order: int64, the texts that take part, the ones to keep first.
        starts, groups: int64 [text + 1] offsets into int32 groups: those that a text shares with another.
        sets, bounds: each text's sequences, sorted, each once, and int64 [text + 1] offsets into them.
        copy_jaccard, twin_jaccard: the least similarity of copies, of which one goes, and of twins; above 1: none.
        parents: int64 [text]: an earlier text in `order` that each is linked to from the start, or itself; written.

    Returns:
        int64 [text], its original or -1; float64 [text], their similarity or 0; int64 [text], a text that stands for
        all that are linked to it by a chain of twins.
    """
    num_texts, least = len(starts) - 1, min(copy_jaccard, twin_jaccard)
    owners = np.empty(len(groups), np.int32)
    for text in range(num_texts):
        owners[starts[text] : starts[text + 1]] = text
    # Rows of kept members of a group, the latest first.
    latest, before = np.full(num_groups, -1, np.int64), np.full(len(groups), -1, np.int64)
    compared_with = np.full(num_texts, -1, np.int32)
    places = np.zeros(num_texts + 1, np.int64)
    for text in range(num_texts):
        places[text + 1] = places[text] + _num_words(bounds[text + 1] - bounds[text])
    parities = np.empty(places[num_texts], np.uint64)
    originals, similarities = np.full(num_texts, -1, np.int64), np.zeros(num_texts)
    twins = np.empty(num_compared_max, np.int64)
    for text in order:
        size, num_twins, left = bounds[text + 1] - bounds[text], 0, num_compared_max
        if size == 0:
            continue
        own, num_words = places[text], places[text + 1] - places[text]
        _write_parities(sets[bounds[text] : bounds[text + 1]], parities[own : own + num_words])
        for row in range(starts[text], starts[text + 1]):
            other_row = latest[groups[row]]
            while other_row >= 0 and left > 0 and originals[text] < 0:
                other = owners[other_row]
                other_size = bounds[other + 1] - bounds[other]
                if compared_with[other] != text and min(size, other_size) >= least * max(size, other_size):
                    compared_with[other], left = text, left - 1
                    overlap, at = 0.0, places[other]
                    num_apart = _num_apart_min(parities, own, num_words, at, places[other + 1] - at)
                    if size + other_size - num_apart >= 2 * _num_shared_min(size + other_size, least):
                        overlap = _jaccard(
                            sets[bounds[text] : bounds[text + 1]], sets[bounds[other] : bounds[other + 1]], least
                        )
                    if overlap >= copy_jaccard:
                        originals[text], similarities[text] = other, overlap
                    elif overlap >= twin_jaccard:
                        twins[num_twins], num_twins = other, num_twins + 1
                other_row = before[other_row]
            if originals[text] >= 0:
                break
        if originals[text] >= 0:
            continue
        for row in range(starts[text], starts[text + 1]):
            before[row], latest[groups[row]] = latest[groups[row]], row
        for one in range(num_twins):
            parents[_root(parents, twins[one])] = _root(parents, text)
    for text in range(num_texts):
        parents[text] = _root(parents, text)
    return originals, similarities, parents


@compiled
def holds_any(found: np.ndarray, bounds: np.ndarray, wanted: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """For each text, whether one of its sequences is wanted.

    Args:
        found, bounds: as `sequences` makes them.
        wanted: uint32, ascending; starts: int64 [65_537], where those begin whose upper 16 bits are this number.
    """
    num_texts = len(bounds) - 1
    holds = np.zeros(num_texts, np.bool_)
    for text in range(num_texts):
        for one in range(bounds[text], bounds[text + 1]):
            upper = found[one] >> np.uint32(16)
            first, stop = starts[upper], starts[upper + 1]
            while first < stop:
                middle = (first + stop) // 2
                if wanted[middle] < found[one]:
                    first = middle + 1
                else:
                    stop = middle
            if first < starts[upper + 1] and wanted[first] == found[one]:
                holds[text] = True
                break
    return holds


@compiled
def nearest(
    sets: np.ndarray,
    bounds: np.ndarray,
    wanted: np.ndarray,
    holders: np.ndarray,
    other_sets: np.ndarray,
    other_bounds: np.ndarray,
    least: float,
    most_similar: np.ndarray,
    similarities: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """For each other text, which text is most similar to it, if any is so by at least `least`, and how much.

    Args:
        sets, bounds, other_sets, other_bounds: each text's sequences, sorted, each once, and offsets into them.
        wanted, holders: uint32, ascending, and int64: a sequence, and another text that is compared with who holds it.
        most_similar, similarities: int64 and float64 [other text], which are written.
        numbers: int64 [text], how texts are called in `most_similar`.
    """
    compared_with = np.full(len(other_bounds) - 1, -1, np.int64)
    for text in range(len(bounds) - 1):
        size = bounds[text + 1] - bounds[text]
        for one in range(bounds[text], bounds[text + 1]):
            at = np.searchsorted(wanted, sets[one])
            while at < len(wanted) and wanted[at] == sets[one]:
                other, at = holders[at], at + 1
                other_size = other_bounds[other + 1] - other_bounds[other]
                if compared_with[other] == text:
                    continue
                compared_with[other] = text
                if min(size, other_size) >= least * max(size, other_size):
                    overlap = _jaccard(
                        sets[bounds[text] : bounds[text + 1]],
                        other_sets[other_bounds[other] : other_bounds[other + 1]],
                        least,
                    )
                    if overlap >= least and overlap > similarities[other]:
                        most_similar[other], similarities[other] = numbers[text], overlap
