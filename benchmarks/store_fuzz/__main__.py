"""Damages every kind of object that a store holds and lets every reader at it; a kind that is new is there by itself.

    python -m benchmarks.store_fuzz --damages 20000

What is done to an object, and who then works on it, stands at `simulation.fuzz.damages`: handoffs, weights and media
are opened, rollouts are ticked, paused and aborted, partitions made, sessions resolved and swept, garbage collected.

The bars: nothing ends in an exception that is not ours, no wrong row or byte comes out, no set that was rolled back
gets work, and an abort works whatever *else* is damaged. Where the damage is in the journal itself, the abort must be
refused with a clear error and nothing be written. What no reader can know, and what is therefore no wrong row here, is
that an object is gone which nothing else tells of: then an older version is the newest.
"""

import logging
import sys

from benchmarks.measuring import Bars, at_most, finish, parser_of, print_table
from simulation.fuzz.damages import Fuzz, Tally

BARS = ("raw", "wrong", "revived", "abort", "stopped")


def bars_of(tally: Tally) -> Bars:
    return {f"num_{bar}": at_most(tally.found[bar], 0) for bar in BARS}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("store_fuzz", __doc__)
    parser.add_argument("--damages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="only kinds that this pattern is found in")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    fuzz = Fuzz(given.seed, given.kinds)
    try:
        tally = fuzz.run(given.damages, say=print)
    finally:
        fuzz.close()
    rows = [(kind, f"{count:,}") for kind, count in sorted(tally.kinds.items())]
    print_table("Damages", ("kind of object", "damages"), rows, caption="\n".join(tally.examples))
    body = {
        "benchmark": "store_fuzz",
        "num_damages": tally.num_damages,
        "num_readings": tally.num_readings,
        "num_aborts": tally.num_aborts,
        "num_aborts_refused_by_their_own_journal": tally.num_aborts_refused,
        "num_kinds": len(tally.kinds),
        "damages_by_kind": dict(sorted(tally.kinds.items())),
    }
    return finish(body, bars_of(tally))


if __name__ == "__main__":
    sys.exit(main())
