"""What a backlog of many events costs, from the gateway's port to runs in Dagster's queue."""

import http.client
import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import local
from typing import Any

from benchmarks.inbox.systems import OURS, Server, serving
from benchmarks.inbox.ticks import EVENTS_FILE
from benchmarks.measuring import Child, at_least, at_most, print_table, progress, rounded
from benchmarks.parts import Options, Outcome
from headrace.inbox.sealed import SealedWindow, sealed_windows, window_events
from headrace.store.local import LocalStore

_CAMPAIGN = "inbox"
_A_REQUEST, _AT_ONCE = 1_000, 4
_SPAN = timedelta(days=1)
_EVENTS_A_RUN, _TICK_SECONDS_MAX, _MEMORY_MB_MAX = 1_000, 10.0, 500
_NUM_STOCK = 2_000
_SEAL_SECONDS_MAX = 300.0
_TICKS_SECONDS_MAX = 1_800.0
_REPORT_EVERY = 100
# Named in the campaign's file, and asked of nobody: no run begins.
_FILE = """\
name: inbox
model: echo
version: "1"
registered: false
engine: {name: echo}
prompts:
  inbox: {close_seconds: 20}
  template: "Describe {product}"
"""


@dataclass(frozen=True, kw_only=True)
class BacklogOptions(Options):
    events: int


def measure_backlog(given: BacklogOptions, directory: Path) -> Outcome:
    where = directory / "gateway"
    began = time.perf_counter()
    with serving(OURS, OURS.program, where, campaign=_FILE) as server:
        _send(server.port, given.events)
        took_seconds = time.perf_counter() - began
        progress.print(f"backlog: {given.events:,} events taken in {took_seconds:.0f} s")
        windows = _sealed(where, given.events)
        sealed_seconds = time.perf_counter() - began
        gateway_mb = _peak_mb(server)
    progress.print(f"backlog: sealed as {len(windows):,} windows after {sealed_seconds:.0f} s")
    ours = _ticks(directory / "instance", "pipelines.definitions", "sealed_windows", where, len(windows))
    events = directory / "events"
    events.write_text("".join(f'{{"id":"{number}"}}\n' for number in range(_NUM_STOCK)))
    environment = {EVENTS_FILE: str(events)}
    stock = _ticks(directory / "stock", "benchmarks.inbox.ticks", "stock_sensor", where, 1, environment)
    asked = {key.partition("|")[2] for key in ours["partitions"]}
    num_asked = sum(_num_events(where, window) for window in windows if window.name in asked)
    body: dict[str, Any] = {
        "events": given.events,
        "intake_seconds": rounded(took_seconds),
        "sealed_seconds": rounded(sealed_seconds),
        "gateway_mb": gateway_mb,
        "runs": len(ours["partitions"]),
        "tick_seconds": ours["tick_seconds"],
        "ticks_mb": ours["peak_mb"],
        "stock_events": _NUM_STOCK,
        "stock_runs": len(stock["partitions"]),
        "stock_tick_seconds": stock["tick_seconds"],
        "stock_mb": stock["peak_mb"],
    }
    bars = {
        "backlog_runs": at_most(body["runs"], max(1, given.events // _EVENTS_A_RUN)),
        "backlog_runs_asked_twice": at_most(body["runs"] - len(asked), 0),
        "backlog_tick_seconds": at_most(max(ours["tick_seconds"]), _TICK_SECONDS_MAX),
        "backlog_gateway_mb": at_most(gateway_mb, _MEMORY_MB_MAX),
        "backlog_ticks_mb": at_most(ours["peak_mb"], _MEMORY_MB_MAX),
        "backlog_events_asked_for": at_least(num_asked, given.events),
    }
    _print(body)
    return Outcome(body=body, bars=bars)


def _send(port: int, num_events: int) -> None:
    """All of them, each with the moment of its share of one day that ends now."""
    begins = datetime.now(UTC) - _SPAN
    of_thread = local()

    def send(first: int) -> None:
        if not hasattr(of_thread, "connection"):
            of_thread.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        numbers = range(first, min(first + _A_REQUEST, num_events))
        body = "\n".join(_event(number, begins + number * _SPAN / num_events) for number in numbers)
        headers = {"Content-Type": "application/x-ndjson"}
        while True:
            of_thread.connection.request("POST", "/v1/events", body.encode(), headers)
            answer = of_thread.connection.getresponse()
            said = json.loads(answer.read())
            if answer.status == http.HTTPStatus.OK:
                assert said["taken"] == len(numbers), said
                break
            # More than the disk takes at once: what a producer is told to do.
            assert answer.status == http.HTTPStatus.TOO_MANY_REQUESTS, said
            time.sleep(float(answer.headers["Retry-After"]))
        if first // _A_REQUEST % _REPORT_EVERY == 0:
            progress.print(f"  {first:,} of {num_events:,}")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(send, range(0, num_events, _A_REQUEST)))


def _event(number: int, at: datetime) -> str:
    head = f'{{"id":"{number}","source":"/shops/{number % 3}","campaign":"{_CAMPAIGN}","time":"{at.isoformat()}"'
    return f'{head},"data":{{"product":"a kettle of the {number}th kind"}}}}'


def _sealed(where: Path, num_events: int) -> list[SealedWindow]:
    ends = time.monotonic() + _SEAL_SECONDS_MAX
    while True:
        windows = list(sealed_windows(LocalStore(where / "store"), _CAMPAIGN))
        if (num_sealed := sum(window.num_events for window in windows)) >= num_events:
            return windows
        assert time.monotonic() < ends, f"{num_sealed:,} of {num_events:,} events are sealed"
        time.sleep(1)


def _num_events(where: Path, window: SealedWindow) -> int:
    """Of its handoff, not of what its manifest says."""
    return sum(1 for _ in window_events(LocalStore(where / "store"), window)["id"])


def _ticks(
    home: Path, module: str, sensor: str, where: Path, num_windows: int, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    settings = {"HEADRACE_STORE": str(where / "store"), "HEADRACE_CAMPAIGNS": str(where / "campaigns")}
    settings |= {"HEADRACE_HOME": str(home.parent / "home"), **(environment or {})}
    task = {"module": module, "sensor": sensor, "home": str(home), "num_ticks_max": 10 + num_windows}
    return Child("benchmarks.inbox.ticks", task, environment=settings).result(seconds_max=_TICKS_SECONDS_MAX).body


def _peak_mb(server: Server) -> int:
    """Of the gateway's largest process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [found] = re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return round(int(found) / 1024)


def _print(body: dict[str, Any]) -> None:
    def row(name: str, num_events: int, num_runs: int, took: Iterable[float], peak_mb: int) -> list[str]:
        seconds = list(took)
        return [name, f"{num_events:,}", f"{num_runs:,}", f"{len(seconds)}", f"{max(seconds):.1f}", f"{peak_mb:,}"]

    print_table(
        "A backlog, until its runs are in Dagster's queue",
        ["sensor", "events", "runs", "ticks", "longest s", "peak MB"],
        [
            row("headrace", body["events"], body["runs"], body["tick_seconds"], body["ticks_mb"]),
            row("a run an event", _NUM_STOCK, body["stock_runs"], body["stock_tick_seconds"], body["stock_mb"]),
        ],
        caption=f"Intake {body['intake_seconds']:,.0f} s; the gateway's peak {body['gateway_mb']} MB.",
    )
