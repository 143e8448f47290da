"""What vLLM's server looks like from outside, without a model: `python -m simulation.servers.vllm serve DIRECTORY …`.

It answers chats with what they asked, sleeps and wakes, and refuses chats while it sleeps.
"""

import argparse
import os

from aiohttp import web


class Server:
    def __init__(self) -> None:
        self._is_asleep = False

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/chat/completions", self._chat)
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            app.router.add_post("/sleep", self._sleep)
            app.router.add_post("/wake_up", self._wake)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _sleep(self, request: web.Request) -> web.Response:
        assert request.query["level"] == "1"
        self._is_asleep = True
        return web.Response()

    async def _wake(self, request: web.Request) -> web.Response:
        self._is_asleep = False
        return web.Response()

    async def _chat(self, request: web.Request) -> web.Response:
        if self._is_asleep:
            return web.json_response({"error": {"message": "asleep"}}, status=400)
        asked = await request.json()
        choice = {"index": 0, "message": {"role": "assistant", "content": asked["messages"][-1]["content"]}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return web.json_response({"choices": [choice | {"finish_reason": "stop"}], "usage": usage})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("directory")
    parser.add_argument("--port", type=int)
    parser.add_argument("--enable-sleep-mode", action="store_true", required=True)
    given, _ = parser.parse_known_args()
    web.run_app(Server().app(), host="127.0.0.1", port=given.port, print=lambda *_: None)


if __name__ == "__main__":
    main()
