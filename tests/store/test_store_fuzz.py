"""A small part of `python -m benchmarks.store_fuzz`: each kind of object once or more, and all of its readers."""

from collections.abc import Iterator

import pytest

from benchmarks.store_fuzz.__main__ import bars_of
from simulation.fuzz.damages import Fuzz


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Fuzz]:
    made = Fuzz(seed=7)
    yield made
    made.close()


def test_damage_ends_in_our_errors_alone_and_stops_no_abort(fuzz: Fuzz) -> None:
    tally = fuzz.run(2 * len(fuzz.by_kind))
    assert tally.examples == []
    assert tally.kinds.keys() == fuzz.by_kind.keys()
    assert all(bar["met"] for bar in bars_of(tally).values())
