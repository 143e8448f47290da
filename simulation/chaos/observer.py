"""Observes through the kernel which run is on which GPU, without run tags, statuses or the coordinator's records.

The environment of each process of a run names its devices and its share of each; /proc shows that for forked workers
too. A GPU is over-promised if the shares of different runs with processes alive at the same instant exceed the whole.
One look at /proc takes time, so all suspicious processes are looked at again: those that still live were alive
together.

As `python -m simulation.chaos.observer TASK` it looks until it reads `end`; its last line is JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

WHOLE = 1000
MARKER = "HEADRACE_CHAOS"
_NAMES = ("HEADRACE_RUN_ID", "CUDA_VISIBLE_DEVICES", "HEADRACE_GPU_MILLI", MARKER)
# Between fork and exec a process shows its parent's environment.
_SETTLED_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class OnDevices:
    """A live process of a run; `started` in clock ticks since boot. `milli`: thousandths of each of its devices."""

    pid: int
    started: int
    run_id: str
    devices: tuple[str, ...] = ()
    milli: int = 0


@dataclass(frozen=True, kw_only=True, order=True)
class OverPromised:
    device: str
    run_ids: tuple[str, ...]
    milli: int


def over_promised(processes: Iterable[OnDevices]) -> list[OverPromised]:
    """Finds over-promised devices; a run counts once on each, with any number of processes."""
    shares: dict[str, dict[str, int]] = {}
    for process in processes:
        for device in process.devices:
            of_device = shares.setdefault(device, {})
            of_device[process.run_id] = max(of_device.get(process.run_id, 0), process.milli)
    return sorted(
        OverPromised(device=device, run_ids=tuple(sorted(runs)), milli=sum(runs.values()))
        for device, runs in shares.items()
        if sum(runs.values()) > WHOLE
    )


def proven(processes: list[OnDevices], is_alive: Callable[[OnDevices], bool]) -> list[OverPromised]:
    """Over-promised by processes that all still live: a process that ended during the look proves nothing."""
    concerned = {run_id for found in over_promised(processes) for run_id in found.run_ids}
    if not concerned:
        return []
    return over_promised([process for process in processes if process.run_id in concerned and is_alive(process)])


class Kernel:
    """Looks at /proc; remembers what cannot change."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._known: dict[tuple[int, int], OnDevices | None] = {}

    def processes(self) -> list[OnDevices]:
        """Processes of this marker's runs; zombies hold nothing."""
        found, seen = [], set()
        for name in os.listdir("/proc"):  # noqa: PTH208 (looked at 30 times a second)
            if not name.isdigit():
                continue
            started = _started(int(name))
            if started is None:
                continue
            key = (int(name), started)
            seen.add(key)
            process = self._known[key] if key in self._known else self._read(*key)
            if process:
                found.append(process)
        self._known = {key: process for key, process in self._known.items() if key in seen}
        return found

    def _read(self, pid: int, started: int) -> OnDevices | None:
        values = environment(pid)
        run_id = values.get("HEADRACE_RUN_ID", "")
        is_ours = values.get(MARKER) == self._marker
        if is_ours and run_id and not run_id.startswith("-"):
            devices = tuple(device for device in values.get("CUDA_VISIBLE_DEVICES", "").split(",") if device)
            process = OnDevices(
                pid=pid, started=started, run_id=run_id, devices=devices, milli=_milli(values, bool(devices))
            )
            self._known[pid, started] = process
            return process
        # One of our processes without a run may become a worker: a template's fork, or a shell before its exec.
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
        if not is_ours and age > _SETTLED_SECONDS:
            self._known[pid, started] = None
        return None


def is_alive(process: OnDevices) -> bool:
    return _started(process.pid) == process.started


def environment(pid: int) -> dict[str, str]:
    """The few relevant variables; of duplicates the first, as the C library reads them."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    found: dict[str, str] = {}
    for entry in entries:
        name, _, value = entry.decode(errors="replace").partition("=")
        if name in _NAMES:
            found.setdefault(name, value)
    return found


def _milli(values: dict[str, str], has_devices: bool) -> int:
    # A process that sees devices but states no share has them whole.
    return int(values.get("HEADRACE_GPU_MILLI") or WHOLE) if has_devices else 0


def _started(pid: int) -> int | None:
    try:
        # A `Path` would cost twice as much.
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def watch(marker: str, period_seconds: float, ended: Event) -> dict[str, Any]:
    """Counts violations once for each device and set of runs."""
    kernel = Kernel(marker)
    violations: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    milli_max: dict[str, int] = {}
    num_looks, gap_seconds_max, last = 0, 0.0, time.monotonic()
    began = last
    while not ended.is_set():
        processes = kernel.processes()
        num_looks += 1
        now = time.monotonic()
        gap_seconds_max, last = max(gap_seconds_max, now - last), now
        for found in proven(processes, is_alive):
            concerned = [asdict(process) for process in processes if process.run_id in found.run_ids]
            violations.setdefault(
                (found.device, found.run_ids),
                {**asdict(found), "at": time.time(), "processes": concerned, "commands": _commands(concerned)},
            )
        by_run = {(device, process.run_id): process.milli for process in processes for device in process.devices}
        for device in {device for device, _ in by_run}:
            total = sum(milli for (of, _), milli in by_run.items() if of == device)
            milli_max[device] = max(milli_max.get(device, 0), total)
        ended.wait(max(0.0, period_seconds - (time.monotonic() - now)))
    return {
        "violations": list(violations.values()),
        "milli_max": milli_max,
        "num_looks": num_looks,
        "looks_per_s": round(num_looks / max(time.monotonic() - began, 1e-9), 1),
        "gap_seconds_max": round(gap_seconds_max, 3),
    }


def _commands(processes: list[dict[str, Any]]) -> list[str]:
    found = []
    for process in processes:
        try:
            command = Path(f"/proc/{process['pid']}/cmdline").read_bytes()
            found.append(command.replace(b"\0", b" ").decode(errors="replace")[:100])
        except OSError:
            found.append("gone")
    return found


def main() -> None:
    task = json.loads(sys.argv[1])
    ended = Event()

    def read() -> None:
        for line in sys.stdin:
            if line.strip() == "end":
                break
        ended.set()  # also if the benchmark itself is gone

    Thread(target=read, daemon=True).start()
    print("ready", flush=True)
    print(json.dumps(watch(task["marker"], task["period_seconds"], ended)))


if __name__ == "__main__":
    main()
