"""Packed training against the same examples alone, on a tiny random model of every causal architecture.

`python -m benchmarks.packing_leaks`: one minute on one core, no download. For each architecture the feeding is chosen
by the code that a training runs before its first step, and the loss under it is compared with what plain transformers
makes of each example by itself. An architecture leaks silently if the two differ, whatever was chosen. A table, then
one line of JSON.
"""

import math
import sys
from collections import Counter

from benchmarks.measuring import at_most, finish, parser_of
from benchmarks.packing_leaks.architectures import architectures
from benchmarks.packing_leaks.compared import look_at_all


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("packing_leaks", __doc__)
    parser.add_argument("names", nargs="*", help="model types, such as jamba; all by default")
    given = parser.parse_args(arguments)
    found = []
    for one in look_at_all(given.names or architectures()):
        found.append(one)
        difference = "" if math.isnan(one.relative_difference) else f"{one.relative_difference:.0e}"
        leak = "  LEAKS" if one.leaks_silently else ""
        print(f"{one.architecture:28} {one.feeding:22} {difference:>7} {one.reason[:90]}{leak}", flush=True)
    leaking = [one.architecture for one in found if one.leaks_silently]
    body = {
        "benchmark": "packing_leaks",
        "architectures": len(found),
        "feedings": dict(Counter(one.feeding for one in found)),
        "not_built": {one.architecture: one.reason for one in found if one.feeding == "not built"},
        "leaking": leaking,
    }
    return finish(body, {"leaking_architectures_accepted": at_most(len(leaking), 0)}, given.json)


if __name__ == "__main__":
    sys.exit(main())
