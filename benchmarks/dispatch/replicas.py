"""Four replicas as processes, and what befalls them: one is slow, one stops for a while, one is killed."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from simulation.servers.paced import Pace

NUM_REPLICAS = 4
_START_SECONDS_MAX = 30.0


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Seconds after the round's start. The roles are dealt to the replicas by the round's seed."""

    slowness: float = 4.0
    stall_at: float = 3.0
    stall_seconds: float = 3.0
    crash_at: float = 7.5
    away_seconds: float = 2.0


class Replicas:
    """The replicas of one round. The same seed gives the same replica the same fate."""

    def __init__(self, directory: Path, ports: Sequence[int], *, seed: int, faults: Faults) -> None:
        """Args: ports: as many as replicas."""
        self._directory = directory
        self._faults = faults
        self._ports = ports
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        self._slow, self._stalled, self._crashed = random.Random(f"fates {seed}").sample(range(NUM_REPLICAS), 3)
        self._processes = [self._started(index) for index in range(NUM_REPLICAS)]

    async def until_ready(self) -> None:
        await asyncio.gather(*(until_answers(f"{url}/health", self._processes) for url in self.urls))

    async def befall(self, started_at: float) -> None:
        """All faults, each at its time."""
        await asyncio.gather(self._stall(started_at), self._crash(started_at))

    def counted(self, what: str) -> Counter[str]:
        """How often each unit has `began`, or `ended`, over all replicas and their lives."""
        return Counter(unit for _, (said, unit, _) in self._lines() if said == what)

    def history(self, unit: str, started_at: float) -> str:
        """What the replicas say of one unit, with the seconds of the round."""
        fates = {self._slow: "slow", self._stalled: "stalling", self._crashed: "crashing"}
        return "; ".join(
            f"{float(moment) - started_at:.3f} {said} by the {fates.get(index, 'healthy')} one"
            for index, (said, one, moment) in sorted(self._lines(), key=lambda line: line[1][2])
            if one == unit
        )

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    async def _stall(self, started_at: float) -> None:
        await _until(started_at + self._faults.stall_at)
        process = self._processes[self._stalled]
        # The kernel still takes connections and requests; nobody reads them.
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._faults.stall_seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def _crash(self, started_at: float) -> None:
        await _until(started_at + self._faults.crash_at)
        self._processes[self._crashed].kill()
        self._processes[self._crashed].wait()
        await asyncio.sleep(self._faults.away_seconds)
        self._processes[self._crashed] = self._started(self._crashed)

    def _started(self, index: int) -> subprocess.Popen[bytes]:
        slowness = self._faults.slowness if index == self._slow else 1.0
        pace = Pace(
            port=self._ports[index],
            log=str(self._log(index)),
            # A connection that is closed while it is asked over is another benchmark.
            idle_seconds_max=75.0,
            num_slots=8,
            slowness=slowness,
        )
        command = [sys.executable, "-m", "simulation.servers.paced", json.dumps(asdict(pace))]
        # Routers that try HTTP/2 first make it complain.
        with (self._directory / f"replica-{index}.err").open("ab") as errors:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=errors, stderr=errors)

    def _log(self, index: int) -> Path:
        return self._directory / f"replica-{index}.log"

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Replica and the words of a line: began, ended or given_up, the unit, the moment."""
        for index in range(NUM_REPLICAS):
            for line in self._log(index).read_text().splitlines() if self._log(index).exists() else ():
                yield index, line.split(" ")


async def until_answers(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Raises: RuntimeError: a process ended, or nothing answers in time."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
        for _ in range(int(_START_SECONDS_MAX / 0.1)):
            try:
                async with session.get(url) as response:
                    if response.status < 500:
                        return
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            if any(process.poll() is not None for process in processes):
                break
            await asyncio.sleep(0.1)
    codes = [process.poll() for process in processes]
    raise RuntimeError(f"{url} did not answer within {_START_SECONDS_MAX:.0f} s; exit codes {codes}.")


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
