"""Six small painters, of which three fit, asked by Zipf's law: a host beside Ray Serve's multiplexing and plain LRU.

Eight clients ask without a pause, each for the next model of one drawn list, so that the order is the same for all
sides; sides run in turns, each a run of its own processes, in which each model makes one picture before the clock
starts. A switch is a model that comes to memory, or wakes. The peers hold three models in one process, and paint with
two of them at once, so that both cores work for them, too. The host's account is what three whole models awake and
three asleep hold, measured before, with libraries counted once, as they are in one process: no fourth whole one fits.
Of the host's processes the memory is looked at twice a second, what they share counted once.
"""

import asyncio
import json
import socket
import sysconfig
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.measuring import (
    Bars,
    Child,
    at_least,
    at_most,
    in_turns,
    median,
    print_table,
    progress,
    require_peers,
    rounded,
)
from benchmarks.parts import Outcome
from benchmarks.residency.given import Given
from benchmarks.residency.hosts import EngineHost, engine_host, opened, with_weights
from benchmarks.residency.members import member_of
from benchmarks.residency.six_models import NAMES, NUM_FIT, PICTURE, build_models, drawn
from headrace.engines.asking import close, medium_of
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaTurn
from headrace.engines.ours import DIFFUSERS
from headrace.store.local import LocalStore
from headrace.this_machine import held_by
from headrace.version_sets.sets import Member
from pipelines.setup import RAY_AND_DAFT

_NUM_CLIENTS = 8
# Each look costs milliseconds of the two cores.
_SAMPLE_SECONDS = 0.5
# What a process holds varies by a little each time that it comes.
_SLACK = 1.05
_ROOT = Path(__file__).parents[2]
Make = Callable[[str, int], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Of one side, once. Latencies in seconds."""

    latencies: list[float]
    seconds: float
    switches: int
    num_samples: int = 0
    num_over: int = 0

    @property
    def requests_a_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[-(-99 * len(self.latencies) // 100) - 1]


def run(given: Given, directory: Path) -> Outcome:
    require_peers({"ray": RAY_AND_DAFT / "bin/ray"})
    models = build_models(directory / "models")
    store = LocalStore(directory / "store")
    members = {name: with_weights(member_of(name, picture=PICTURE), store, path) for name, path in models.items()}
    account = _account_mib(store, members, directory)
    sides: dict[str, Callable[[list[str]], Run]] = {
        "host": lambda asked: _host_run(store, members, directory, account, asked),
        "ray": lambda asked: _peer_run("ray", directory, asked),
        "lru": lambda asked: _peer_run("lru", directory, asked),
    }
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for round_, side in in_turns("six models", given.rounds, list(sides)):
        runs[side].append(sides[side](drawn(given.requests, seed=round_)))
    return _outcome(runs, account)


def _outcome(runs: Mapping[str, list[Run]], account: int) -> Outcome:
    body: dict[str, Any] = {
        name: {
            "switches": median(one.switches for one in some),
            "requests_a_second": rounded(median(one.requests_a_second for one in some)),
            "p99_seconds": rounded(median(one.p99 for one in some)),
        }
        for name, some in runs.items()
    }
    host, peers = body["host"], [body["ray"], body["lru"]]
    num_over = sum(one.num_over for one in runs["host"])
    body |= {"account_mib": account, "num_samples": sum(one.num_samples for one in runs["host"])}
    print_table(
        f"Six models, three fit, {_NUM_CLIENTS} clients",
        ["side", "switches", "requests/s", "p99, s"],
        [[name, *(f"{value:.3g}" for value in body[name].values())] for name in runs],
        caption=f"Over the host's account of {account:,} MiB in {num_over} of {body['num_samples']} samples.",
    )
    bars: Bars = {
        "real_switches": at_most(rounded(host["switches"] / min(one["switches"] for one in peers)), 0.5),
        "real_requests_a_second": at_least(
            rounded(host["requests_a_second"] / max(one["requests_a_second"] for one in peers)), 1.5
        ),
        "real_p99": at_most(rounded(host["p99_seconds"] / min(one["p99_seconds"] for one in peers)), 0.6),
        "real_samples_over_account": at_most(num_over, 0),
    }
    return Outcome(body=body, bars=bars)


async def _asked(make: Make, models: list[str]) -> tuple[list[float], float]:
    """Seconds of each request, and of all together."""
    waiting, latencies = iter(enumerate(models)), list[float]()

    async def client() -> None:
        for number, model in waiting:
            began = time.perf_counter()
            await make(model, number)
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(_NUM_CLIENTS)))
    return latencies, time.perf_counter() - began


# --- the host ---


def _account_mib(store: LocalStore, members: Mapping[str, Member], directory: Path) -> int:
    """Of three models awake and three asleep, and the libraries that all of them map."""
    name, loop = NAMES[0], LoopThread()
    with engine_host(directory, store, memory_mib=16_000, idle_seconds=3.0) as host:
        engine = _opened(members[name], store, host)
        loop.run(medium_of(engine, members[name], MediaTurn(unit="first", text="a mill wheel", seed=1)))
        [row] = host.models.values()
        assert row.pid, "it is there"
        awake = held_by([row.pid])
        # While it has a client, the host stays.
        while next(iter(host.models.values())).state != "asleep":
            time.sleep(0.05)
        asleep = held_by([row.pid])
        loop.run(close(engine))
    loop.close()
    libraries = sum(asleep.files.values())
    progress.print(
        f"a model holds {awake.own_mib} MiB and files of {awake.mib - awake.own_mib} awake, {asleep.own_mib} and files "
        f"of {libraries} asleep"
    )
    own = NUM_FIT * (awake.mib - libraries) + (len(NAMES) - NUM_FIT) * asleep.own_mib
    return libraries + int(_SLACK * own) + 16 * len(NAMES)


def _host_run(
    store: LocalStore, members: Mapping[str, Member], directory: Path, account: int, models: list[str]
) -> Run:
    with engine_host(directory, store, memory_mib=account) as host:
        engines = {name: _opened(member, store, host) for name, member in members.items()}

        async def make(model: str, number: int) -> object:
            return await medium_of(
                engines[model], members[model], MediaTurn(unit=str(number), text="a mill wheel", seed=number)
            )

        async def all_of_them() -> tuple[list[float], float, int]:
            for number, name in enumerate(NAMES):
                await make(name, number)
            before = _switches(host)
            latencies, seconds = await _asked(make, models)
            switches = _switches(host) - before
            for engine in engines.values():
                await close(engine)
            return latencies, seconds, switches

        with _sampled(host, account) as samples:
            latencies, seconds, switches = asyncio.run(all_of_them())
        return Run(
            latencies=latencies,
            seconds=seconds,
            switches=switches,
            num_samples=len(samples),
            num_over=sum(samples),
        )


def _opened(member: Member, store: LocalStore, host: EngineHost) -> Any:
    return opened(DIFFUSERS, member, store, host.deployment(), dtype="float32", batch_rows=1)


def _switches(host: EngineHost) -> int:
    return sum(row.loads + row.wakes for row in host.models.values())


@contextmanager
def _sampled(host: EngineHost, account: int) -> Iterator[list[bool]]:
    """Whether the models' processes held more than the account, again and again while the block runs."""
    samples, ended = list[bool](), threading.Event()

    def look() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            held = held_by(child.pid for child in host.process.children(recursive=True))
            samples.append(held.mib > account)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield samples
    finally:
        ended.set()
        looking.join()


# --- its peers ---


def _peer_run(peer: str, directory: Path, models: list[str]) -> Run:
    child, port = _started(peer, directory)
    try:

        async def asked() -> tuple[list[float], float, int]:
            async with _session(port) as session:

                async def make(model: str, number: int) -> object:
                    async with session.post(
                        "/make",
                        json={"model": model, "seed": number},
                        headers={"serve_multiplexed_model_id": model},
                    ) as answer:
                        assert answer.status == 200, await answer.text()
                        return await answer.read()

                for number, name in enumerate(NAMES):
                    await make(name, number)
                before = await _loads(session)
                latencies, seconds = await _asked(make, models)
                return latencies, seconds, await _loads(session) - before

        latencies, seconds, switches = asyncio.run(asked())
        return Run(latencies=latencies, seconds=seconds, switches=switches)
    finally:
        child.end()


def _started(peer: str, directory: Path) -> tuple[Child, int]:
    task = {"directory": str(directory / "models"), "num_fit": NUM_FIT}
    if peer == "lru":
        child = Child("benchmarks.residency.lru_side", task)
    else:
        packages = [str(_ROOT), sysconfig.get_paths()["purelib"]]
        task |= {"packages": packages, "port": _free_port(), "scratch": str(directory / "ray")}
        child = Child(
            "benchmarks.residency.ray_side",
            task,
            environment={"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"},
            interpreter=RAY_AND_DAFT / "bin/python",
        )
    said = child.wait_for("ready")
    return child, json.loads(said[-1])["port"]


async def _loads(session: aiohttp.ClientSession) -> int:
    async with session.get("/loads") as answer:
        return (await answer.json())["loads"]


@asynccontextmanager
async def _session(port: int) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600)
    ) as session:
        yield session


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
