"""Warm models: `python -m benchmarks.residency [--only PART,…]`.

Each part is a module of its own, which says what it measures; without `--only`, all run. The exit status is 1 if a bar
of a part that ran is not met.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import parser_of, some_of
from benchmarks.parts import Options, Outcome, run_parts
from benchmarks.residency import live, real, runs, waking

# In the order in which they run; each has a scratch directory of its own.
PARTS: dict[str, Callable[[Options, Path], Outcome]] = {
    "runs": runs.run,
    "live": live.run,
    "waking": waking.run,
    "real": real.run,
}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("residency", __doc__)
    parser.add_argument("--only", type=some_of(PARTS), help=f"parts by commas: {', '.join(PARTS)}; default: all")
    given = parser.parse_args(arguments)
    return run_parts("residency", PARTS, given.only or PARTS, Options.of(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
