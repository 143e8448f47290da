import math
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.rollout.assignment import assign, canary_count, canary_units, salted_rank
from headrace.rollout.states import RolloutState

PERCENT = st.integers(0, 100).map(lambda percent: percent / 100)
UNITS = st.sets(st.text(max_size=8), max_size=60)


def make_state(weight: float = 0.1, candidate: str | None = "candidate") -> RolloutState:
    return RolloutState(
        stable="stable",
        stable_weights="w",
        candidate=candidate,
        weight=weight if candidate else 0.0,
        considered=frozenset(),
        head=1,
    )


@pytest.mark.parametrize(
    ("weight", "num_units", "count"),
    [
        (0, 10, 0),
        (0.1, 0, 0),
        (0.1, 10, 1),
        (0.1, 11, 2),
        # In binary 0.1 * 30 is a little above 3.
        (0.1, 30, 3),
        (0.07, 100, 7),
        (0.001, 10, 1),
        (0.5, 10, 5),
        (0.5, 7, 4),
        (1, 7, 7),
        (1e-9, 10, 1),
    ],
)
def test_a_step_gives_the_candidate_the_share_it_was_written_as(weight: float, num_units: int, count: int) -> None:
    assert canary_count(weight, num_units) == count


@given(percent=st.integers(1, 100), num_units=st.integers(1, 10_000))
def test_the_share_is_exact(percent: int, num_units: int) -> None:
    exact = math.ceil(Decimal(percent) * num_units / 100)
    assert canary_count(percent / 100, num_units) == max(1, exact)


@given(units=UNITS, lower=PERCENT, higher=PERCENT, salt=st.text(max_size=4))
def test_raising_the_weight_never_takes_a_unit_off_the_candidate(
    units: set[str], lower: float, higher: float, salt: str
) -> None:
    lower, higher = sorted([lower, higher])
    assert set(canary_units(lower, salt, units)) <= set(canary_units(higher, salt, units))


@given(units=UNITS, weight=PERCENT)
def test_every_unit_is_assigned_and_exactly_the_count_to_the_candidate(units: set[str], weight: float) -> None:
    assigned = Counter(assign(make_state(weight), "salt", unit, units) for unit in units)
    assert assigned["candidate"] == canary_count(weight, len(units))
    assert assigned.total() == len(units)


def test_the_order_in_which_units_are_listed_changes_nothing() -> None:
    units = [f"2026-11-22|glossary-{shard:02d}" for shard in range(10)]
    assert canary_units(0.3, "salt", units) == canary_units(0.3, "salt", list(reversed(units)))


def test_a_units_rank_is_the_same_in_every_release() -> None:
    # Partitions sealed under an older release keep their place in line.
    assert salted_rank("glossary", "2026-11-22|glossary-03") == 5886379609692484353


def test_canaries_move_from_day_to_day() -> None:
    canaries = {
        canary_units(0.1, "glossary", [f"2026-11-{day:02d}|glossary-{shard:02d}" for shard in range(10)])[0][-2:]
        for day in range(1, 29)
    }
    assert len(canaries) > 5


def test_ranks_are_spread_evenly() -> None:
    num_units, num_buckets = 8_000, 16
    buckets = Counter(salted_rank("salt", str(unit)) * num_buckets >> 64 for unit in range(num_units))
    expected = num_units / num_buckets
    chi_squared = sum((buckets[bucket] - expected) ** 2 / expected for bucket in range(num_buckets))
    # 15 degrees of freedom: 37.7 is the 0.1% point, and the salt is fixed.
    assert chi_squared < 37.7


def test_without_a_candidate_everything_is_stable() -> None:
    assert assign(make_state(candidate=None), "salt", "a", ["a"]) == "stable"


def test_a_unit_outside_the_population_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'z' is not among the 2 that share this rollout step"):
        assign(make_state(), "salt", "z", ["a", "b"])


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        canary_count(weight, 10)
