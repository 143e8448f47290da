"""A model's process from its host's side: told to end at any moment, asked once it has ended, and how it opens."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from headrace.engines.event_loop import LoopThread
from headrace.engines.host.child import opened
from headrace.engines.host.child_process import ChildProcess
from headrace.engines.host.wanted import Wanted, code_of
from headrace.engines.registry import engine_kind
from headrace.errors import EngineUnavailable
from tests.engines.host.test_wanted import make_wanted
from tests.generation.builders import make_member


@pytest.fixture
def echo() -> Wanted:
    kind = engine_kind("echo")
    return make_wanted(
        member=make_member(weights_digest="", weights_uri=""),
        engine=kind.spec(kind.options()),
        build=kind.build,
        code=code_of(kind.open.__module__),
    )


@asynccontextmanager
async def made(wanted: Wanted, directory: Path, **changes: float) -> AsyncIterator[ChildProcess]:
    child = ChildProcess(wanted, wanted.place, directory / "model.sock", **changes)
    try:
        yield child
    finally:
        await child.stop(at_once=True)
        await child.ended()


@pytest.mark.process
@pytest.mark.parametrize("num_turns_of_the_loop", [0, 1, 2])
def test_a_process_that_is_told_to_end_while_it_is_made_ends(
    echo: Wanted, tmp_path: Path, loop: LoopThread, num_turns_of_the_loop: int
) -> None:
    async def told() -> None:
        async with made(echo, tmp_path) as child:
            opening = asyncio.create_task(child.opened())
            for _ in range(num_turns_of_the_loop):
                await asyncio.sleep(0)
            await child.stop(at_once=True)
            with pytest.raises(EngineUnavailable, match="ended while it loaded"):
                await opening
            assert await child.ended() == "SIGKILL"

    loop.run(told())


@pytest.mark.process
def test_a_process_that_has_ended_is_lost_to_who_asks_it(echo: Wanted, tmp_path: Path, loop: LoopThread) -> None:
    async def asked() -> None:
        async with made(echo, tmp_path) as child:
            await child.opened()
            # Its session is made by the first request.
            assert not child.session.closed
            await child.stop(at_once=True)
            await child.ended()
            with pytest.raises(aiohttp.ClientConnectionError, match="it has ended"):
                child.session.post("http://model/")

    loop.run(asked())


@pytest.mark.process
def test_a_process_that_does_not_free_its_model_in_time_is_told(echo: Wanted, tmp_path: Path, loop: LoopThread) -> None:
    async def slept() -> None:
        async with made(echo, tmp_path, sleep_seconds_max=0.5) as child:
            await child.opened()
            os.kill(child.pid, signal.SIGSTOP)
            with pytest.raises(EngineUnavailable, match="it has not freed its model within 0.5 s"):
                await child.sleep()

    loop.run(slept())


def test_an_engine_is_opened_only_by_the_code_that_was_asked_for(echo: Wanted) -> None:
    opened(echo)
    with pytest.raises(EngineUnavailable, match="asked for with other code of headrace"):
        opened(replace(echo, code="0" * 64))
