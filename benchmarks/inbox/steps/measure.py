"""How many durable steps a second a system takes, in units of five, alone and many at once."""

from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.inbox.steps.pace import NUM_STEPS
from benchmarks.inbox.steps.systems import OURS, StepSystem
from benchmarks.measuring import Bars, Child, at_least, at_most, in_turns, median, print_table, progress, rounded
from benchmarks.parts import Options, Outcome

_WARM_UP_SECONDS = 1.5
_RATIO_BAR, _ALONE_P50_MS_BAR = 5.0, 15.0
_BARRED_PEER = "restate"


@dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """`systems`: with the paths of their programs."""

    systems: tuple[tuple[StepSystem, str], ...]
    rounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Case:
    system: StepSystem
    program: str
    concurrency: int


@dataclass(frozen=True, kw_only=True)
class _Round:
    units_per_second: float
    p50_ms: float
    p99_ms: float


def measure_steps(given: StepOptions, directory: Path) -> Outcome:
    cases = [
        _Case(system=system, program=program, concurrency=concurrency)
        for system, program in given.systems
        for concurrency in system.concurrencies
    ]
    found: dict[_Case, list[_Round]] = {case: [] for case in cases}
    for run, case in in_turns("steps", given.rounds, cases):
        one = _measure(case, directory / f"{case.system.name}-{case.concurrency}-{run}", given.seconds)
        found[case].append(one)
        progress.print(
            f"  {case.system.name} × {case.concurrency}: {NUM_STEPS * one.units_per_second:,.0f} steps/s, "
            f"a unit p50 {one.p50_ms:.1f} ms"
        )
    _print(found, given)
    body = {system.name: _figures(found, system) for system, _ in given.systems}
    bars: Bars = {"steps_alone_p50_ms": at_most(body[OURS.name]["alone_p50_ms"], _ALONE_P50_MS_BAR)}
    if _BARRED_PEER in body:
        ratio = body[OURS.name]["steps_per_second"] / body[_BARRED_PEER]["steps_per_second"]
        bars["steps_ratio"] = at_least(rounded(ratio), _RATIO_BAR)
    return Outcome(body=body, bars=bars)


def _measure(case: _Case, directory: Path, seconds: float) -> _Round:
    directory.mkdir()
    with case.system.serving(case.program, directory) as address:
        task = {
            "concurrency": case.concurrency,
            "directory": str(directory),
            "address": address,
            "warm_up_seconds": _WARM_UP_SECONDS,
            "seconds": seconds,
        }
        child = Child(case.system.module, task, interpreter=case.system.interpreter)
        try:
            child.wait_for("ready")
            child.say("go")
            result = child.result().body
        finally:
            child.kill()
    # Where no unit ended in time, each takes longer than that.
    took = result["milliseconds"] or [1e3 * seconds]
    cuts = quantiles(took, n=100) if len(took) > 1 else took * 99
    return _Round(units_per_second=result["units"] / seconds, p50_ms=cuts[49], p99_ms=cuts[98])


def _figures(found: dict[_Case, list[_Round]], system: StepSystem) -> dict[str, Any]:
    """Alone, and at the concurrency at which it takes most."""
    rates = {
        case: median(one.units_per_second for one in rounds) for case, rounds in found.items() if case.system is system
    }
    best, alone = max(rates, key=lambda case: rates[case]), next(case for case in rates if case.concurrency == 1)
    return {
        "steps_per_second": rounded(NUM_STEPS * rates[best]),
        "units_per_second": rounded(rates[best]),
        "concurrency": best.concurrency,
        "p99_ms": rounded(median(one.p99_ms for one in found[best])),
        "alone_units_per_second": rounded(rates[alone]),
        "alone_p50_ms": rounded(median(one.p50_ms for one in found[alone])),
    }


def _print(found: dict[_Case, list[_Round]], given: StepOptions) -> None:
    rows = [
        [
            f"{case.system.name} × {case.concurrency}",
            f"{NUM_STEPS * median(one.units_per_second for one in rounds):,.0f}",
            f"{median(one.units_per_second for one in rounds):,.1f}",
            f"{min(one.units_per_second for one in rounds):,.1f}-{max(one.units_per_second for one in rounds):,.1f}",
            f"{median(one.p50_ms for one in rounds):.1f}",
            f"{median(one.p99_ms for one in rounds):.1f}",
        ]
        for case, rounds in found.items()
    ]
    print_table(
        f"Units of five durable steps; {given.rounds} rounds of {given.seconds:g} s",
        ["system × units at once", "steps/s", "units/s", "of rounds", "unit p50 ms", "p99 ms"],
        rows,
        caption="Closed loop: a unit begins when one has ended. A step's result is on the disk before the next begins.",
    )
