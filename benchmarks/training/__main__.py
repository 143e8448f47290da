"""Training beside its peers: `python -m benchmarks.training [--only loop_overhead,…]`.

Each part is a module of its own, which says what it measures; without `--only`, all run. Models are tiny, untrained and
made on the spot. The exit status is 1 if a bar of a part that ran is not met.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import parser_of, some_of, whole
from benchmarks.parts import Outcome, run_parts
from benchmarks.training import (
    consolidate,
    diagnosed,
    elastic,
    estimate_error,
    loop_overhead,
    loss_matches,
    resume,
    wrong_loads,
)
from benchmarks.training.parts import Given

# In the order in which they run; each has a scratch directory of its own.
PARTS: dict[str, Callable[[Given, Path], Outcome]] = {
    "loop_overhead": loop_overhead.run,
    "estimate_error": estimate_error.run,
    "diagnosed": diagnosed.run,
    "loss_matches": loss_matches.run,
    "resume": resume.run,
    "elastic": elastic.run,
    "wrong_loads": wrong_loads.run,
    "consolidate": consolidate.run,
}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("training", __doc__)
    parser.add_argument("--only", type=some_of(PARTS), help=f"parts by commas: {', '.join(PARTS)}; default: all")
    parser.add_argument("--runs", type=whole(1), default=5, help="how often each side is measured, in turns")
    parser.add_argument("--kills", type=whole(1), default=20, help="how many trainings of `resume` are killed")
    given = parser.parse_args(arguments)
    return run_parts("training", PARTS, given.only or PARTS, Given.of(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
