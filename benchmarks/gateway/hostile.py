"""What an honest client notices of clients that mean no good: `python -m benchmarks.gateway --hostile`.

Conditions, which decide such numbers:

- The gateway is a process as in production, with its default limits on strangers: API keys, log, metrics, a candidate
  on trial at weight 0.5. A real HTTP server in a process of its own answers after 20 to 50 ms, drawn from the prompt.
- The honest load: open loop, kept connections, the same prompts undisturbed and under attack, which take turns. Its p99
  under attack by its p99 undisturbed, a round each; the median of the rounds counts.
- The attack (`hostile_client`) is there before the honest load begins and until it has ended. It keeps 200 slow
  heads, 200 idle connections, 60 slow bodies, 60 readers that stall and 2 that send heads of 50 MB all the time: who is
  cut off comes back.
- `/healthz` is asked ten times a second on a new connection each, with five seconds to answer.
- Descriptors and resident memory of the gateway are read when the attack and its own idle connections to the server are
  gone. Three rounds before the first that counts are for everything that is made once. Before the first and after
  the last that counts, what the attack left behind has ended: streams on trial are read to their end.
- On a machine with few cores the attackers, the load and the server take turns with the gateway on them.
"""

import argparse
import json
import os
import socket
import statistics
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.gateway.load import LIMITS, SERVICE_SECONDS, chat_url
from benchmarks.measuring import Child, at_most, finish, median, print_table, progress, rounded, run_child
from simulation.servers.gateway_site import KEY, GatewayProcess, Site, http_role, running, slow_server
from simulation.servers.processes import cpu_seconds

_CLIENTS = {"slow_heads": 200, "idle": 200, "slow_bodies": 60, "stalled": 60, "huge_heads": 2}
_RATE = 150.0
_NUM_CONNECTIONS = 32
# Words of an honest answer, and of a stream that nobody reads: more than fits into the buffers on its way.
# They come as fast as a server of a model makes them: a stream that no model could make would be an attack by itself.
_HONEST_TOKENS, _STREAM_TOKENS, _WORD_BYTES, _WORD_SECONDS = 8, 4000, 120, 0.02
# The attack has begun when so many hostile connections are open at once; how long that may take.
_NUM_HOSTILE_MIN, _BEGIN_SECONDS_MAX = 450, 30.0
# After the attack: connections that were cut off are gone after 2 s, idle ones to the server after 4.
_SETTLE_SECONDS = 7.0
# A stream that its client left is read to its end, which is the unit's time limit at the latest.
_LEFT_SECONDS_MAX = 130.0
_HEALTH_PAUSE_SECONDS, _HEALTH_SECONDS_MAX = 0.1, 5.0
_P99_BAR = 2.0
# Buffers and tables that grow to what an attack needs, once, are not what is asked about.
_NUM_WARM_UPS = 3
# Over all rounds. Every round brings more than a thousand hostile connections: a leak of 1 KiB each is seen.
_MEMORY_BAR_MB = 4.0


def run(directory: Path, options: argparse.Namespace) -> int:
    rounds: list[dict[str, Any]] = []
    with slow_server(
        seconds_min=SERVICE_SECONDS[0],
        seconds_max=SERVICE_SECONDS[1],
        num_words=_STREAM_TOKENS,
        word_bytes=_WORD_BYTES,
        word_seconds=_WORD_SECONDS,
    ) as base_url:
        decoding = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": _STREAM_TOKENS}
        writer = http_role(base_url, decoding=decoding)
        site = Site.make(directory, {"roles": {"writer": writer}, "limits": LIMITS})
        with running(site) as gateway:
            for round_ in range(-_NUM_WARM_UPS, options.rounds):
                name = f"round {round_ + 1} of {options.rounds}" if round_ >= 0 else "warm-up"
                progress.print(f"hostile: {name}")
                is_measured = round_ in (-1, options.rounds - 1)
                rounds.append(_round(gateway, seed=round_, seconds=options.seconds, is_measured=is_measured))
            cuts = _cuts(gateway)
    _print(rounds[_NUM_WARM_UPS:], cuts)
    return _finished(rounds, options.json)


def _round(gateway: GatewayProcess, *, seed: int, seconds: float, is_measured: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"before": _held(gateway)}
    # Who goes first changes, or one would always follow the other's rest.
    for is_attacked in (False, True) if seed % 2 else (True, False):
        if not is_attacked:
            found["quiet"] = _honest(gateway, seed=seed, seconds=seconds)
            continue
        task = {"url": chat_url(gateway), "key": KEY, "model": "assistant", "stream_tokens": _STREAM_TOKENS}
        # Longer than it needs: it is told when to end.
        attack_seconds = _BEGIN_SECONDS_MAX + 5 * seconds + 30.0
        attack = Child("benchmarks.gateway.hostile_client", {**task, "clients": _CLIENTS, "seconds": attack_seconds})
        try:
            with _Health(gateway) as health:
                attack.wait_for("begun")
                found["open"] = _until_attacked(gateway, than=found["before"][0])
                cpu, began = cpu_seconds(gateway.pid), time.monotonic()
                found["attacked"] = _honest(gateway, seed=seed, seconds=seconds)
                found["busy"] = (cpu_seconds(gateway.pid) - cpu) / (time.monotonic() - began)
            attack.say("end")
            found["attackers"] = attack.result(seconds_max=attack_seconds + 30).body
        except BaseException:
            attack.kill()
            raise
        found["health"] = (health.num_answered, health.num_asked)
        found["health_ms_max"] = 1000 * health.seconds_max
        time.sleep(_SETTLE_SECONDS)
    if is_measured:
        _until_nothing_is_left(gateway)
    time.sleep(_SETTLE_SECONDS)
    found["after"] = _held(gateway)
    return found


def _until_nothing_is_left(gateway: GatewayProcess) -> None:
    ends = time.monotonic() + _LEFT_SECONDS_MAX
    while time.monotonic() < ends:
        with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=_HEALTH_SECONDS_MAX) as page:
            if b"headrace_gateway_units_under_way 0.0\n" in page.read():
                return
        time.sleep(1.0)
    raise SystemExit(f"Units are still under way {_LEFT_SECONDS_MAX:.0f} s after the last client has gone.")


def _until_attacked(gateway: GatewayProcess, *, than: int) -> int:
    """Descriptors when so many more than before are open that the attack is what it is said to be."""
    ends = time.monotonic() + _BEGIN_SECONDS_MAX
    while (number := _num_descriptors(gateway)) < than + _NUM_HOSTILE_MIN:
        if time.monotonic() > ends:
            raise SystemExit(f"The attack did not come up: {number - than} hostile connections are open.")
        time.sleep(0.05)
    return number


def _honest(gateway: GatewayProcess, *, seed: int, seconds: float) -> dict[str, Any]:
    task = {"url": chat_url(gateway), "key": KEY, "model": "assistant", "connections": _NUM_CONNECTIONS, "seed": seed}
    task |= {"rate": _RATE, "requests": int(_RATE * seconds), "max_tokens": _HONEST_TOKENS}
    found = run_child("benchmarks.gateway.load", task).body
    cuts = statistics.quantiles(found["seconds"], n=100)
    return {"p50": 1000 * cuts[49], "p99": 1000 * cuts[98], "failed": found["failed"], "asked": len(found["seconds"])}


class _Health:
    """Asks `/healthz` until its block ends."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.num_asked = self.num_answered = 0
        self.seconds_max = 0.0
        self._address = ("127.0.0.1", urlsplit(gateway.url).port)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "_Health":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _ask(self) -> None:
        while not self._ended.wait(_HEALTH_PAUSE_SECONDS):
            self.num_asked += 1
            began = time.monotonic()
            try:
                with socket.create_connection(self._address, timeout=_HEALTH_SECONDS_MAX) as client:
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
                    self.num_answered += client.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                pass
            self.seconds_max = max(self.seconds_max, time.monotonic() - began)


def _held(gateway: GatewayProcess) -> tuple[int, float]:
    """Descriptors, and MB of resident memory."""
    pages = int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1])
    return _num_descriptors(gateway), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _num_descriptors(gateway: GatewayProcess) -> int:
    return sum(1 for _ in Path(f"/proc/{gateway.pid}/fd").iterdir())


def _cuts(gateway: GatewayProcess) -> dict[str, int]:
    """Reason → connections that were ended for it, as the log says."""
    counts: dict[str, int] = {}
    for record in gateway.records("gateway"):
        if record["event"] == "connection cut":
            counts[record["why"]] = counts.get(record["why"], 0) + 1
        elif record["event"] == "connections cut":
            counts[record["why"]] = counts.get(record["why"], 0) + record["num_more"]
    return counts


def _finished(rounds: list[dict[str, Any]], json_path: Path | None) -> int:
    """Growth is from the end of the last warm-up to the end of the last round."""
    first, counted = rounds[_NUM_WARM_UPS - 1], rounds[_NUM_WARM_UPS:]
    ratio = median(one["attacked"]["p99"] / one["quiet"]["p99"] for one in counted)
    failed = sum(one[side]["failed"] for one in counted for side in ("quiet", "attacked"))
    num_answered, num_asked = (sum(one["health"][place] for one in rounds) for place in (0, 1))
    num_more, more_mb = (counted[-1]["after"][place] - first["after"][place] for place in (0, 1))
    bars = {
        "honest_p99_ratio": at_most(rounded(ratio), _P99_BAR),
        "honest_failed": at_most(failed, 0),
        "descriptors_grown": at_most(num_more, 0),
        "memory_grown_mb": at_most(round(more_mb, 2), _MEMORY_BAR_MB),
        # Asked not once, it would be answered always.
        "healthz_unanswered": at_most(num_asked - num_answered if num_asked else 1, 0),
    }
    p99 = {side: rounded(median(one[side]["p99"] for one in counted)) for side in ("quiet", "attacked")}
    return finish({"honest_p99_ms": p99, "healthz_asked": num_asked, "rounds": len(counted)}, bars, json_path)


def _print(rounds: list[dict[str, Any]], cuts: dict[str, int]) -> None:
    print_table(
        f"{json.dumps(_CLIENTS)} beside {_RATE:.0f} honest requests/s; came: hostile connections",
        [
            "",
            "p99 alone, ms",
            "attacked",
            "core busy",
            "failed",
            "/healthz",
            "slowest",
            "descriptors",
            "attacked",
            "after",
            "MB",
            "after",
            "came",
        ],
        [
            [
                f"round {number}",
                f"{one['quiet']['p99']:.1f}",
                f"{one['attacked']['p99']:.1f}",
                f"{100 * one['busy']:.0f}%",
                f"{one['quiet']['failed'] + one['attacked']['failed']}",
                f"{one['health'][0]} of {one['health'][1]}",
                f"{one['health_ms_max']:.0f}",
                f"{one['before'][0]}",
                f"{one['open']}",
                f"{one['after'][0]}",
                f"{one['before'][1]:.1f}",
                f"{one['after'][1]:.1f}",
                f"{sum(one['attackers'].get(kind, 0) for kind in _CLIENTS):,}",
            ]
            for number, one in enumerate(rounds, 1)
        ],
        caption="cut by the gateway: " + ", ".join(f"{why} {number:,}" for why, number in sorted(cuts.items())),
    )
