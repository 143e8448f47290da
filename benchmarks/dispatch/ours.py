"""Our hop as a process: HTTP in front of the production engine and its dispatcher, and nothing else.

`python -m benchmarks.dispatch.ours '{"port": …, "base_urls": […]}'`
"""

import json
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from headrace.engines.base import EngineBusy, EngineFailed, Message, Turn, TurnRefused
from headrace.engines.openai.client import OpenAIEngine


def make_app(base_urls: list[str]) -> Starlette:
    engine = OpenAIEngine(model="served", base_urls=base_urls)

    async def complete(request: Request) -> JSONResponse:
        body: dict[str, Any] = json.loads(await request.body())
        turn = Turn(
            unit=request.headers.get("x-request-id", "unit"),
            messages=tuple(Message(role=one["role"], content=one["content"]) for one in body["messages"]),
            temperature=0.0,
            top_p=1.0,
            max_tokens=body["max_tokens"],
            seed=0,
        )
        try:
            answer = await engine.answer(turn)
        except TurnRefused as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=error.status)
        except (EngineBusy, EngineFailed) as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=503)
        message = {"role": "assistant", "content": answer.text}
        return JSONResponse({"choices": [{"message": message, "finish_reason": answer.finish_reason}]})

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"]), Route("/healthz", health)])


def main() -> None:
    task = json.loads(sys.argv[1])
    uvicorn.run(make_app(task["base_urls"]), host="127.0.0.1", port=task["port"], log_level="warning", loop="uvloop")


if __name__ == "__main__":
    main()
