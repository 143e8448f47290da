"""Live work and bulk work at one host: who goes first, what is kept, and how a model sleeps and wakes."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from headrace.engines.asker import Asker
from headrace.engines.asking import answer_of, answers_of, close
from headrace.engines.conformance import opened, turn
from headrace.engines.event_loop import LoopThread
from headrace.engines.host.floor import Floor
from headrace.engines.host.residents import Residents
from headrace.engines.host.supervisor import Supervisor
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from tests.engines.host.hosts import RunningHost, running_host, stopped
from tests.generation.builders import make_member
from tests.waiting import eventually

pytestmark = pytest.mark.process
LABEL = "model 1 (echo)"


def test_live_work_passes_bulk_work_that_waits_for_a_model_that_is_kept(loop: LoopThread) -> None:
    with running_host("--memory-mib", "1000") as host:
        bulk = opened("echo", deployment=host.deployment())
        live = opened("echo", deployment=replace(host.deployment(), asker=Asker(work_class="live")))
        floor = Floor(address_of(host))
        floor.hold({host.models[LABEL].id})
        keeping = asyncio.run_coroutine_threadsafe(floor.run(), loop_of(loop))
        eventually(lambda: host.models[LABEL].is_kept, "the floor is told")
        pid = host.models[LABEL].pid
        assert pid
        with ThreadPoolExecutor(4) as threads:
            with stopped(pid):
                batches = [threads.submit(loop.run, answers_of(bulk, [turn(seed=seed)] * 2)) for seed in range(3)]
                eventually(lambda: host.models[LABEL].waiting == 2, "one batch is with the model, two give way")
                asked = threads.submit(loop.run, answer_of(live, turn(seed=9)))
                eventually(lambda: host.models[LABEL].at_work_by_class["live"] == 1, "the live turn is with the model")
                row = host.models[LABEL]
                assert (row.at_work, row.waiting) == (2, 2)
            assert asked.result().text
            assert all(len(batch.result()) == 2 for batch in batches)
        keeping.cancel()
        eventually(lambda: not host.models[LABEL].is_kept, "the floor is gone")
        for one in (bulk, live):
            loop.run(close(one))


def test_a_class_of_work_that_is_none_is_refused(host: RunningHost, loop: LoopThread) -> None:
    engine = opened("echo", deployment=host.deployment())

    async def refused() -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(path=str(host.socket_file))
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"http://host/models/{engine.resident}/v1/batches"
            async with session.post(url, headers={"X-Headrace-Class": "urgent"}) as answer:
                return answer.status, await answer.json()

    status, body = loop.run(refused())
    assert (status, body["error"]["message"]) == (
        400,
        "X-Headrace-Class must be live, flex or batch, got 'urgent': leave it out for batch work.",
    )
    loop.run(close(engine))


def test_a_floor_that_is_not_renewed_ends(tmp_path: Path, loop: LoopThread) -> None:
    """As of a gateway that was stopped: its connection stays, and no line comes."""
    table = Residents(time.monotonic, {"cpu": 100}, idle_seconds=1000)
    table.know("a", places=("cpu",), label="a", guess_mib=10)
    seen: list[bool] = []

    async def lines() -> AsyncIterator[bytes]:
        yield b'{"keys": ["a", "unknown"]}\n'
        while not table.is_kept("a"):
            await asyncio.sleep(0.01)
        seen.append(True)
        await asyncio.Event().wait()

    async def held_once() -> int:
        runner = web.AppRunner(Supervisor(table, tmp_path / "host.sock", floor_seconds=0.5).app())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            url = f"{url_of(runner)}/floor"
            async with aiohttp.ClientSession() as session, session.post(url, data=lines()) as told:
                return told.status
        finally:
            await runner.cleanup()

    assert loop.run(held_once()) == 200, "the host ends it"
    assert (seen, table.is_kept("a")) == ([True], False)


def url_of(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


def test_a_model_that_nobody_asks_for_sleeps_gives_its_memory_back_and_wakes_with_the_same_answers(
    tiny_model: Path, tmp_path: Path, loop: LoopThread
) -> None:
    objects = LocalStore(tmp_path)
    sealed = seal_directory(objects, tiny_model)
    member = replace(make_member(), weights_digest=sealed.digest, weights_uri=sealed.uri)
    turns = [turn(seed=seed) for seed in range(3)]
    with running_host("--memory-mib", "3000", "--idle-seconds", "1") as host:
        engine = opened(
            "transformers", objects=objects, member=member, deployment=host.deployment(objects), dtype="float32"
        )
        awake = loop.run(answers_of(engine, turns))
        eventually(lambda: host.table.data[0].state == "asleep", "it sleeps")
        [asleep] = host.table.data
        assert asleep.pid
        assert loop.run(answers_of(engine, turns)) == awake
        [again] = host.table.data
        assert (again.pid, again.loads) == (asleep.pid, 1), "the same process"
        assert again.wake_seconds
        loop.run(close(engine))


def address_of(host: RunningHost) -> Any:
    address = host.deployment().host
    assert address
    return address


def loop_of(thread: LoopThread) -> asyncio.AbstractEventLoop:
    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    return thread.run(running())
