"""What a host costs: waking a model against a new process, a request through it, and copies of what models make.

Waking: a client asks a model that its host has let sleep (its process alive, its weights let go, the node's files in
the page cache), and one whose process has ended; both until the first answer. A request: a short chat through the host
and at the model's process itself, in turns. Copies: by how much the host's memory grows, at most, while a large answer
goes through it. On a GPU none of this was run.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.measuring import Bars, at_most, in_turns, median, print_table, progress, rounded
from benchmarks.parts import Options, Outcome
from benchmarks.residency import timed
from benchmarks.residency.hosts import EngineHost, engine_host, opened, with_entry_point, with_weights
from benchmarks.residency.members import member_of
from headrace.engines.asking import answer_of, made_of
from headrace.engines.base import Engine, Message, NoAnswer, Turn
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.client import HostedEngine, HostedMediaEngine
from headrace.engines.host.lines import BATCHES, CHAT, chat_request, media_lines
from headrace.engines.media import MediaTurn
from headrace.engines.ours import DIFFUSERS, ECHO, TRANSFORMERS
from headrace.store.local import LocalStore
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import Decoding
from simulation.tiny_model import build_tiny_model
from simulation.tiny_pipelines import build_pixel_pipeline

_ROUNDS, _NUM_REQUESTS, _LARGE_BYTES = 5, 300, 64 * 2**20
# A model sleeps after so long, and leaves after twice as long: time enough to ask it in between.
_IDLE_SECONDS = 3.0
_TURN = Turn(
    unit="benchmark",
    messages=(Message(role="user", content="Define the noun wheel."),),
    temperature=0.0,
    top_p=1.0,
    max_tokens=1,
    seed=7,
)
_DECODING = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=1)


def run(given: Options, directory: Path) -> Outcome:
    store = LocalStore(directory / "store")
    waking = _waking(store, directory)
    environment = with_entry_point(directory / "site-packages", "timed", "benchmarks.residency.timed:KIND")
    with engine_host(directory, store, memory_mib=8_000, environment=environment) as host:
        request = asyncio.run(_request_cost(host, store))
        copies = _copies(host, store)
    print_table(
        "A model that is asked again, seconds to its first answer",
        ["model", "new process", "asleep", "ratio"],
        [
            [name, *(f"{one[key]:.3g}" for key in ("new_seconds", "wake_seconds", "ratio"))]
            for name, one in waking.items()
        ],
    )
    print_table(
        "A short chat, ms at the median",
        ["", "ms"],
        [[name.replace("_", " "), f"{value:.3g}"] for name, value in request.items()],
        caption=f"The host's memory grows by {copies:.2f} times a medium's bytes while one goes through.",
    )
    bars: Bars = {
        "waking_ratio": at_most(max(one["ratio"] for one in waking.values()), 0.2),
        "host_request_ms": at_most(max(request["added_ms"], request["host_cpu_ms"]), 2.0),
        "host_media_copies": at_most(round(copies, 1), 1.0),
    }
    return Outcome(body={"waking": waking, "request": request, "media_copies": rounded(copies)}, bars=bars)


def _waking(store: LocalStore, directory: Path) -> dict[str, dict[str, float]]:
    picture = Picture(width=16, height=16, num_inference_steps=1)
    members = {
        "writer": with_weights(member_of("writer", decoding=_DECODING), store, build_tiny_model(directory / "writer")),
        "painter": with_weights(
            member_of("painter", picture=picture), store, build_pixel_pipeline(directory / "painter")
        ),
    }
    found: dict[str, dict[str, float]] = {}
    loop = LoopThread()
    with engine_host(directory, store, memory_mib=8_000, idle_seconds=_IDLE_SECONDS) as host:
        for name, kind in (("writer", TRANSFORMERS), ("painter", DIFFUSERS)):
            engine = opened(kind, members[name], store, host.deployment(), dtype="float32", batch_rows=1)
            ask = partial(_first_answer, engine)
            taken: dict[str, list[float]] = {"absent": [], "asleep": []}
            for run, state in in_turns(f"waking, {name}", _ROUNDS, ["asleep", "absent"], num_warm_ups=1):
                loop.run(ask())
                _wait_for(host, engine.resident, state)
                began = time.perf_counter()
                loop.run(ask())
                if run >= 0:
                    taken[state].append(time.perf_counter() - began)
            new, wake = median(taken["absent"]), median(taken["asleep"])
            found[name] = {"new_seconds": new, "wake_seconds": wake, "ratio": rounded(wake / new)}
            loop.run(engine.close())
    loop.close()
    return found


def _wait_for(host: EngineHost, key: str, state: str) -> None:
    while host.models[key].state != state:
        time.sleep(0.05)


async def _first_answer(engine: HostedEngine | HostedMediaEngine) -> None:
    if isinstance(engine, Engine):
        await answer_of(engine, _TURN)
        return
    [made] = await made_of(engine, [MediaTurn(unit="benchmark", text="wheel", seed=7)])
    if isinstance(made, NoAnswer):
        raise made


async def _request_cost(host: EngineHost, store: LocalStore) -> dict[str, float]:
    engine = opened(ECHO, member_of("echo", decoding=_DECODING), store, host.deployment())
    body = chat_request(_TURN, engine.resident, stream=False)
    [child] = host.address.socket_file.parent.glob("host.sock.[0-9]*")
    ways = {
        "host": (host.address.socket_file, f"http://host/models/{engine.resident}{CHAT}"),
        "process": (child, f"http://model{CHAT}"),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds = 0.0
    async with _sessions([file for file, _ in ways.values()]) as sessions:
        progress.print(f"a request: {_NUM_REQUESTS} each way")
        for number in range(-30, _NUM_REQUESTS):
            for session, (name, (_, url)) in zip(sessions, ways.items(), strict=True):
                before, began = _cpu_seconds(host), time.perf_counter()
                async with session.post(url, data=body) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                if number >= 0:
                    taken[name].append(1000 * (time.perf_counter() - began))
                    cpu_seconds += (_cpu_seconds(host) - before) if name == "host" else 0.0
    await engine.close()
    through, alone = median(taken["host"]), median(taken["process"])
    return {
        "through_the_host_ms": rounded(through),
        "at_the_process_ms": rounded(alone),
        "added_ms": rounded(through - alone),
        "host_cpu_ms": rounded(1000 * cpu_seconds / _NUM_REQUESTS),
    }


def _copies(host: EngineHost, store: LocalStore) -> float:
    """The most that the host's memory grew by, in sizes of what went through it."""
    member = member_of("large", picture=Picture(width=8, height=8))
    engine = opened(timed.KIND, member, store, host.deployment(), num_bytes=_LARGE_BYTES)
    body = media_lines([MediaTurn(unit="a", text="a", seed=1)], engine.resident, is_speech=False)
    found: list[float] = []

    async def ask() -> None:
        url = f"http://host/models/{engine.resident}{BATCHES}"
        async with _sessions([host.address.socket_file]) as [session], session.post(url, data=body) as answer:
            num_bytes = sum([len(part) async for part, _ in answer.content.iter_chunks()])
        assert num_bytes > _LARGE_BYTES

    for _ in range(3):
        # From here on the kernel counts the highest anew.
        Path(f"/proc/{host.process.pid}/clear_refs").write_text("5")
        before = _memory_bytes(host, "VmRSS")
        asyncio.run(ask())
        found.append((_memory_bytes(host, "VmHWM") - before) / _LARGE_BYTES)
    # The first grows by what later ones find there.
    return max(found)


@asynccontextmanager
async def _sessions(files: list[Path]) -> AsyncIterator[list[aiohttp.ClientSession]]:
    async with AsyncExitStack() as stack:
        connectors = [aiohttp.UnixConnector(path=str(file)) for file in files]
        yield [await stack.enter_async_context(aiohttp.ClientSession(connector=one)) for one in connectors]


def _cpu_seconds(host: EngineHost) -> float:
    # In nanoseconds, where times of `stat` are hundredths.
    return int(Path(f"/proc/{host.process.pid}/schedstat").read_text().split()[0]) / 1e9


def _memory_bytes(host: EngineHost, field: str) -> int:
    lines = Path(f"/proc/{host.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024
