"""Which documents are near copies of each other, exactly: every pair, by prefix filtering, without any sketch.

Two sets of similarity t or more share one of the rarest n - ceil(t n) + 1 members of each (Chaudhuri et al. 2006), so
only those are looked up. What is similar depends on what is compared: a system is judged by its own tokens, and by
others beside.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulation.plain_tokens import reference_tokens

_WORD = re.compile(r"\w+")

Pair = tuple[int, int]

# What a text is made of: by our token rule, in plain Python; as peers are given it; and character by character.
TOKENS: dict[str, Callable[[str], Sequence[str]]] = {
    "our tokens": reference_tokens,
    r"\w+": lambda text: _WORD.findall(text.lower()),
    "characters": lambda text: text,
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Shares: of the removed documents that are similar to a kept one; of the similar pairs of which both are kept."""

    with_a_twin: float
    pairs_left: float


@dataclass(frozen=True, kw_only=True)
class Truth:
    """All pairs of a corpus of at least a similarity."""

    pairs: dict[Pair, float]
    num_documents: int

    @classmethod
    def of(cls, texts: Sequence[str], tokens: str, num_tokens: int, least: float) -> "Truth":
        return cls(pairs=similar_pairs(texts, tokens, num_tokens, least), num_documents=len(texts))

    def judge(self, kept: Sequence[int], twin_least: float, pair_least: float) -> Verdict:
        is_kept = [False] * self.num_documents
        for at in kept:
            is_kept[at] = True
        return Verdict(
            with_a_twin=removals_with_a_twin(self.pairs, is_kept, twin_least),
            pairs_left=pairs_left(self.pairs, is_kept, pair_least),
        )


def shingles(text: str, tokens: str, num_tokens: int) -> frozenset[int]:
    found = TOKENS[tokens](text)
    if len(found) <= num_tokens:
        return frozenset({hash(tuple(found))}) if found else frozenset()
    return frozenset(hash(tuple(found[at : at + num_tokens])) for at in range(len(found) - num_tokens + 1))


def similar_pairs(texts: Sequence[str], tokens: str, num_tokens: int, least: float) -> dict[Pair, float]:
    """Every pair of similarity `least` or more, the earlier document first."""
    sets = [shingles(text, tokens, num_tokens) for text in texts]
    frequency = Counter(one for members in sets for one in members)
    holders: dict[int, list[int]] = defaultdict(list)
    pairs: dict[Pair, float] = {}
    for later, members in enumerate(sets):
        rarest = sorted(members, key=lambda one: (frequency[one], one))
        prefix = rarest[: len(rarest) - math.ceil(least * len(rarest)) + 1]
        for earlier in {other for one in prefix for other in holders[one]}:
            if not least <= len(members) / len(sets[earlier]) <= 1 / least:
                continue
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
