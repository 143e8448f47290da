"""The simulator of `benchmarks.version_switch`: a few schedules, and planted defects that its oracle must find."""

import concurrent.futures
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.version_switch.simulated import planted_result
from headrace.engines import chain
from headrace.serving import plan_lease
from headrace.serving.gateway import prepared_sets
from simulation.planted import DEFECTS, NUM_TRIED_MAX, Defect, Found, find
from simulation.schedule import Schedules, schedules

NUM_SCHEDULES = 20
# Seeds whose schedules showed what takes many to show. Where they no longer do, the search takes over.
SHOWN_BY = {
    "an append is decided anew at whatever the head is": 230,
    "a settlement that another worker made first is taken for our own": 133,
    "a cap is charged after the unit started": 18,
    "ranks change with the entry": 9,
}


@pytest.fixture(scope="module")
def prepared() -> Iterator[Schedules]:
    with schedules() as made:
        yield made


def test_no_schedule_breaks_an_invariant_or_mixes_a_unit(prepared: Schedules) -> None:
    counts: Counter[str] = Counter()
    for seed in range(NUM_SCHEDULES):
        ended = prepared.run(seed)
        assert not ended.judged.violations, f"seed {seed}"
        assert ended.judged.num_mixed == 0
        counts += ended.counts
    # Nobody takes schedules in which nothing happens for a proof.
    for what in ("turns", "killed", "sealed", "stale writes refused", "reason degraded", "reason capped"):
        assert counts[what] > 2, what
    assert counts["units"] > 20 * NUM_SCHEDULES
    assert counts["entries"] > 5 * NUM_SCHEDULES


def test_a_seed_is_one_schedule(prepared: Schedules) -> None:
    first, second = (prepared.run(7, trace=True) for _ in range(2))
    assert len(first.trace) > 20
    assert [line.split()[:2] for line in first.trace] == [line.split()[:2] for line in second.trace]
    assert first.counts == second.counts


def test_clocks_and_waits_are_pythons_own_again_behind_a_schedule(prepared: Schedules) -> None:
    prepared.run(3)
    assert chain.time is prepared_sets.time is time
    assert plan_lease.wait is concurrent.futures.wait


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name.replace(" ", "-"))
def test_a_planted_defect_is_found(prepared: Schedules, defect: Defect) -> None:
    found = find(prepared, defect, first=[SHOWN_BY[defect.name]] if defect.name in SHOWN_BY else [])
    assert found.num_schedules, f"{NUM_TRIED_MAX} schedules never broke {defect.invariant}; found: {dict(found.others)}"


def test_a_defect_that_is_not_found_misses_its_bar() -> None:
    found = [
        (DEFECTS[0], Found(num_schedules=3, others=Counter())),
        (DEFECTS[1], Found(num_schedules=None, others=Counter())),
    ]
    body, bars = planted_result(found)
    assert body["schedules"] == {DEFECTS[0].name: 3, DEFECTS[1].name: None}
    assert bars["planted_not_found"] == {"value": 1, "bar": 0, "met": False}
    assert not bars["planted"]["met"]
