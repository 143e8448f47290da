"""An OpenAI-compatible server with set delays instead of a model: `python -m simulation.servers.paced JSON`.

It has two paces. *Drawn*: a turn takes between `seconds_min` and `seconds_max`, drawn from the prompt, so that the same
prompt takes equally long by any path; it sends `num_words` words, over that time or one every `word_seconds`, in a
stream padded to `word_bytes`; a prompt that begins with "refuse" is refused with 422. *Batched*, with `num_slots`,
imitates an engine with continuous batching: a turn waits for a slot, then for its prompt, then for its output, step by
step. Its last message contains what an engine would know, `unit=17 prompt=300 output=120`; a client's router does not
know it.

A client that leaves ends its turn at once, as in engines. `GET /seen` says how many turns began, ended and were given
up. With `log`, each is a line there by unit, written with one system call, so that `kill -9` loses nothing that was
done before. The server prints its port, and ends with its standard input.
"""

import asyncio
import json
import os
import random
import re
import select
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import uvloop
from aiohttp import web

_ASKED = re.compile(r"unit=(\S+) prompt=(\d+) output=(\d+)")
# Four characters a token, as in English.
_TOKEN = "abc "
# A gateway's first prompt asks for a few tokens; it is not measured.
_FEW_TOKENS, _FEW_SECONDS_MAX = 4, 0.01
_BODY_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Pace:
    """`slowness` multiplies all times of a batched pace. `port` 0: any free one. Idle connections are closed, as
    uvicorn does."""

    port: int = 0
    log: str = ""
    idle_seconds_max: float = 5.0
    seconds_min: float = 0.0
    seconds_max: float = 0.0
    num_words: int = 8
    word_bytes: int = 0
    word_seconds: float | None = None
    num_slots: int = 0
    slowness: float = 1.0
    prompt_token_seconds: float = 0.00005
    step_seconds: float = 0.02
    tokens_a_step: int = 16


@dataclass(frozen=True, kw_only=True)
class Turn:
    """`pieces`: each after its seconds; a whole answer takes `seconds`; None: as long as the pieces."""

    unit: str
    num_prompt_tokens: int
    num_output_tokens: int
    pieces: tuple[tuple[float, str], ...]
    prefill_seconds: float = 0.0
    seconds: float | None = None


class PacedServer:
    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._slots: AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(pace.num_slots) if pace.num_slots else nullcontext()
        )
        self._log = os.open(pace.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._seen: Counter[str] = Counter(began=0, ended=0, given_up=0)

    def app(self) -> web.Application:
        ok = {"status": "ok"}
        facts = {"model_path": "served", "served_model_name": "served", "is_generation": True}
        answers: dict[str, Any] = {
            "/v1/models": {"object": "list", "data": [{"id": "served", "object": "model", "owned_by": "bench"}]},
            "/health": ok,
            "/health_generate": ok,
            # sglang's router asks a worker for these before it accepts it.
            **dict.fromkeys(("/get_model_info", "/model_info", "/get_server_info", "/server_info"), facts),
            "/seen": self._seen,
        }

        async def answer(request: web.Request) -> web.Response:
            return web.json_response(answers[request.path])

        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_post("/v1/chat/completions", self.complete)
        for path in answers:
            app.router.add_get(path, answer)
        return app

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = str(body["messages"][-1]["content"])
        if text.startswith("refuse"):
            return web.json_response({"error": {"message": "This prompt is refused."}}, status=422)
        turn = self._batched(text, body) if self._pace.num_slots else self._drawn(text, body)
        if turn is None:
            return web.json_response({"error": {"message": "no unit=… prompt=… output=…"}}, status=400)
        self._note("began", turn)
        try:
            async with self._slots:
                await asyncio.sleep(turn.prefill_seconds)
                return await (self._stream if body.get("stream") else self._whole)(request, body, turn)
        except (asyncio.CancelledError, ConnectionResetError):
            self._note("given_up", turn)
            raise

    def _drawn(self, text: str, body: dict[str, Any]) -> Turn:
        pace, tokens_max = self._pace, body.get("max_tokens", self._pace.num_words)
        seconds = random.Random(text).uniform(pace.seconds_min, pace.seconds_max)
        if tokens_max <= _FEW_TOKENS:
            seconds = min(seconds, _FEW_SECONDS_MAX)
        num = min(tokens_max, pace.num_words)
        each = seconds / num if pace.word_seconds is None else pace.word_seconds
        width = pace.word_bytes if body.get("stream") else 0
        pieces = tuple((each, f"word{number}".ljust(width, ".") + " ") for number in range(num))
        return Turn(unit="", num_prompt_tokens=5, num_output_tokens=num, pieces=pieces, seconds=seconds)

    def _batched(self, text: str, body: dict[str, Any]) -> Turn | None:
        asked, pace = _ASKED.search(text), self._pace
        if asked is None:
            return None
        num = min(int(asked[3]), int(body.get("max_tokens") or asked[3]))
        steps = [min(pace.tokens_a_step, num - begin) for begin in range(0, max(1, num), pace.tokens_a_step)]
        pieces = [(pace.step_seconds * pace.slowness, _TOKEN * step) for step in steps]
        pieces[0] = (pieces[0][0], f"unit={asked[1]} {pieces[0][1]}")
        return Turn(
            unit=asked[1],
            num_prompt_tokens=int(asked[2]),
            num_output_tokens=num,
            pieces=tuple(pieces),
            prefill_seconds=int(asked[2]) * pace.prompt_token_seconds * pace.slowness,
        )

    async def _whole(self, request: web.Request, body: dict[str, Any], turn: Turn) -> web.StreamResponse:
        for seconds in [each for each, _ in turn.pieces] if turn.seconds is None else [turn.seconds]:
            await asyncio.sleep(seconds)
        _stay_if_wanted(request)
        message = {"role": "assistant", "content": "".join(piece for _, piece in turn.pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._note("ended", turn)
        return web.json_response({**_head(body, turn, ""), "choices": [choice], "usage": _usage(turn)})

    async def _stream(self, request: web.Request, body: dict[str, Any], turn: Turn) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if not self._pace.num_slots:
            await response.prepare(request)
        for number, (seconds, piece) in enumerate(turn.pieces, 1):
            await asyncio.sleep(seconds)
            if not response.prepared:
                await response.prepare(request)
            is_last = number == len(turn.pieces)
            raw = b"".join(_events(body, turn, piece, is_last=is_last))
            if is_last:
                _stay_if_wanted(request)
                self._note("ended", turn)
            await response.write(raw)
        await response.write_eof()
        return response

    def _note(self, what: str, turn: Turn) -> None:
        self._seen[what] += 1
        os.write(self._log, f"{what} {turn.unit} {time.monotonic():.6f}\n".encode())


def _head(body: dict[str, Any], turn: Turn, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{turn.unit or 1}",
        "created": 1,
        "model": body.get("model", "served"),
        "object": f"chat.completion{kind}",
    }


def _usage(turn: Turn) -> dict[str, int]:
    num_in, num_out = turn.num_prompt_tokens, turn.num_output_tokens
    return {"prompt_tokens": num_in, "completion_tokens": num_out, "total_tokens": num_in + num_out}


def _events(body: dict[str, Any], turn: Turn, piece: str, *, is_last: bool) -> Iterator[bytes]:
    head = _head(body, turn, ".chunk")
    choice = {"index": 0, "delta": {"content": piece}, "finish_reason": "stop" if is_last else None}
    yield _event({**head, "choices": [choice]})
    if is_last and (body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": _usage(turn)})
    if is_last:
        yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _stay_if_wanted(request: web.Request) -> None:
    """An engine that finds its client gone drops the turn even at its last step, such as after a stall.

    Raises: ConnectionResetError: nobody takes the answer.
    """
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError
    # The loop may not know yet: after SIGCONT it runs due callbacks before it checks its sockets.
    asked = select.poll()
    asked.register(request.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    if asked.poll(0):
        raise ConnectionResetError


async def _serve(pace: Pace) -> None:
    # Cancels a turn whose client is gone, like engines' `abort`.
    runner = web.AppRunner(
        PacedServer(pace).app(),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=pace.idle_seconds_max,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", pace.port, reuse_address=True).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    # The measured program shares this machine.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(Pace(**json.loads(sys.argv[1]))))
