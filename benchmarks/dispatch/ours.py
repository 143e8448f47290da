"""Our hop as a process: HTTP in front of the production engine and its dispatcher, and nothing else.

`python -m benchmarks.dispatch.ours '{"port": …, "base_urls": […]}'`
"""

import asyncio
import json
import sys

import uvloop
from aiohttp import web

from headrace.engines.base import EngineBusy, EngineFailed, Message, Turn, TurnRefused
from headrace.engines.openai.client import OpenAIEngine


def make_server(engine: OpenAIEngine) -> web.Server:
    async def handle(request: web.BaseRequest) -> web.Response:
        if request.path == "/healthz":
            return web.Response(text="ok")
        body = json.loads(await request.read())
        turn = Turn(
            unit=request.headers.get("X-Request-Id", "unit"),
            messages=tuple(Message(role=one["role"], content=one["content"]) for one in body["messages"]),
            temperature=0.0,
            top_p=1.0,
            max_tokens=body["max_tokens"],
            seed=0,
        )
        try:
            answer = await engine.answer(turn)
        except TurnRefused as error:
            return web.json_response({"error": {"message": str(error)}}, status=error.status)
        except (EngineBusy, EngineFailed) as error:
            return web.json_response({"error": {"message": str(error)}}, status=503)
        message = {"role": "assistant", "content": answer.text}
        return web.json_response({"choices": [{"message": message, "finish_reason": answer.finish_reason}]})

    # A client that leaves ends its turn.
    return web.Server(handle, access_log=None, handler_cancellation=True)


async def _serve(port: int, base_urls: list[str]) -> None:
    runner = web.ServerRunner(make_server(OpenAIEngine(model="served", base_urls=base_urls)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    task = json.loads(sys.argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve(task["port"], task["base_urls"]))


if __name__ == "__main__":
    main()
