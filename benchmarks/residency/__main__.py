"""Which models are in memory, and which work goes where: `python -m benchmarks.residency [--only PART,…] --trace FILE`.

- replay: a trace of image requests on simulated workers, whose every decision is the engine host's own table's, beside
  other policies.
- account: random steps of load, evict, sleep, grow and kill: memory promised twice, or never given back.

The exit status is 1 if a bar of a part that ran is not met, and 2 if a part lacks what it needs.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import parser_of, some_of, whole
from benchmarks.parts import Outcome, run_parts
from benchmarks.residency import account, replay
from benchmarks.residency.given import Given
from headrace.errors import HeadraceError

PARTS: dict[str, Callable[[Given, Path], Outcome]] = {
    "replay": replay.run,
    "account": account.run,
}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("residency", __doc__)
    parser.add_argument("--only", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--trace", type=Path, help="of replay: a table of requests, with the columns of GenAI's trace")
    parser.add_argument("--seeds", type=whole(), default=5, help="of replay (default 5)")
    parser.add_argument("--workers", type=whole(), default=32, help="of replay (default 32)")
    parser.add_argument("--steps", type=whole(), default=100_000, help="of account (default 100,000)")
    given = parser.parse_args(arguments)
    try:
        return run_parts("residency", PARTS, given.only, Given.of(given), given.json)
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
