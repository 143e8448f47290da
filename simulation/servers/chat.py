"""OpenAI-compatible servers in this process that answer as told: well, late, never, or with any bytes.

They also send what no HTTP library would. `serving` runs them in the caller's event loop, `served` one in a thread.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

from simulation.servers.threads import in_a_thread

Behaviour = Callable[["ChatServer", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
# What is asked (`asked_of`), and how often it was asked before → the bytes of the whole HTTP answer.
Answers = Callable[[str, int], bytes | Iterable[bytes]]
# Bulk generation's control turn, which tests whether a server answers at all.
CONTROL = "Say one word."
_POSTS = ("chat/completions", "embeddings", "images/generations", "audio/speech")


class ChatServer:
    """One replica. `bodies`, `headers`: its requests; `num_gone`: clients that left before their answer.

    `files`: path → the bytes of the whole HTTP answer to a GET; `fetched`: the paths that were asked for, with headers.
    """

    def __init__(self, behave: Behaviour) -> None:
        # May be changed between requests.
        self.behave = behave
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.num_gone = 0
        self.num_probes = 0
        self.models_body: dict[str, Any] = {"data": []}
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.fetched: list[tuple[str, Mapping[str, str]]] = []

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers.copy())
        try:
            return await self.behave(self, request, body)
        except asyncio.CancelledError:
            self.num_gone += 1
            raise

    async def models(self, request: web.Request) -> web.Response:
        self.num_probes += 1
        return web.json_response(self.models_body)

    async def file(self, request: web.Request) -> web.Response:
        self.fetched.append((request.path_qs, request.headers.copy()))
        assert request.transport is not None
        request.transport.write(self.files.get(request.path_qs) or http(b"", 404))
        await request.writer.drain()
        request.transport.close()
        return web.Response()


@asynccontextmanager
async def serving(*behaviours: Behaviour) -> AsyncIterator[list[ChatServer]]:
    servers, runners = [], []
    try:
        for behave in behaviours:
            server = ChatServer(behave)
            app = web.Application()
            for path in _POSTS:
                app.router.add_post(f"/v1/{path}", server.complete)
            app.router.add_get("/v1/models", server.models)
            app.router.add_get("/{path:.*}", server.file)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            servers.append(server)
        yield servers
    finally:
        for runner in runners:
            await runner.cleanup()


@contextmanager
def served(behave: Behaviour) -> Iterator[ChatServer]:
    with in_a_thread(lambda: serving(behave)) as [server]:
        yield server


def telling(answers: Answers, *, is_alive: bool = True) -> Behaviour:
    """Sends these bytes as fast as the client reads them, and ends the connection.

    `is_alive`: whether it answers a control turn well, whatever its other answers.
    """

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        prompt = asked_of(body)
        num_before = sum(asked_of(one) == prompt for one in server.bodies) - 1
        answer = http(completion("fine")) if is_alive and prompt == CONTROL else answers(prompt, num_before)
        parts = iter([answer] if isinstance(answer, bytes) else answer)
        assert request.transport is not None
        # In a thread, since an answer may take its time.
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            request.transport.write(part)
            await request.writer.drain()
        request.transport.close()
        # Goes nowhere: nothing more is written to a closing transport.
        return web.Response()

    return behave


def asked_of(body: dict[str, Any]) -> str:
    """What a request asks, whatever it asks for."""
    return body["messages"][-1]["content"] if "messages" in body else body.get("prompt", body.get("input", ""))


def http(
    body: bytes | dict[str, Any] = b"",
    status: int = 200,
    *,
    reason: str = "OK",
    kind: str = "application/json",
    **headers: str,
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Type: {kind}", f"Content-Length: {len(raw)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def endless(first: bytes, each: bytes, *, kind: str = "application/json") -> Iterator[bytes]:
    """A body that only ends when its reader does."""
    yield f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode() + first
    while True:
        yield each


def completion(text: Any, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": usage,
    } | more


def events(*bodies: Any, done: bool = True, end: str = "\n\n") -> bytes:
    """`bodies`: texts of pieces, or whole events."""
    made = [body if isinstance(body, dict) else {"choices": [{"delta": {"content": body}}]} for body in bodies]
    lines = [f"data: {json.dumps(body)}" for body in made] + (["data: [DONE]"] if done else [])
    return "".join(line + end for line in lines).encode()


def event(text: str = "", reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}\n\n'
DONE = b"data: [DONE]\n\n"


def streaming(*parts: bytes, seconds_between: float = 0.0) -> Behaviour:
    """Sends the parts, whatever the request."""

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
    """Like most servers: a stream if requested, otherwise a whole answer."""
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
    """The first for the first request, and so on; the last for all later ones."""

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await behaviours[min(len(server.bodies), len(behaviours)) - 1](server, request, body)

    return behave
