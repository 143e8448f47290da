"""Peak memory of the demo: the proportional set size of every process that shares its HEADRACE_HOME.

Proportional, because daemon, ranks and runs map the same libraries and handoffs; a sum of resident sizes would count a
page several times. It is never less, though, and costs the kernel no walk over the pages: only where it is above the
peak so far can there be a new one.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

# A sample reads one small file for each process; ranks hold their peak for minutes, so this misses little.
SAMPLE_SECONDS = 3.0


class MemoryPeak:
    """Samples in a thread between `start` and `stop`; `peak_mb` is in 10^6 bytes."""

    def __init__(self, home: Path, so_far_mb: float) -> None:
        self.peak_mb = so_far_mb
        self._marker = str(home)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._ours: dict[tuple[int, float], bool] = {}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.peak_mb = max(self.peak_mb, self._now_mb())

    def _now_mb(self) -> float:
        ours = [process for process in psutil.process_iter() if self._is_ours(process)]
        resident = _sum_mb(ours, lambda process: process.memory_info().rss)
        return _sum_mb(ours, _proportional_bytes) if resident > self.peak_mb else resident

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            key = (process.pid, process.create_time())
            if key not in self._ours:
                self._ours[key] = process.pid == os.getpid() or process.environ().get("HEADRACE_HOME") == self._marker
        except (psutil.Error, OSError):
            return False
        return self._ours[key]


def _sum_mb(processes: Iterable[psutil.Process], num_bytes: Callable[[psutil.Process], int]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            total += num_bytes(process)
    return total / 1e6


def _proportional_bytes(process: psutil.Process) -> int:
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
