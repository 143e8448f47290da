"""A ComfyUI in this process: its queue, its history, and graphs that are drawn one after the other, or never.

It checks a graph as ComfyUI does (node classes, links, a node that saves) and draws what KSampler and CLIPTextEncode
were given, so that a test sees whether prompt, seed and size arrived.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from simulation.servers.media import picture

GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "steps": 20, "cfg": 8.0, "positive": ["6", 0], "latent_image": ["5", 0]},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a prompt"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "ComfyUI"}},
}
PLACES = {"prompt": "6.inputs.text", "seed": "3.inputs.seed", "width": "5.inputs.width", "height": "5.inputs.height"}
_CLASSES = {node["class_type"] for node in GRAPH.values()} | {"PreviewImage"}


class Comfy:
    """`asked`: its POSTs, as pairs of path and body. `entry`: changes a history's entry; `content`: a picture's bytes;
    `answer`: takes the place of a path's whole answer."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.entry: Callable[[dict[str, Any]], Any] = lambda entry: entry
        self.content: Callable[[bytes], bytes] = lambda content: content
        self.answers: dict[str, web.Response] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.interrupted: list[str] = []
        self.num_polls = 0
        self.url = ""
        self._numbers = itertools.count()
        self._pending: list[list[Any]] = []
        self._running: list[list[Any]] = []
        self._history: dict[str, Any] = {}
        self._files: dict[str, bytes] = {}
        self._stop = asyncio.Event()
        self._something = asyncio.Event()

    def forget(self) -> None:
        """As after a restart."""
        self._pending, self._running, self._history = [], [], {}

    @property
    def num_queued(self) -> int:
        return len(self._pending) + len(self._running)

    @web.middleware
    async def log(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.method == "POST":
            self.asked.append((request.path, await request.json()))
        for path, answer in self.answers.items():
            if request.path.startswith(path):
                assert isinstance(answer.body, bytes)
                return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
        return await handler(request)

    async def prompt(self, request: web.Request) -> web.Response:
        graph = (await request.json())["prompt"]
        errors = {}
        for name, node in graph.items():
            if node["class_type"] not in _CLASSES:
                error = {"type": "invalid_prompt", "message": f"Cannot execute: {node['class_type']} does not exist."}
                return web.json_response({"error": error, "node_errors": {}}, status=400)
            if node["class_type"] == "EmptyLatentImage" and node["inputs"]["width"] % 8:
                text = {"message": "Value not in steps of 8", "details": f"width {node['inputs']['width']}"}
                errors[name] = {"errors": [text], "class_type": node["class_type"], "dependent_outputs": ["9"]}
        if errors:
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            return web.json_response({"error": error, "node_errors": errors}, status=400)
        number = next(self._numbers)
        prompt_id = f"id-{number}"
        self._pending.append([number, prompt_id, graph, {}, ["9"]])
        self._something.set()
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": {}})

    async def history(self, request: web.Request) -> web.Response:
        self.num_polls += 1
        prompt_id = request.match_info["id"]
        return web.json_response({prompt_id: self._history[prompt_id]} if prompt_id in self._history else {})

    async def queue(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            gone = (await request.json()).get("delete", [])
            self._pending = [one for one in self._pending if one[1] not in gone]
        return web.json_response({"queue_running": self._running, "queue_pending": self._pending})

    async def interrupt(self, request: web.Request) -> web.Response:
        prompt_id = (await request.json()).get("prompt_id")
        if self._running and prompt_id in (None, self._running[0][1]):
            self.interrupted.append(self._running[0][1])
            self._stop.set()
        return web.Response()

    async def view(self, request: web.Request) -> web.Response:
        content = self._files.get(request.query["filename"])
        return web.Response(status=404) if content is None else web.Response(body=content, content_type="image/png")

    async def node_class(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({name: {"input": {}}} if name in _CLASSES else {})

    async def work(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._pending:
                self._running = [self._pending.pop(0)]
                _, prompt_id, graph, *_ = self._running[0]
                self._stop.clear()
                try:
                    await asyncio.wait_for(self._stop.wait(), self.seconds)
                    status = {"status_str": "error", "completed": False, "messages": [["execution_interrupted", {}]]}
                    entry = {"outputs": {}, "status": status}
                except TimeoutError:
                    entry = self._drawn(prompt_id, graph)
                if self._running:
                    self._history[prompt_id] = self.entry(entry)
                self._running = []

    def _drawn(self, prompt_id: str, graph: dict[str, Any]) -> dict[str, Any]:
        latent = graph["5"]["inputs"]
        asked = {"prompt": graph["6"]["inputs"]["text"], "seed": graph["3"]["inputs"]["seed"]}
        self._files[f"{prompt_id}.png"] = self.content(picture(asked, size=(latent["width"], latent["height"])))
        saved = [{"filename": f"{prompt_id}.png", "subfolder": "", "type": "output"}]
        status = {"status_str": "success", "completed": True, "messages": []}
        return {"prompt": [0, prompt_id, graph], "outputs": {"9": {"images": saved}}, "status": status}


@asynccontextmanager
async def serving_comfy(*servers: Comfy) -> AsyncIterator[None]:
    runners, works = [], []
    try:
        for server in servers:
            app = web.Application(middlewares=[server.log])
            app.router.add_post("/prompt", server.prompt)
            app.router.add_get("/history/{id}", server.history)
            app.router.add_get("/queue", server.queue)
            app.router.add_post("/queue", server.queue)
            app.router.add_post("/interrupt", server.interrupt)
            app.router.add_get("/view", server.view)
            app.router.add_get("/object_info/{name}", server.node_class)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            works.append(asyncio.create_task(server.work()))
        yield
    finally:
        for work in works:
            work.cancel()
        for runner in runners:
            await runner.cleanup()
