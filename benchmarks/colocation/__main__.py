"""Live and bulk work at one model: `python -m benchmarks.colocation`.

Live alone, and beside bulk work that is gated, ungated, or behind a plain router; the table says how much later live
answers come and how much of what is left bulk gets (`benchmarks.colocation.beside`). The exit status is 1 if a bar of
the gated way is not met.
"""

import sys

from benchmarks.colocation.beside import WAYS, bars_of, measured, print_ways
from benchmarks.measuring import finish, parser_of, scratch, some_of


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("colocation", __doc__)
    parser.add_argument(
        "--only", type=some_of(WAYS), help=f"ways beside the gated one, by commas: {', '.join(WAYS)}; default: all"
    )
    given = parser.parse_args(arguments)
    with scratch("colocation") as directory:
        body = measured(directory, [way for way in WAYS if way == "gated" or way in (given.only or WAYS)])
    print_ways(body)
    return finish({"benchmark": "colocation", "models": body}, bars_of(body), given.json)


if __name__ == "__main__":
    sys.exit(main())
