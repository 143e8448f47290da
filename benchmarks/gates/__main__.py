"""`python -m benchmarks.gates --runs 2000`: how often a gate is right, looked at after every few rows.

Rows are bad with a known rate on either side; a gate looks at the counts after every `--every` rows a side until it
decides, or until the horizon of `--rows` a side. Four cases:

| case | stable, candidate | right |
|---|---|---|
| equal | 5%, 5% | it advances; rolled back for harm is a false alarm |
| worse | 5%, 8% | rolled back, soon |
| margin | 5%, 7% | it must not advance: worse by the whole margin of 2 points |
| better | 5%, 3% | it advances |

Beside our two tests (`group_sequential` knows the horizon and gives the JSON's figures; `confidence_sequence` does not)
stand what is done without one: a z-test and Mann-Whitney's test ("98%") at each look; they roll back at the first look
that is significant, and advance at the horizon. All tests see the same rows.

With `--hostile`, what one client that means ill does to it: `benchmarks.gates.hostile`.

Bars: `false_rollback`, `power`, `median_n`, `advance_rate`, `margin_advanced`; `median_n` is rows a
side, as many as the horizon where none was rolled back.
"""

import sys
import time

import numpy as np

from benchmarks.gates import hostile
from benchmarks.gates.looks import CASES, Outcome, Test, ours, simulate
from benchmarks.gates.peers import mann_whitney, naive_z
from benchmarks.measuring import Bars, at_least, at_most, finish, parser_of, print_table, whole


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("gates", __doc__)
    parser.add_argument("--runs", type=whole(), default=2000, help="simulated rollouts a case")
    parser.add_argument("--rows", type=whole(50), default=4000, help="horizon: rows a side")
    parser.add_argument("--every", type=whole(), default=50, help="rows a side between two looks")
    parser.add_argument("--ratio", type=whole(), default=1, help="rows of the stable set for each of the candidate")
    parser.add_argument("--seed", type=int, default=0, help="of the rows' draws")
    parser.add_argument("--hostile", action="store_true", help="one client means ill; looks every 250 units")
    given = parser.parse_args(arguments)
    if given.hostile:
        return hostile.run(runs=given.runs, rows=given.rows, every=given.every, seed=given.seed, json_path=given.json)
    tests: dict[str, Test] = {
        "group_sequential": ours("group_sequential", given.rows, given.every),
        "confidence_sequence": ours("confidence_sequence", given.rows, given.every),
        "z-test at each look": naive_z,
        "Mann-Whitney at each look": mann_whitney,
    }
    shape = {"runs": given.runs, "num_rows": given.rows, "every": given.every, "ratio": given.ratio, "seed": given.seed}
    rows: list[list[str]] = []
    found: dict[str, Outcome] = {}
    for name, test in tests.items():
        for case, rates in CASES.items():
            started = time.process_time()
            outcome = simulate(test, rates, **shape)
            seconds = time.process_time() - started
            median = "–" if np.isnan(outcome.median_harmful) else f"{outcome.median_harmful:.0f}"
            shares = (outcome.harmful, outcome.advanced, outcome.undecided)
            rows.append([f"{name}, {case}", *(f"{share:.1%}" for share in shares), median, f"{seconds:.1f}"])
            if name == "group_sequential":
                found[case] = outcome
    print_table(
        f"{given.runs} rollouts a case, a look every {given.every} rows, horizon {given.rows} a side, "
        f"stable × {given.ratio}",
        ("test, case", "rolled back", "advanced", "undecided", "median rows to roll back", "CPU s"),
        rows,
    )
    return finish({"runs": given.runs}, _bars(found, given.rows), given.json)


def _bars(found: dict[str, Outcome], num_rows: int) -> Bars:
    median = found["worse"].median_harmful
    return {
        "false_rollback": at_most(found["equal"].harmful, 0.05),
        "median_n": at_most(float(num_rows) if np.isnan(median) else median, 1000.0),
        "margin_advanced": at_most(found["margin"].advanced, 0.05),
        "power": at_least(found["worse"].harmful, 0.9),
        "advance_rate": at_least(found["equal"].advanced, 0.9),
    }


if __name__ == "__main__":
    sys.exit(main())
