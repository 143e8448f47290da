"""An OpenAI-compatible server with a service time instead of a model: `python -m simulation.servers.chat '{…}'`.

A turn takes between `seconds_min` and `seconds_max`, drawn from the prompt, so that the same prompt takes as long by
whichever way it comes. `num_words` words come at the end, or, asked for as a stream, evenly spread over that time, or
one every `word_seconds`; a stream's are padded to `word_bytes`, and a turn that asks for fewer tokens gets fewer words.
It prints its port, and ends with its standard input. `GET /seen` says how many turns began, ended and were given up. A
prompt that begins with "refuse" is refused, with 422.
"""

import asyncio
import json
import random
import socket
import sys
from typing import Any

import uvicorn
import uvloop


class SlowServer:
    def __init__(
        self,
        *,
        seconds_min: float,
        seconds_max: float,
        num_words: int = 8,
        word_bytes: int = 0,
        word_seconds: float | None = None,
    ) -> None:
        self._range = (seconds_min, seconds_max)
        self._num_words = num_words
        self._word_bytes = word_bytes
        self._word_seconds = word_seconds
        self._seen = {"began": 0, "ended": 0, "given_up": 0}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/seen":
            await _respond(send, self._seen)
            return
        if scope["path"] != "/v1/chat/completions":
            await _respond(send, {"object": "list", "data": []})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body)
        if asked["messages"][-1]["content"].startswith("refuse"):
            await _respond(send, {"error": {"message": "This prompt is refused."}}, status=422)
            return
        self._seen["began"] += 1
        turn = asyncio.create_task(self._turn(asked, send))
        gone = asyncio.create_task(_gone(receive))
        await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
        self._seen["ended" if turn.done() else "given_up"] += 1
        turn.cancel()
        gone.cancel()

    async def _turn(self, asked: dict[str, Any], send: Any) -> None:
        seconds = random.Random(asked["messages"][-1]["content"]).uniform(*self._range)
        if asked.get("max_tokens", self._num_words) <= 4:
            # A gateway's first prompt, which is not what is measured.
            seconds = min(seconds, 0.01)
        num_words = min(asked.get("max_tokens", self._num_words), self._num_words)
        word_bytes = self._word_bytes if asked.get("stream") else 0
        words = [f"word{number}".ljust(word_bytes, ".") + " " for number in range(num_words)]
        head = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
        usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
        if not asked.get("stream"):
            await asyncio.sleep(seconds)
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            await _respond(send, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        started = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": started})
        head["object"] = "chat.completion.chunk"
        for word in words:
            await asyncio.sleep(seconds / len(words) if self._word_seconds is None else self._word_seconds)
            await _event(send, {**head, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
        await _event(send, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await _event(send, {**head, "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _event(send: Any, body: dict[str, Any]) -> None:
    line = b"data: " + json.dumps(body).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": line, "more_body": True})


async def _respond(send: Any, body: dict[str, Any], *, status: int = 200) -> None:
    raw = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


async def _serve(task: dict[str, Any]) -> None:
    config = uvicorn.Config(
        SlowServer(**task),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    server = uvicorn.Server(config)

    def until_input_ends() -> None:
        sys.stdin.read()
        server.should_exit = True

    asyncio.get_running_loop().run_in_executor(None, until_input_ends)
    await server.serve([listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(json.loads(sys.argv[1])))
