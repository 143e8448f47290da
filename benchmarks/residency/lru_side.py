"""One process that holds as many models as fit, and lets the one go that was used longest ago: plain LRU.

`python -m benchmarks.residency.lru_side TASK`; answers on loopback, as fast as one thread paints.
"""

import asyncio
import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.residency.six_models import Models


class Lru:
    def __init__(self, models: Models, num_fit: int) -> None:
        self._models, self._num_fit = models, num_fit
        self._held: OrderedDict[str, Any] = OrderedDict()
        # In the order in which they came.
        self._turn = asyncio.Lock()

    async def make(self, request: web.Request) -> web.Response:
        asked = await request.json()
        async with self._turn:
            return web.Response(body=await asyncio.to_thread(self._made, asked["model"], asked["seed"]))

    async def loads(self, request: web.Request) -> web.Response:
        return web.json_response({"loads": self._models.num_loads})

    def _made(self, name: str, seed: int) -> bytes:
        if name not in self._held:
            while len(self._held) >= self._num_fit:
                self._held.popitem(last=False)
            self._held[name] = self._models.load(name)
        self._held.move_to_end(name)
        return self._models.paint(self._held[name], ["a mill wheel"], [seed])


async def serve(task: dict[str, Any]) -> None:
    lru = Lru(Models(Path(task["directory"])), task["num_fit"])
    app = web.Application()
    app.router.add_post("/make", lru.make)
    app.router.add_get("/loads", lru.loads)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
    print("{}")
