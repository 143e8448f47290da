"""How many events a system takes a second, each on the disk before it is acknowledged."""

from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.inbox.systems import OURS, System, serving
from benchmarks.measuring import Bars, Child, at_least, at_most, in_turns, median, print_table, progress, rounded
from benchmarks.parts import Options, Outcome

_NUM_PROCESSES = 4
_WARM_UP_SECONDS = 1.5
_RATIO_BAR, _P99_MS_BAR = 1.5, 50.0


@dataclass(frozen=True, kw_only=True)
class IntakeOptions(Options):
    """`systems`: with the paths of their programs."""

    systems: tuple[tuple[System, str], ...]
    rounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """One system in one shape: `num_connections` at once, `num_events` in each request."""

    system: System
    program: str
    num_connections: int
    num_events: int

    @property
    def is_single(self) -> bool:
        return self.num_events == 1


@dataclass(frozen=True, kw_only=True)
class Round:
    events_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float


def measure_intake(given: IntakeOptions, directory: Path) -> Outcome:
    cases = [
        Case(system=system, program=program, num_connections=connections, num_events=events)
        for system, program in given.systems
        for connections, events in system.shapes
    ]
    found: dict[Case, list[Round]] = {case: [] for case in cases}
    for run, case in in_turns("intake", given.rounds, cases):
        where = directory / f"{case.system.name}-{case.num_connections}-{case.num_events}-{run}"
        one = _measure(case, where, given.seconds)
        found[case].append(one)
        progress.print(
            f"  {case.system.name} {case.num_connections} × {case.num_events}: {one.events_per_second:,.0f}/s, "
            f"p99 {one.p99_ms:.1f} ms"
        )
    _print(found, given)
    body: dict[str, Any] = {}
    bars = Bars()
    for name, is_single in (("single", True), ("thousand", False)):
        figures = _figures(found, is_single=is_single)
        body[name] = figures
        if figures["ratio"] is not None:
            bars[f"{name}_ratio"] = at_least(figures["ratio"], _RATIO_BAR)
    bars["single_p99_ms"] = at_most(body["single"]["p99_ms"], _P99_MS_BAR)
    return Outcome(body=body, bars=bars)


def _measure(case: Case, directory: Path, seconds: float) -> Round:
    num_processes = min(_NUM_PROCESSES, case.num_connections)
    with serving(case.system, case.program, directory) as server:
        children = [
            Child(
                "benchmarks.inbox.client",
                {
                    "system": case.system.name,
                    "port": server.port,
                    "connections": case.num_connections // num_processes,
                    "events": case.num_events,
                    "warm_up_seconds": _WARM_UP_SECONDS,
                    "seconds": seconds,
                },
            )
            for _ in range(num_processes)
        ]
        try:
            for child in children:
                child.wait_for("ready")
            before = server.cpu_seconds()
            for child in children:
                child.say("go")
            results = [child.result().body for child in children]
            cpu = server.cpu_seconds() - before
        finally:
            for child in children:
                child.kill()
    num_events = sum(result["events"] for result in results)
    took = sorted(ms for result in results for ms in result["milliseconds"])
    cuts = quantiles(took, n=100) if len(took) > 1 else took * 99
    return Round(
        events_per_second=num_events / seconds,
        p50_ms=cuts[49],
        p99_ms=cuts[98],
        server_cpu_us=1e6 * cpu / max(num_events * (seconds + _WARM_UP_SECONDS) / seconds, 1),
    )


def _figures(found: dict[Case, list[Round]], *, is_single: bool) -> dict[str, Any]:
    """Ours, and the best shape of the best peer."""
    rates = {
        case: median(one.events_per_second for one in rounds)
        for case, rounds in found.items()
        if case.is_single == is_single
    }
    ours = next(case for case in rates if case.system is OURS)
    best = max((case for case in rates if case.system is not OURS), key=lambda case: rates[case], default=None)
    return {
        "events_per_second": rounded(rates[ours]),
        "p50_ms": rounded(median(one.p50_ms for one in found[ours])),
        "p99_ms": rounded(median(one.p99_ms for one in found[ours])),
        "best_peer": best and f"{best.system.name}, {best.num_connections} × {best.num_events}",
        "best_peer_events_per_second": best and rounded(rates[best]),
        "ratio": rounded(rates[ours] / rates[best]) if best else None,
    }


def _print(found: dict[Case, list[Round]], given: IntakeOptions) -> None:
    rows = [
        [
            f"{case.system.name}, {case.num_connections} × {case.num_events}",
            f"{median(one.events_per_second for one in rounds):,.0f}",
            f"{min(one.events_per_second for one in rounds):,.0f}-{max(one.events_per_second for one in rounds):,.0f}",
            f"{median(one.p50_ms for one in rounds):.1f}",
            f"{median(one.p99_ms for one in rounds):.1f}",
            f"{median(one.server_cpu_us for one in rounds):.0f}",
        ]
        for case, rounds in found.items()
    ]
    print_table(
        f"Events of 1 KiB, on the disk before the acknowledgement; {given.rounds} rounds of {given.seconds:g} s",
        ["system, connections × events of a request", "events/s", "of rounds", "p50 ms", "p99 ms", "server CPU µs"],
        rows,
        caption="Closed loop: each connection waits for its acknowledgement. p50, p99: of requests.",
    )
