"""Real HTTP servers on this machine that answer chat completions as a test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Behaviour = Callable[["ChatServer", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class ChatServer:
    """One replica. `bodies`: what it was asked; `num_gone`: clients that went away before their answer."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.num_gone = 0
        self.num_probes = 0
        self.url = ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers.copy())
        try:
            return await self._behave(self, request, body)
        except asyncio.CancelledError:
            self.num_gone += 1
            raise

    async def models(self, request: web.Request) -> web.Response:
        self.num_probes += 1
        return web.json_response({"data": []})


@asynccontextmanager
async def serving(*behaviours: Behaviour) -> AsyncIterator[list[ChatServer]]:
    servers, runners = [], []
    try:
        for behave in behaviours:
            server = ChatServer(behave)
            app = web.Application()
            app.router.add_post("/v1/chat/completions", server.complete)
            app.router.add_get("/v1/models", server.models)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            servers.append(server)
        yield servers
    finally:
        for runner in runners:
            await runner.cleanup()


def event(text: str = "", reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}\n\n'
DONE = b"data: [DONE]\n\n"


def streaming(*parts: bytes, seconds_between: float = 0.0) -> Behaviour:
    """Sends the parts, whatever was asked for."""

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(seconds_between)
        await response.write_eof()
        return response

    return behave


def answering(text: str = "a wheel", *, reason: str = "stop") -> Behaviour:
    """As most servers do: a stream if asked for, a whole answer otherwise."""
    parts = (event(text[:2]), event(text[2:]), event(reason=reason), USAGE, DONE)

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body.get("stream"):
            return await streaming(*parts)(server, request, body)
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})

    return behave


def refusing(status: int, text: str = "no", **headers: str) -> Behaviour:
    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": text}}, status=status, headers=headers)

    return behave


def hanging() -> Behaviour:
    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits that long")

    return behave


def breaking(*parts: bytes) -> Behaviour:
    """Sends the parts, then drops the connection."""

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if parts:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for part in parts:
                await response.write(part)
            await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.abort()
        await asyncio.sleep(0.1)
        return web.Response()

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first for the first request, and so on; the last for all that follow."""

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await behaviours[min(len(server.bodies), len(behaviours)) - 1](server, request, body)

    return behave
