"""A round: some systems at once, each before replicas of its own, with the same requests and the same faults."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.dispatch.peers import OURS, Router, Running
from benchmarks.dispatch.replicas import NUM_REPLICAS, Faults, Replicas, until_answers
from benchmarks.dispatch.workload import Arrival
from benchmarks.measuring import progress
from pipelines.object_store import free_ports

CLIENT_SECONDS_MAX = 30.0
_TOKEN = "abc "
# Every turn states the same limit: nobody is told an answer's length beforehand.
NUM_TOKENS_MAX = 1024
_NUM_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One system in one round. Seconds."""

    latencies: tuple[float, ...]
    num_lost: int
    num_doubled: int
    num_repeated: int
    cpu_seconds: float

    def quantile(self, share: float) -> float:
        ranked = sorted(self.latencies)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def run_round(
    systems: Sequence[tuple[Router, str]], arrivals: Sequence[Arrival], directory: Path, *, seed: int
) -> list[Outcome]:
    """Raises: RuntimeError: a system did not start."""
    for _ in range(_NUM_TRIES - 1):
        try:
            return asyncio.run(_round(systems, arrivals, directory, seed))
        except RuntimeError as error:
            # A port that was free may be some connection's before the process that was to have it has started.
            progress.print(f"once more: {error}", markup=False)
    return asyncio.run(_round(systems, arrivals, directory, seed))


async def _round(
    systems: Sequence[tuple[Router, str]], arrivals: Sequence[Arrival], directory: Path, seed: int
) -> list[Outcome]:
    ports = free_ports(len(systems) * (NUM_REPLICAS + 1))
    ready = _Ready(len(systems))
    runs = []
    try:
        async with asyncio.TaskGroup() as group:
            for system in systems:
                its_ports = [ports.pop() for _ in range(NUM_REPLICAS + 1)]
                its_directory = Path(tempfile.mkdtemp(dir=directory))
                runs.append(group.create_task(_run(system, arrivals, its_directory, its_ports, seed, ready)))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [run.result() for run in runs]


class _Ready:
    """All systems are up, so that none is measured while another starts."""

    def __init__(self, num_systems: int) -> None:
        self._num_missing = num_systems
        self._all = asyncio.Event()

    async def wait(self) -> None:
        self._num_missing -= 1
        if not self._num_missing:
            self._all.set()
        await self._all.wait()


async def _run(
    system: tuple[Router, str],
    arrivals: Sequence[Arrival],
    directory: Path,
    ports: Sequence[int],
    seed: int,
    ready: _Ready,
) -> Outcome:
    router, program = system
    site = Replicas(directory, ports[1:], seed=seed, faults=Faults())
    running = None
    try:
        await site.until_ready()
        running = Running(router, program, directory, ports[0], site.urls)
        try:
            await until_answers(running.url + router.health_path, [running.process])
            if router.needs_turns:
                await _until_routed(running.url)
        except RuntimeError as error:
            log = running.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{router.name} did not start: {error}\n{log}") from error
        await ready.wait()
        return await _measured(running, site, arrivals)
    finally:
        if running is not None:
            running.close()
        site.close()


async def _measured(running: Running, site: Replicas, arrivals: Sequence[Arrival]) -> Outcome:
    cpu_seconds = running.cpu_seconds()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        started_at = asyncio.get_running_loop().time() + 0.1
        faults = asyncio.create_task(site.befall(started_at))
        latencies = await asyncio.gather(*(_client(session, running.url, one, started_at) for one in arrivals))
        await faults
        # A turn that goes on at a replica though its client has the answer would be completed now.
        await asyncio.sleep(0.5)
    done, begun = site.counted("ended"), site.counted("began")
    units = [arrival.unit for arrival in arrivals]
    if running.name == OURS.name:
        for unit in units:
            if done[unit] > 1:
                progress.print(f"doubled: {site.history(unit, started_at)}")
    return Outcome(
        latencies=tuple(CLIENT_SECONDS_MAX if latency is None else latency for latency in latencies),
        num_lost=sum(latency is None for latency in latencies),
        num_doubled=sum(done[unit] > 1 for unit in units),
        num_repeated=sum(begun[unit] > 1 for unit in units),
        cpu_seconds=running.cpu_seconds() - cpu_seconds,
    )


async def _client(session: aiohttp.ClientSession, url: str, arrival: Arrival, started_at: float) -> float | None:
    """Seconds from the intended sending to the whole answer; None: there was none, or another's."""
    loop = asyncio.get_running_loop()
    due = started_at + arrival.at
    await asyncio.sleep(max(0.0, due - loop.time()))
    try:
        async with asyncio.timeout_at(due + CLIENT_SECONDS_MAX):
            status, body = await _asked(session, url, arrival)
        text = body["choices"][0]["message"]["content"] if status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError):
        return None
    right = text.startswith(f"unit={arrival.unit} ") and text.count("abc") == max(1, arrival.num_output_tokens)
    return loop.time() - due if right else None


async def _asked(session: aiohttp.ClientSession, url: str, arrival: Arrival) -> tuple[int, dict]:
    text = f"unit={arrival.unit} prompt={arrival.num_prompt_tokens} output={arrival.num_output_tokens}"
    messages = [{"role": "system", "content": _TOKEN * arrival.num_prompt_tokens}, {"role": "user", "content": text}]
    body = {"model": "served", "messages": messages, "max_tokens": NUM_TOKENS_MAX}
    headers = {"X-Request-Id": arrival.unit, "Authorization": "Bearer none"}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def _until_routed(url: str) -> None:
    """Until a turn comes through."""
    async with aiohttp.ClientSession() as session:
        for number in range(100):
            one = Arrival(unit=f"warm-{number}", at=0.0, num_prompt_tokens=10, num_output_tokens=1)
            try:
                async with asyncio.timeout(2.0):
                    status, _ = await _asked(session, url, one)
                if status == 200:
                    return
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                pass
            await asyncio.sleep(0.2)
    raise RuntimeError("no turn came through")
