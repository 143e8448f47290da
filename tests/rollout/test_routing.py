"""Invariants 3 and 4: shares of the weight, and keys that only move as the weight says."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.keys import digest_text
from headrace.rollout.assignment import salted_rank
from headrace.rollout.routing import RoutingTable
from headrace.rollout.states import RolloutState
from tests.serving.builders import CANDIDATE, STABLE

KEYS = [f"user-{number}" for number in range(2000)]


def make_table(weight: float, *, salt: str = "glossary", cap: int | None = None, counted: bool = True) -> RoutingTable:
    state = RolloutState(
        stable=STABLE, stable_weights="w1", candidate=CANDIDATE, weight=weight, cap=cap, trial=2, head=2
    )
    return RoutingTable.of(state, salt, is_counted=counted)


def on_candidate(table: RoutingTable) -> set[str]:
    return {key for key in KEYS if table.wanted(key) == CANDIDATE}


@given(st.text(max_size=20), st.text(max_size=40))
@settings(derandomize=True)
def test_the_fast_rank_is_the_first_half_of_the_digest_of_salt_and_unit(salt: str, unit: str) -> None:
    assert salted_rank(salt, unit) == int(digest_text("rollout", salt, unit)[:16], 16)


@given(st.floats(0, 1), st.floats(0, 1), st.text(max_size=8))
@settings(derandomize=True)
def test_a_higher_weight_keeps_every_key_that_a_lower_one_had(one: float, other: float, salt: str) -> None:
    low, high = sorted((one, other))
    assert on_candidate(make_table(low, salt=salt)) <= on_candidate(make_table(high, salt=salt))


@given(st.floats(0.01, 0.99), st.text(max_size=8))
@settings(derandomize=True)
def test_the_candidates_share_is_the_weight_within_five_standard_errors(weight: float, salt: str) -> None:
    share = len(on_candidate(make_table(weight, salt=salt))) / len(KEYS)
    assert abs(share - weight) <= 5 * math.sqrt(weight * (1 - weight) / len(KEYS))


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0), (1.0, len(KEYS))])
def test_no_weight_is_nobody_and_all_of_it_is_everybody(weight: float, expected: int) -> None:
    assert len(on_candidate(make_table(weight))) == expected


def test_two_salts_choose_different_keys() -> None:
    assert on_candidate(make_table(0.1, salt="one")) != on_candidate(make_table(0.1, salt="another"))


def test_a_cap_that_comes_after_uncounted_units_lets_no_further_one_start() -> None:
    assert make_table(0.5, cap=40, counted=False).cap == 0
    assert make_table(0.5, cap=None, counted=False).cap is None
    assert make_table(0.5, cap=40).cap == 40
