"""Warm models: `python -m benchmarks.residency [--only PART,…] [--trace FILE]`.

Each part is a module of its own, which says what it measures; without `--only`, all run. The exit status is 1 if a bar
of a part that ran is not met, and 2 if a part lacks what it needs.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import parser_of, some_of, whole
from benchmarks.parts import Outcome, run_parts
from benchmarks.residency import account, live, real, replay, runs, waking
from benchmarks.residency.given import Given
from headrace.errors import HeadraceError

# In the order in which they run; each has a scratch directory of its own.
PARTS: dict[str, Callable[[Given, Path], Outcome]] = {
    "replay": replay.run,
    "account": account.run,
    "runs": runs.run,
    "live": live.run,
    "waking": waking.run,
    "real": real.run,
}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("residency", __doc__)
    parser.add_argument("--only", type=some_of(PARTS), help=f"parts by commas: {', '.join(PARTS)}; default: all")
    parser.add_argument("--trace", type=Path, help="of replay: a table of requests, with the columns of GenAI's trace")
    parser.add_argument("--seeds", type=whole(), default=5, help="of replay (default 5)")
    parser.add_argument("--workers", type=whole(), default=32, help="of replay (default 32)")
    parser.add_argument("--steps", type=whole(), default=100_000, help="of account (default 100,000)")
    parser.add_argument("--rounds", type=whole(), default=3, help="of real (default 3)")
    parser.add_argument("--requests", type=whole(), default=300, help="of real, in each round (default 300)")
    given = parser.parse_args(arguments)
    try:
        return run_parts("residency", PARTS, given.only or PARTS, Given.of(given), given.json)
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
