"""Which documents are near copies of each other, exactly: every pair, by prefix filtering, without any sketch.

Two sets of similarity t or more share one of the rarest n - ceil(t n) + 1 members of each (Chaudhuri et al. 2006), so
only those are looked up. Tokens are Python's own `\\w+` in lower case, as the peers are given them.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+")

Pair = tuple[int, int]


def shingles(text: str, num_words: int) -> frozenset[int]:
    words = _WORD.findall(text.lower())
    if len(words) <= num_words:
        return frozenset({hash(tuple(words))}) if words else frozenset()
    return frozenset(hash(tuple(words[at : at + num_words])) for at in range(len(words) - num_words + 1))


def similar_pairs(texts: Sequence[str], num_words: int, least: float) -> dict[Pair, float]:
    """Every pair of similarity `least` or more, the earlier document first."""
    sets = [shingles(text, num_words) for text in texts]
    frequency = Counter(one for members in sets for one in members)
    holders: dict[int, list[int]] = defaultdict(list)
    pairs: dict[Pair, float] = {}
    for later, members in enumerate(sets):
        rarest = sorted(members, key=lambda one: (frequency[one], one))
        prefix = rarest[: len(rarest) - math.ceil(least * len(rarest)) + 1]
        for earlier in {other for one in prefix for other in holders[one]}:
            shared = len(members & sets[earlier])
            similarity = shared / (len(members) + len(sets[earlier]) - shared)
            if similarity >= least:
                pairs[earlier, later] = similarity
        for one in prefix:
            holders[one].append(later)
    return pairs


def removals_with_a_twin(pairs: dict[Pair, float], kept: Sequence[bool], least: float) -> float:
    """Share of the removed documents that are similar to a kept one."""
    twins = {
        one
        for pair, similarity in pairs.items()
        if similarity >= least
        for one in pair
        if any(kept[other] for other in pair)
    }
    removed = [at for at, is_kept in enumerate(kept) if not is_kept]
    return sum(at in twins for at in removed) / len(removed) if removed else 1.0


def pairs_left(pairs: dict[Pair, float], kept: Sequence[bool], least: float) -> float:
    """Share of the similar pairs of which both are kept."""
    similar = [pair for pair, similarity in pairs.items() if similarity >= least]
    return sum(kept[one] and kept[other] for one, other in similar) / len(similar)
