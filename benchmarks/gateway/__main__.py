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
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gateway import hostile as gateway_hostile
from benchmarks.measuring import (
    end_tidily_when_terminated,
    median,
    print_json,
    print_table,
    progress,
    rounded,
    run_child,
)
from simulation.servers.gateways import KEY, GatewayProcess, Site, cpu_seconds, http_role, role, running, slow_server

_CONNECTIONS = 64
_RATE = 300.0
_SERVICE_SECONDS = (0.02, 0.05)
_LIMITS = {"num_units_max": 256, "num_waiting_max": 256}
_ADDED_MS_BAR, _BY_CORE_BAR = 5.0, 2000.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hostile", action="store_true", help="what an honest client notices of hostile ones")
    parser.add_argument("--rounds", type=int, help="default: 11; hostile: 5")
    parser.add_argument("--seconds", type=float, help="length of one measurement; default: 4; hostile: 12")
    options = parser.parse_args(arguments)
    defaults = (5, 12.0) if options.hostile else (11, 4.0)
    options.rounds = defaults[0] if options.rounds is None else options.rounds
    options.seconds = defaults[1] if options.seconds is None else options.seconds
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds above 0")
    end_tidily_when_terminated()
    if options.hostile:
        return gateway_hostile.run(options)
    with tempfile.TemporaryDirectory(prefix="headrace-gateway-") as directory:
        direct, through = _added(Path(directory) / "http", options)
        whole, stream = _flat_out(Path(directory) / "echo", options)
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
            for name, figures in (("whole answers", whole), ("streams (some 11 events each)", stream))
        ],
    )
    added_ms, by_core = median(added), median(whole["by_cpu"])
    bars = {
        "added_p99_ms": {"value": rounded(added_ms), "bar": _ADDED_MS_BAR, "met": added_ms <= _ADDED_MS_BAR},
        "requests_per_s_core": {"value": rounded(by_core), "bar": _BY_CORE_BAR, "met": by_core >= _BY_CORE_BAR},
    }
    print_json({"streams_per_s_core": rounded(median(stream["by_cpu"])), "rounds": options.rounds, "bars": bars})
    return 0 if all(bar["met"] for bar in bars.values()) else 1


Figures = dict[str, list[float]]


def _added(directory: Path, options: argparse.Namespace) -> tuple[Figures, Figures]:
    direct, through = _figures(), _figures()
    with slow_server(seconds_min=_SERVICE_SECONDS[0], seconds_max=_SERVICE_SECONDS[1]) as base_url:
        site = Site.make(directory, {"roles": {"writer": http_role(base_url)}, "limits": _LIMITS})
        with running(site) as gateway:
            ways = [(direct, f"{base_url}/chat/completions"), (through, _chat(gateway))]
            for round_ in range(-1, options.rounds):
                progress.print(f"added time: {'warm-up' if round_ < 0 else f'round {round_ + 1} of {options.rounds}'}")
                # Who goes first changes, or one would always follow the other's rest.
                for figures, url in ways if round_ % 2 else ways[::-1]:
                    found = _load(url, seed=round_, rate=_RATE, requests=int(_RATE * options.seconds))
                    seconds = sorted(found["seconds"])
                    if round_ >= 0:
                        for key, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
                            figures[key].append(1000 * statistics.quantiles(seconds, n=1000)[int(share * 1000) - 1])
    return direct, through


def _flat_out(directory: Path, options: argparse.Namespace) -> tuple[Figures, Figures]:
    whole, stream = _figures(), _figures()
    site = Site.make(directory, {"roles": {"writer": role()}, "limits": _LIMITS})
    with running(site) as gateway:
        for round_ in range(-1, options.rounds):
            progress.print(f"flat out: {'warm-up' if round_ < 0 else f'round {round_ + 1} of {options.rounds}'}")
            for figures, is_stream in ((whole, False), (stream, True)):
                cpu = cpu_seconds(gateway.pid)
                found = _load(_chat(gateway), seed=round_, seconds=options.seconds, requests=500, stream=is_stream)
                cpu = cpu_seconds(gateway.pid) - cpu
                if round_ >= 0:
                    figures["by_cpu"].append(found["answered"] / cpu)
                    figures["by_wall"].append(found["answered"] / found["wall"])
                    figures["busy"].append(cpu / found["wall"])
    return whole, stream


def _figures() -> Figures:
    return {key: [] for key in ("p50", "p90", "p99", "by_cpu", "by_wall", "busy")}


def _load(url: str, *, seed: int, **task: Any) -> dict[str, Any]:
    body = {"url": url, "key": KEY, "model": "assistant", "seed": seed, "connections": _CONNECTIONS, **task}
    found = run_child("benchmarks.gateway.load", body).body
    if found["failed"]:
        raise SystemExit(f"{found['failed']} requests to {url} failed; figures of failures say nothing.")
    return found


def _chat(gateway: GatewayProcess) -> str:
    return f"{gateway.url}/v1/chat/completions"


def _range(values: list[float]) -> str:
    digits: Callable[[float], str] = lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"  # noqa: E731
    return f"{digits(min(values))} … {digits(max(values))}"


if __name__ == "__main__":
    raise SystemExit(main())
