"""The version set of a unit of work, from the plan's state and the unit's name alone.

Units are ranked by a salted hash; a step of weight w gives the candidate the units of lowest rank. So raising the
weight never takes a unit off the candidate, and all processes that know the journal agree.
"""

import hashlib
import math
from collections.abc import Callable, Collection
from fractions import Fraction
from functools import lru_cache

from headrace.errors import InvalidInput
from headrace.rollout.states import RolloutState

_RANKS = 1 << 64


def salted_rank(salt: str, unit: str) -> int:
    """A unit's place in the queue for the candidate: uniform in [0, 2^64), the same in every process."""
    return ranking(salt)(unit)


@lru_cache(maxsize=256)
def ranking(salt: str) -> Callable[[str], int]:
    """Unit → its `salted_rank`: the first 8 bytes of `digest_text("rollout", salt, unit)`. The salt is hashed once."""
    start = hashlib.sha256(b"7:rollout%d:%b" % (len(salt.encode()), salt.encode()))

    def rank(unit: str) -> int:
        digest, body = start.copy(), unit.encode()
        digest.update(b"%d:%b" % (len(body), body))
        return int.from_bytes(digest.digest()[:8])

    return rank


def rank_threshold(weight: float) -> int:
    """Units that cannot be counted beforehand are the candidate's below this rank; 2^64 is above every rank."""
    return int(weight * _RANKS)


def canary_count(weight: float, num_units: int) -> int:
    """How many of `num_units` a step of this weight gives the candidate: max(1, ceil(w * n)), or 0 at weight 0.

    Exact, with the weight as the decimal that was written (in binary, 0.1 * 30 exceeds 3).
    """
    if not 0 <= weight <= 1:
        raise InvalidInput(f"A rollout weight must be between 0 and 1, got weight={weight!r}.")
    if weight == 0 or num_units == 0:
        return 0
    return max(1, math.ceil(Fraction(repr(float(weight))) * num_units))


def canary_units(weight: float, salt: str, population: Collection[str]) -> list[str]:
    """The candidate's units, lowest rank first; equal ranks are ordered by name."""
    ranked = sorted(set(population), key=lambda unit: (salted_rank(salt, unit), unit))
    return ranked[: canary_count(weight, len(ranked))]


def assign(state: RolloutState, plan_salt: str, partition_key: str, population: Collection[str] | None) -> str:
    """The id of the version set for a unit that starts now.

    Args:
        population: all units that share the step's weight, such as one day's partitions of a campaign. None: nobody can
            count them before they come, as with windows of an inbox; then the candidate gets those of a rank below
            weight × 2^64, as it gets a service's requests.

    Raises:
        InvalidInput: `partition_key` is not part of `population`.
    """
    if population is None:
        is_below = salted_rank(plan_salt, partition_key) < rank_threshold(state.weight)
        return state.candidate if state.candidate and is_below else state.stable
    if partition_key not in population:
        raise InvalidInput(
            f"Partition {partition_key!r} is not among the {len(population)} that share this rollout step."
        )
    if state.candidate and partition_key in canary_units(state.weight, plan_salt, population):
        return state.candidate
    return state.stable
