"""The account of memory: what models are expected to hold, and random steps of load, evict, sleep, grow and kill.

`python -m benchmarks.residency --only account`; `predicted` says how the first is measured.
"""

import random
from pathlib import Path

from benchmarks.measuring import at_most
from benchmarks.parts import Outcome
from benchmarks.residency import predicted
from benchmarks.residency.given import Given
from simulation.residents import PLACES, Shaken


def run(given: Given, directory: Path) -> Outcome:
    """The table of residents and what it tells processes to do, checked after each step."""
    shaken = Shaken()
    shaken.shake(random.Random(1), num_steps=given.steps)
    shaken.let_all_end()
    shaken.let_all_leave()
    num_leaked_mib = sum(shaken.table.reserved_mib(place) for place in PLACES)
    errors = predicted.errors(directory)
    return Outcome(
        body={
            "prediction_errors": errors,
            "num_happenings": given.steps,
            "num_steps": shaken.num_steps,
            "num_loads": shaken.num_loads,
        },
        bars={
            "account_prediction_error": at_most(max(errors.values()), 0.1),
            "account_num_over": at_most(shaken.num_over, 0),
            "account_leaked_mib": at_most(num_leaked_mib, 0),
        },
    )
