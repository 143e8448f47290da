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

Last line: `{"bars": {"false_rollback", "power", "median_n", "advance_rate", "margin_advanced"}}`; `median_n` is rows a
side, as many as the horizon where none was rolled back.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.special import ndtr

from headrace.rollout.sequential.designs import Design
from headrace.rollout.sequential.looks import look
from headrace.rollout.sequential.samples import Sample

ALPHA = 0.05
# Through records, a store and the gate a look costs a thousand times one on counts.
HOSTILE_RUNS_MAX, HOSTILE_EVERY = 300, 250
MARGIN = 0.02
CASES = {"equal": (0.05, 0.05), "worse": (0.05, 0.08), "margin": (0.05, 0.07), "better": (0.05, 0.03)}

End = Literal["harmful", "not_inferior", "undecided"]
# Bad rows and rows of candidate and stable set → what the test says at this look.
Test = Callable[[int, int, int, int, bool], End]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Shares of runs by how they ended; rows a side at the end, of those rolled back for harm and of all."""

    harmful: float
    advanced: float
    undecided: float
    median_harmful: float
    median: float


def ours(method: Literal["group_sequential", "confidence_sequence"], num_rows: int, every: int) -> Test:
    design = Design(
        method=method,
        kind="proportion",
        worse="higher",
        margin=MARGIN,
        alpha_harm=ALPHA,
        alpha_advance=ALPHA,
        num_min=min(every, 50),
        num_max=num_rows,
    )

    def test(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
        candidate = Sample.of_counts(num_candidate, bad_candidate)
        return look(design, candidate, Sample.of_counts(num_stable, bad_stable)).verdict

    return test


def naive_z(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
    """Two shares compared by a pooled z-test, as if this were the only look."""
    pooled = (bad_candidate + bad_stable) / (num_candidate + num_stable)
    spread = (pooled * (1 - pooled) * (1 / num_candidate + 1 / num_stable)) ** 0.5
    score = (bad_candidate / num_candidate - bad_stable / num_stable) / spread if spread else 0.0
    if 1 - ndtr(score) < ALPHA:
        return "harmful"
    return "not_inferior" if is_last else "undecided"


def mann_whitney(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
    """Mann-Whitney's U over 0/1 rows, normal approximation with ties and continuity, as canary judges use it.

    In closed form of the counts; `tests/rollout/test_sequential.py` holds it against `scipy.stats.mannwhitneyu`.
    """
    good_candidate, good_stable = num_candidate - bad_candidate, num_stable - bad_stable
    statistic = bad_candidate * good_stable + 0.5 * (bad_candidate * bad_stable + good_candidate * good_stable)
    num, bad = num_candidate + num_stable, bad_candidate + bad_stable
    ties = ((bad**3 - bad) + ((num - bad) ** 3 - (num - bad))) / (num * (num - 1))
    spread = (num_candidate * num_stable / 12 * (num + 1 - ties)) ** 0.5
    score = (statistic - num_candidate * num_stable / 2 - 0.5) / spread if spread else 0.0
    # A canary judge's "98%" confidence, one-sided.
    if 1 - ndtr(score) < 0.02:
        return "harmful"
    return "not_inferior" if is_last else "undecided"


def simulate(
    test: Test, rates: tuple[float, float], *, runs: int, num_rows: int, every: int, ratio: int, seed: int
) -> Outcome:
    """Run one test on `runs` rollouts; `ratio`: rows of the stable set for each of the candidate."""
    stable_rate, candidate_rate = rates
    draws = np.random.default_rng([seed, *(round(1e4 * rate) for rate in rates)])
    num_looks = num_rows // every
    candidate = draws.binomial(every, candidate_rate, (runs, num_looks)).cumsum(axis=1)
    stable = draws.binomial(every * ratio, stable_rate, (runs, num_looks)).cumsum(axis=1)
    ends: list[End] = []
    rows: list[int] = []
    for run in range(runs):
        end: End = "undecided"
        at = 0
        for index in range(num_looks):
            at = (index + 1) * every
            bad = int(candidate[run, index]), int(stable[run, index])
            end = test(bad[0], at, bad[1], at * ratio, index == num_looks - 1)
            if end != "undecided":
                break
        ends.append(end)
        rows.append(at)
    found, at_rows = np.array(ends), np.array(rows)
    harmful = found == "harmful"
    return Outcome(
        harmful=float(harmful.mean()),
        advanced=float((found == "not_inferior").mean()),
        undecided=float((found == "undecided").mean()),
        median_harmful=float(np.median(at_rows[harmful])) if harmful.any() else float("nan"),
        median=float(np.median(at_rows)),
    )


def main(
    runs: Annotated[int, typer.Option(min=1, help="Simulated rollouts a case.")] = 2000,
    rows: Annotated[int, typer.Option(min=50, help="Horizon: rows a side.")] = 4000,
    every: Annotated[int, typer.Option(min=1, help="Rows a side between two looks.")] = 50,
    ratio: Annotated[int, typer.Option(min=1, help="Rows of the stable set for each of the candidate.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the rows' draws.")] = 0,
    hostile: Annotated[bool, typer.Option("--hostile", help="One client means ill; looks every 250 units.")] = False,
) -> None:
    """How often a gate is right, looked at after every few rows."""
    if hostile:
        from benchmarks.gates.hostile import report

        report(runs=min(runs, HOSTILE_RUNS_MAX), rows=rows, every=max(every, HOSTILE_EVERY), seed=seed)
        return
    tests: dict[str, Test] = {
        "group_sequential": ours("group_sequential", rows, every),
        "confidence_sequence": ours("confidence_sequence", rows, every),
        "z-test at each look": naive_z,
        "Mann-Whitney at each look": mann_whitney,
    }
    table = Table(title=f"{runs} rollouts a case, a look every {every} rows, horizon {rows} a side, stable × {ratio}")
    for column in ("test", "case", "rolled back", "advanced", "undecided", "median rows to roll back", "CPU s"):
        table.add_column(column, justify="left" if column in {"test", "case"} else "right")
    found: dict[str, Outcome] = {}
    for name, test in tests.items():
        for case, rates in CASES.items():
            started = time.process_time()
            outcome = simulate(test, rates, runs=runs, num_rows=rows, every=every, ratio=ratio, seed=seed)
            seconds = time.process_time() - started
            median = "–" if np.isnan(outcome.median_harmful) else f"{outcome.median_harmful:.0f}"
            shares = (outcome.harmful, outcome.advanced, outcome.undecided)
            table.add_row(name, case, *(f"{share:.1%}" for share in shares), median, f"{seconds:.1f}")
            if name == "group_sequential":
                found[case] = outcome
        table.add_section()
    Console().print(table)
    print(json.dumps({"runs": runs, "bars": _bars(found, rows)}))


def _bars(found: Mapping[str, Outcome], num_rows: int) -> dict[str, dict[str, Any]]:
    median = found["worse"].median_harmful
    at_most = {
        "false_rollback": (found["equal"].harmful, 0.05),
        "median_n": (float(num_rows) if np.isnan(median) else median, 1000.0),
        "margin_advanced": (found["margin"].advanced, 0.05),
    }
    at_least = {"power": (found["worse"].harmful, 0.9), "advance_rate": (found["equal"].advanced, 0.9)}
    return {
        **{name: {"value": value, "bar": bar, "met": bool(value <= bar)} for name, (value, bar) in at_most.items()},
        **{name: {"value": value, "bar": bar, "met": bool(value >= bar)} for name, (value, bar) in at_least.items()},
    }


if __name__ == "__main__":
    typer.run(main)
