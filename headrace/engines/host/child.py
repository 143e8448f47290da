"""`python -m headrace.engines.host.child`: the process of one model. A host starts it; people do not.

It reads what it is to open from its standard input, opens it, says on its standard output in one line of JSON whether
it could, and then answers on the listening socket that it inherited. Told to sleep, it closes the model and lives on
without it: what took longest, the imports of its libraries, stays. What its engine prints goes to the host's log. It
dies with its host, however that ends.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from headrace.cycles import look_for_cycles_rarely
from headrace.engines.asker import asking_for
from headrace.engines.asking import answer_of, answers_of, close, made_of, pieces_of
from headrace.engines.base import Engine, EngineFailed, LoadedModel
from headrace.engines.deployment import Deployment
from headrace.engines.host.asker_headers import asker_in
from headrace.engines.host.edge import LEAVE_SECONDS, REQUEST_BYTES_MAX, Handler, telling
from headrace.engines.host.lines import (
    BATCHES,
    CHAT,
    CHAT_BODY,
    DONE,
    SLEEP,
    WAKE,
    completion,
    error_event,
    event,
    media_turns_in,
    outcome_lines,
    turns_in,
)
from headrace.engines.host.outcomes import error_body, unforeseen
from headrace.engines.host.wanted import WANTED, Facts, Wanted, code_of
from headrace.engines.media import MediaEngine
from headrace.engines.registry import engine_kind, open_engine, open_media_engine
from headrace.errors import EngineUnavailable, HeadraceError, InvalidInput
from headrace.parent_death import die_with_parent, keep_orphans
from headrace.store.opening import open_store

LINES = "application/jsonl"
T = TypeVar("T")


def opened(wanted: Wanted) -> LoadedModel:
    """The engine, loaded.

    Raises: HeadraceError: it cannot be.
    """
    store = wanted.store
    objects = open_store(store.url, cache=Path(store.cache) if store.cache else None, cache_bytes=store.cache_bytes)
    try:
        kind = engine_kind(wanted.engine.name)
        if (build := kind.build) != wanted.build:
            raise EngineUnavailable(
                f"{wanted.label} was asked for with {wanted.build}, and this host has {build}: packages were changed "
                "meanwhile. Start the run again."
            )
        if code_of(kind.open.__module__) != wanted.code:
            # Its bytes would be another model's, under this one's name.
            raise EngineUnavailable(
                f"{wanted.label} was asked for with other code of {kind.open.__module__} than this host finds: it was "
                "edited meanwhile, or the host was started with another PYTHONPATH or interpreter. Start the run "
                "again; if that does not help, end the host."
            )
        opening = open_engine if wanted.member.kind == "text" else open_media_engine
        return opening(wanted.member, wanted.engine, objects, Deployment())
    except HeadraceError:
        raise
    except Exception as error:  # whatever a library raises is told to who asked
        raise unforeseen(error) from error


def facts_of(engine: LoadedModel) -> Facts:
    return Facts(
        num_at_once=engine.num_at_once,
        computes_on_cpu=bool(engine.computes_on_cpu),
        mixes_rows=bool(engine.mixes_rows),
        deterministic=bool(engine.deterministic),
        can_sleep=bool(engine.can_sleep),
    )


class Answering:
    """An opened engine as a server of OpenAI's protocol."""

    def __init__(self, engine: LoadedModel, wanted: Wanted) -> None:
        self._opened: LoadedModel | None = engine
        self._wanted, self._model = wanted, wanted.key

    def app(self) -> web.Application:
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_post(CHAT, telling(_asked_for(self._chat)))
        app.router.add_post(BATCHES, telling(_asked_for(self._batch)))
        app.router.add_post(SLEEP, telling(self._sleep))
        app.router.add_post(WAKE, telling(self._wake))
        return app

    @property
    def facts(self) -> Facts:
        return facts_of(self._engine)

    async def close(self) -> None:
        """Frees the model, if it is there."""
        engine, self._opened = self._opened, None
        if engine is not None:
            await close(engine)

    async def _sleep(self, request: web.Request) -> web.StreamResponse:
        if not await self._engine.sleep():
            await self.close()
            give_back_memory()
        return web.json_response({})

    async def _wake(self, request: web.Request) -> web.StreamResponse:
        if self._opened is None:
            # In a thread: the event loop answers meanwhile, as it does in a gateway that loads.
            self._opened = await asyncio.to_thread(opened, self._wanted)
        else:
            await self._opened.wake()
        return web.json_response({})

    @property
    def _engine(self) -> LoadedModel:
        """Raises: EngineFailed: the model sleeps, and nobody has woken it."""
        if self._opened is None:
            raise EngineFailed(f"{self._wanted.label} is asleep.", may_be_the_turn=False)
        return self._opened

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        engine = self._writer()
        asked = _checked(CHAT_BODY.checked, await request.read())
        turn = asked.turn(request.headers.get("X-Request-Id", "")[:200])
        if not asked.stream:
            return web.json_response(completion(await answer_of(engine, turn), self._model))
        response: web.StreamResponse | None = None
        try:
            async with aclosing(pieces_of(engine, turn)) as pieces:
                async for piece in pieces:
                    if response is None:
                        # Now only: before the first piece, a refusal has its own status.
                        response = await _events(request)
                    await response.write(event(piece, self._model))
        except HeadraceError as error:
            if response is None:
                raise
            await response.write(error_event(error))
            return response
        response = response or await _events(request)
        await response.write(DONE)
        return response

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        engine = self._engine
        if isinstance(engine, MediaEngine):
            media = _checked(media_turns_in, raw)
            units = [one.unit for one in media]
            outcomes = await made_of(engine, media, is_live=asker_in(request.headers).is_live)
        else:
            turns = _checked(turns_in, raw)
            units, outcomes = [one.unit for one in turns], await answers_of(self._writer(), turns)
        parts = outcome_lines(units, outcomes, self._model)
        response = web.StreamResponse(headers={"Content-Type": LINES})
        response.content_length = sum(map(len, parts))
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    def _writer(self) -> Engine:
        """Raises: InvalidInput: the engine writes nothing."""
        engine = self._engine
        if not isinstance(engine, Engine):
            raise InvalidInput("This model paints or speaks: ask it for a batch.")
        return engine


def give_back_memory() -> None:
    """To the system, what is free in this process: an allocator keeps it else."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # another C library has no such call
        trim(0)


async def serve(answering: Answering, listener: socket.socket) -> None:
    """Answers until SIGTERM."""
    runner = web.AppRunner(answering.app(), access_log=None, handler_cancellation=True, shutdown_timeout=LEAVE_SECONDS)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    await runner.cleanup()
    with suppress(Exception):
        await answering.close()


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    # What a daemon of the engine's holds is the model's.
    keep_orphans()
    # Ctrl-C in a terminal is the host's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report = os.fdopen(os.dup(1), "wb")
    # What a library prints is no report.
    os.dup2(2, 1)
    look_for_cycles_rarely()
    listener = socket.socket(fileno=int(sys.argv[2]))
    wanted = WANTED.checked(sys.stdin.buffer.read())
    try:
        # Its only reference: another one would keep the weights of a model that sleeps.
        answering = Answering(opened(wanted), wanted)
        said = {"facts": asdict(answering.facts)}
    except HeadraceError as error:
        answering, said = None, error_body(error)
    report.write(json.dumps(said).encode() + b"\n")
    report.close()
    if answering is not None:
        asyncio.run(serve(answering, listener))
    sys.stderr.flush()
    # Libraries take seconds to tear down what the kernel frees at once.
    os._exit(0 if answering is not None else 1)


def _asked_for(handler: Handler) -> Handler:
    """The handler, whose engine knows for whom it is asked."""

    async def handled(request: web.Request) -> web.StreamResponse:
        with asking_for(asker_in(request.headers)):
            return await handler(request)

    return handled


async def _events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


def _checked(read: Callable[[bytes], T], raw: bytes) -> T:
    """Raises: EngineFailed: it is no request of ours."""
    try:
        return read(raw)
    except ValueError as error:
        raise EngineFailed(f"The engine host was asked what it cannot read: {error}.", may_be_the_turn=False) from None


if __name__ == "__main__":
    main()
