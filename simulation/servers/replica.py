"""A server that takes time as an engine with continuous batching does: `python -m simulation.servers.replica JSON`.

A turn waits for one of the slots, then for its prompt, then for its output, step by step; all slots work side by side.
A client that goes away ends its turn at once, as engines do it. What began and what was completed is written to a log
by unit, each line with one system call, so that a `kill -9` loses nothing that was done before it.

The last message says what an engine would know: `unit=17 prompt=300 output=120`. A client's router knows none of it.
"""

import asyncio
import json
import os
import re
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

_ASKED = re.compile(r"unit=(\S+) prompt=(\d+) output=(\d+)")
# Four characters a token, as English has.
_TOKEN = "abc "


@dataclass(frozen=True, kw_only=True)
class ReplicaSpec:
    """`slowness` multiplies all times."""

    port: int
    log: str
    slowness: float = 1.0
    num_slots: int = 8
    prompt_token_seconds: float = 0.00005
    step_seconds: float = 0.02
    tokens_a_step: int = 16


class Replica:
    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._slots = asyncio.Semaphore(spec.num_slots)
        self._log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked = _ASKED.search(str(body["messages"][-1]["content"]))
        if asked is None:
            return web.json_response({"error": {"message": "no unit=… prompt=… output=…"}}, status=400)
        unit, num_prompt, num_output = asked[1], int(asked[2]), int(asked[3])
        num_output = min(num_output, int(body.get("max_tokens") or num_output))
        usage = {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
        }
        head = {"id": f"chatcmpl-{unit}", "created": 0, "model": body.get("model", "served")}
        self._write(f"begin {unit}")
        try:
            if body.get("stream"):
                return await self._stream(request, head, unit, num_prompt, num_output, usage, body)
            async with self._slots:
                await self._prefill(num_prompt)
                for _ in self._steps(num_output):
                    await asyncio.sleep(self._spec.step_seconds * self._spec.slowness)
            _stay_if_wanted(request)
            message = {"role": "assistant", "content": f"unit={unit} " + _TOKEN * num_output}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._write(f"done {unit}")
            return web.json_response(answer)
        except (asyncio.CancelledError, ConnectionResetError):
            self._write(f"dropped {unit}")
            raise

    async def _stream(
        self,
        request: web.Request,
        head: Mapping[str, Any],
        unit: str,
        num_prompt: int,
        num_output: int,
        usage: Mapping[str, int],
        body: Mapping[str, Any],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        async with self._slots:
            await self._prefill(num_prompt)
            text = f"unit={unit} "
            for index, num_tokens in enumerate(self._steps(num_output)):
                await asyncio.sleep(self._spec.step_seconds * self._spec.slowness)
                if index == 0:
                    await response.prepare(request)
                is_last = (index + 1) * self._spec.tokens_a_step >= num_output
                text += _TOKEN * num_tokens
                choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop" if is_last else None}
                raw = _event({**head, "object": "chat.completion.chunk", "choices": [choice]})
                text = ""
                if is_last:
                    _stay_if_wanted(request)
                    if (body.get("stream_options") or {}).get("include_usage"):
                        raw += _event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
                    raw += b"data: [DONE]\n\n"
                    self._write(f"done {unit}")
                await response.write(raw)
        await response.write_eof()
        return response

    async def _prefill(self, num_prompt: int) -> None:
        await asyncio.sleep(num_prompt * self._spec.prompt_token_seconds * self._spec.slowness)

    def _steps(self, num_output: int) -> list[int]:
        size = self._spec.tokens_a_step
        return [min(size, num_output - begin) for begin in range(0, max(1, num_output), size)]

    def _write(self, line: str) -> None:
        os.write(self._log, f"{line} {time.monotonic():.6f}\n".encode())


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _stay_if_wanted(request: web.Request) -> None:
    """An engine that finds its client gone drops the turn at its last step too, such as after a stall.

    Raises: ConnectionResetError: nobody is there to take the answer.
    """
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError
    # The loop may not know yet: after SIGCONT it runs what is due before it looks at its sockets.
    asked = select.poll()
    asked.register(request.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    if asked.poll(0):
        raise ConnectionResetError


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "served", "object": "model", "owned_by": "bench"}]})


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _model_facts(request: web.Request) -> web.Response:
    # What sglang's router asks a worker before it takes it.
    return web.json_response({"model_path": "served", "served_model_name": "served", "is_generation": True})


def main() -> None:
    spec = ReplicaSpec(**json.loads(sys.argv[1]))
    app = web.Application()
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/health", _health)
    app.router.add_get("/health_generate", _health)
    for path in ("/get_model_info", "/model_info", "/get_server_info", "/server_info"):
        app.router.add_get(path, _model_facts)
    replica = None

    async def complete(request: web.Request) -> web.StreamResponse:
        nonlocal replica
        replica = replica or Replica(spec)
        return await replica.complete(request)

    app.router.add_post("/v1/chat/completions", complete)
    # Cancels a turn whose client is gone: what engines do with `abort`.
    web.run_app(
        app,
        host="127.0.0.1",
        port=spec.port,
        handler_cancellation=True,
        keepalive_timeout=75.0,
        access_log=None,
        print=None,
        reuse_address=True,
    )


if __name__ == "__main__":
    main()
