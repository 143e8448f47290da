"""The inner loop that compares vectors with each other, compiled.

No function calls one of another file: numba compiles a function anew only if its own file has changed.
"""

import numpy as np

from headrace.prep.compiling import compiled


@compiled
def _product(one: np.ndarray, other: np.ndarray) -> float:
    """In float64, in one order of sums on every machine; four sums at once, since one alone waits for each addition."""
    first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
    end = len(one) // 4 * 4
    for at in range(0, end, 4):
        first += np.float64(one[at]) * np.float64(other[at])
        second += np.float64(one[at + 1]) * np.float64(other[at + 1])
        third += np.float64(one[at + 2]) * np.float64(other[at + 2])
        fourth += np.float64(one[at + 3]) * np.float64(other[at + 3])
    for at in range(end, len(one)):
        first += np.float64(one[at]) * np.float64(other[at])
    return (first + second) + (third + fourth)


@compiled
def semantic_copies(
    vectors: np.ndarray,
    cosine: float,
    order: np.ndarray,
    starts: np.ndarray,
    groups: np.ndarray,
    num_groups: int,
    num_compared_max: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """For each text, one before it in `order` whose vector is that of a copy, and their cosine.

    A text that was dropped is nobody's original. A text is compared with all kept ones before it that share a group
    with it, but with no more than `num_compared_max`, those that came last.

    Args:
        vectors: float32 [text, dimension], none of them zero.
        cosine: the least of copies.
        order: int64, the texts, the ones to keep first.
        starts, groups: int64 [text + 1] offsets into int32 groups.

    Returns:
        int64 [text], its original or -1; float64 [text], their cosine or 0; how many pairs were compared.
    """
    num_texts, num_compared = len(starts) - 1, 0
    owners = np.empty(len(groups), np.int32)
    lengths = np.empty(num_texts)
    for text in range(num_texts):
        owners[starts[text] : starts[text + 1]] = text
        lengths[text] = np.sqrt(_product(vectors[text], vectors[text]))
    # Rows of kept members of a group, the latest first.
    latest, before = np.full(num_groups, -1, np.int64), np.full(len(groups), -1, np.int64)
    compared_with = np.full(num_texts, -1, np.int32)
    originals, cosines = np.full(num_texts, -1, np.int64), np.zeros(num_texts)
    for text in order:
        left = num_compared_max
        for row in range(starts[text], starts[text + 1]):
            other_row = latest[groups[row]]
            while other_row >= 0 and left > 0 and originals[text] < 0:
                other = owners[other_row]
                if compared_with[other] != text:
                    compared_with[other], left = text, left - 1
                    found = _product(vectors[text], vectors[other]) / (lengths[text] * lengths[other])
                    if found >= cosine:
                        originals[text], cosines[text] = other, found
                other_row = before[other_row]
            if originals[text] >= 0:
                break
        num_compared += num_compared_max - left
        if originals[text] >= 0:
            continue
        for row in range(starts[text], starts[text + 1]):
            before[row], latest[groups[row]] = latest[groups[row]], row
    return originals, cosines, num_compared
