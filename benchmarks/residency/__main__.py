"""Models that several processes share, on engine hosts: `python -m benchmarks.residency [--live] [--waking] …`.

Each part is a module of its own, which says what it measures; without a part, all run.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import parser_of
from benchmarks.parts import Options, Outcome, run_parts
from benchmarks.residency import live, real, waking

PARTS: dict[str, Callable[[Options, Path], Outcome]] = {"live": live.run, "waking": waking.run, "real": real.run}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("residency", __doc__)
    for name, part in PARTS.items():
        summary = (sys.modules[part.__module__].__doc__ or "").splitlines()[0]
        parser.add_argument(f"--{name}", action="append_const", const=name, dest="only", help=summary)
    given = parser.parse_args(arguments)
    return run_parts("residency", PARTS, given.only or PARTS, Options.of(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
