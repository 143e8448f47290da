"""Random steps of load, evict, sleep, grow and kill: `python -m benchmarks.residency --only account`."""

import random
from pathlib import Path

from benchmarks.measuring import at_most
from benchmarks.parts import Outcome
from benchmarks.residency.given import Given
from simulation.residents import PLACES, Shaken


def run(given: Given, directory: Path) -> Outcome:
    """The table of residents and what it tells processes to do, checked after each step."""
    shaken = Shaken()
    shaken.shake(random.Random(1), num_steps=given.steps)
    shaken.let_all_end()
    shaken.let_all_leave()
    num_leaked_mib = sum(shaken.table.reserved_mib(place) for place in PLACES)
    return Outcome(
        body={"num_happenings": given.steps, "num_steps": shaken.num_steps, "num_loads": shaken.num_loads},
        bars={
            "account_num_over": at_most(shaken.num_over, 0),
            "account_leaked_mib": at_most(num_leaked_mib, 0),
        },
    )
