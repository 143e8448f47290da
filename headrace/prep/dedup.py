"""Drops exact and near duplicates of documents, and keeps the first copy of each.

MinHash LSH proposes near duplicates, and their exact Jaccard similarity confirms them: no document is dropped on an
estimate. LSH finds a pair at the threshold with a probability above 0.9, and more similar pairs more surely; missed
pairs stay. It works on one shard and misses copies in two shards, so a corpus should be dealt to its shards by
`neighbourhood`, as the demo's is.
"""

import re
from collections.abc import Sequence

import xxhash

from headrace.prep.corpus import NearDuplicates
from headrace.prep.text_keys import text_key

_WORD = re.compile(r"\w+")
_BATCH_ROWS = 8192
# A fixed seed: with another one the next run would drop other borderline documents.
_SEED = 42


def exact_duplicates(texts: Sequence[str]) -> list[int | None]:
    """For each text, the place of the first one with the same `text_key`; None: that is itself.

    Holds 16 bytes and a place for each distinct text.
    """
    first: dict[bytes, int] = {}
    originals: list[int | None] = []
    for place, text in enumerate(texts):
        original = first.setdefault(xxhash.xxh3_128_digest(text_key(text).encode()), place)
        originals.append(original if original < place else None)
    return originals


def near_duplicates(texts: list[str], settings: NearDuplicates) -> list[int | None]:
    """For each text, the place of the first kept one with which it overlaps by at least `settings.jaccard`, or None.

    Only kept texts count as originals: in a chain of texts that each resemble the next, every second one may stay.
    """
    # rensa has no type stubs.
    from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue]

    lsh = RMinHashLSH(
        threshold=settings.jaccard,
        num_perm=settings.num_permutations,
        num_bands=_num_bands(settings.jaccard, settings.num_permutations),
    )
    originals: list[int | None] = []
    for start in range(0, len(texts), _BATCH_ROWS):
        shingle_sets = [shingles(text, settings.shingle_words) for text in texts[start : start + _BATCH_ROWS]]
        sketches = RMinHash.from_token_sets(
            [sorted(shingle_set) for shingle_set in shingle_sets], num_perm=settings.num_permutations, seed=_SEED
        )
        for shingle_set, sketch in zip(shingle_sets, sketches, strict=True):
            # Recomputes originals' shingles on demand: keeping them all would take many times the texts' memory.
            proposed = sorted(lsh.query(sketch)) if shingle_set else []
            similar = (
                original
                for original in proposed
                if jaccard(shingle_set, shingles(texts[original], settings.shingle_words)) >= settings.jaccard
            )
            original = next(similar, None)
            if shingle_set and original is None:
                lsh.insert(len(originals), sketch)
            originals.append(original)
    return originals


def shingles(text: str, num_words: int) -> set[str]:
    """The set of `num_words`-word sequences of a text; a shorter text is one shingle, a text without words none."""
    words = _WORD.findall(text.casefold())
    if len(words) <= num_words:
        return {" ".join(words)} if words else set()
    return {" ".join(words[start : start + num_words]) for start in range(len(words) - num_words + 1)}


def neighbourhood(text: str, num_words: int = 3) -> str:
    """A key that two texts share with a probability equal to their Jaccard similarity; copies always share it.

    It is one row of a MinHash, the shingle with the lowest hash. Dealing a corpus by it keeps similar texts together.
    """
    return min(shingles(text, num_words), key=lambda shingle: xxhash.xxh3_64_digest(shingle.encode()), default="")


def jaccard(left: set[str], right: set[str]) -> float:
    if not left and not right:
        return 1.0
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def _num_bands(threshold: float, num_permutations: int) -> int:
    """The fewest bands that propose a pair at the threshold with a probability of 0.9.

    A pair of similarity s shares a band of r rows with probability s^r, and is proposed with 1 - (1 - s^r)^b. More
    bands propose more pairs that the exact comparison must reject.
    """
    bands = 1
    while bands < num_permutations and 1 - (1 - threshold ** (num_permutations // bands)) ** bands < 0.9:
        bands *= 2
    return bands
