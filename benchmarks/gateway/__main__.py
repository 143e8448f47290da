"""What the gateway adds to a call, and how much one core of it carries.

`python -m benchmarks.gateway` prints a table, then one line of JSON. Conditions, which decide such numbers:

- The gateway is a process as in production: API keys, a log file of a line a step and a unit, metrics, a candidate on
  trial at weight 0.5 whose evidence is written every two seconds, the plan read every quarter of a second.
- Added time: a real HTTP server in a process of its own answers after 20 to 50 ms, drawn from the prompt. 64
  connections, 300 requests a second, open loop, timed from when each was due. Direct and through the gateway take
  turns, with the same prompts; p99 of one minus p99 of the other, a round each; the median of the rounds counts.
- Flat out: the in-process echo engine, 64 connections that never wait. Requests by the gateway's own CPU second (user
  and system, all threads), median of the rounds; the load has its own process and core.
- The machine has few cores and others use them: wall figures sag with it, CPU figures hardly.

`--hostile` measures something else: `benchmarks.gateway.hostile` says what.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gateway import hostile
from benchmarks.gateway.load import LIMITS, SERVICE_SECONDS, chat_url
from benchmarks.measuring import (
    at_least,
    at_most,
    finish,
    in_turns,
    median,
    parser_of,
    print_table,
    rounded,
    run_child,
    scratch,
    whole,
)
from simulation.servers.gateway_site import KEY, Site, http_role, role, running, slow_server
from simulation.servers.processes import cpu_seconds

_CONNECTIONS = 64
_RATE = 300.0
_ADDED_MS_BAR, _BY_CORE_BAR = 5.0, 2000.0
# By what was measured, a value a round.
Figures = dict[str, list[float]]


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("gateway", __doc__)
    parser.add_argument("--hostile", action="store_true", help="what an honest client notices of hostile ones")
    parser.add_argument("--rounds", type=whole(), help="default: 11; hostile: 5")
    parser.add_argument("--seconds", type=float, help="length of one measurement; default: 4; hostile: 12")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (5 if options.hostile else 11)
    options.seconds = options.seconds or (12.0 if options.hostile else 4.0)
    if options.seconds < 0:
        parser.error("--seconds must be above 0")
    with scratch("gateway") as directory:
        return hostile.run(directory, options) if options.hostile else _run(directory, options)


def _run(directory: Path, options: argparse.Namespace) -> int:
    direct, through = _added(directory / "http", options)
    whole_answers, streams = _flat_out(directory / "echo", options)
    added = [b - a for a, b in zip(direct["p99"], through["p99"], strict=True)]
    print_table(
        f"Open loop, {_RATE:.0f} requests/s, {_CONNECTIONS} connections, server 20 to 50 ms: ms, median of rounds",
        ["", "p50", "p90", "p99", "p99 of all rounds"],
        [
            [name, *(f"{median(figures[key]):.2f}" for key in ("p50", "p90", "p99")), _range(figures["p99"])]
            for name, figures in (("direct", direct), ("through the gateway", through))
        ],
        caption=f"added p99, a round each: {', '.join(f'{one:.2f}' for one in added)} ms",
    )
    print_table(
        f"Flat out, {_CONNECTIONS} connections, echo engine in the gateway's process: median of rounds",
        ["", "requests / CPU s", "all rounds", "requests / s wall", "gateway's core busy"],
        [
            [
                name,
                f"{median(figures['by_cpu']):,.0f}",
                _range(figures["by_cpu"]),
                f"{median(figures['by_wall']):,.0f}",
                f"{100 * median(figures['busy']):.0f}%",
            ]
            for name, figures in (("whole answers", whole_answers), ("streams (some 11 events each)", streams))
        ],
    )
    bars = {
        "added_p99_ms": at_most(rounded(median(added)), _ADDED_MS_BAR),
        "requests_per_s_core": at_least(rounded(median(whole_answers["by_cpu"])), _BY_CORE_BAR),
    }
    streams_per_core = rounded(median(streams["by_cpu"]))
    return finish({"streams_per_s_core": streams_per_core, "rounds": options.rounds}, bars, options.json)


def _added(directory: Path, options: argparse.Namespace) -> tuple[Figures, Figures]:
    direct, through = defaultdict(list), defaultdict(list)
    with slow_server(seconds_min=SERVICE_SECONDS[0], seconds_max=SERVICE_SECONDS[1]) as base_url:
        site = Site.make(directory, {"roles": {"writer": http_role(base_url)}, "limits": LIMITS})
        with running(site) as gateway:
            ways = [(direct, f"{base_url}/chat/completions"), (through, chat_url(gateway))]
            for round_, (figures, url) in in_turns("added time", options.rounds, ways, num_warm_ups=1):
                found = _load(url, seed=round_, rate=_RATE, requests=int(_RATE * options.seconds))
                cuts = statistics.quantiles(found["seconds"], n=1000)
                for key, place in (("p50", 499), ("p90", 899), ("p99", 989)):
                    figures[key] += [1000 * cuts[place]] if round_ >= 0 else []
    return direct, through


def _flat_out(directory: Path, options: argparse.Namespace) -> tuple[Figures, Figures]:
    whole_answers, streams = defaultdict(list), defaultdict(list)
    site = Site.make(directory, {"roles": {"writer": role()}, "limits": LIMITS})
    with running(site) as gateway:
        kinds = [(whole_answers, False), (streams, True)]
        for round_, (figures, is_stream) in in_turns("flat out", options.rounds, kinds, num_warm_ups=1):
            cpu = cpu_seconds(gateway.pid)
            found = _load(chat_url(gateway), seed=round_, seconds=options.seconds, requests=500, stream=is_stream)
            cpu = cpu_seconds(gateway.pid) - cpu
            if round_ >= 0:
                figures["by_cpu"].append(found["answered"] / cpu)
                figures["by_wall"].append(found["answered"] / found["wall"])
                figures["busy"].append(cpu / found["wall"])
    return whole_answers, streams


def _load(url: str, *, seed: int, **task: Any) -> dict[str, Any]:
    body = {"url": url, "key": KEY, "model": "assistant", "seed": seed, "connections": _CONNECTIONS, **task}
    found = run_child("benchmarks.gateway.load", body).body
    if found["failed"]:
        raise SystemExit(f"{found['failed']} requests to {url} failed; figures of failures say nothing.")
    return found


def _range(values: list[float]) -> str:
    digits: Callable[[float], str] = lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"  # noqa: E731
    return f"{digits(min(values))} … {digits(max(values))}"


if __name__ == "__main__":
    raise SystemExit(main())
