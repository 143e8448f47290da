"""One process that holds as many models as fit, and lets the one go that was used longest ago: plain LRU.

`python -m benchmarks.residency.lru_side TASK`; answers on loopback. What was asked first begins first, but for what
waits for a model that paints: two paint at once, so that of the three that fit one is always there to be let go.
"""

import asyncio
import json
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.residency.six_models import NUM_AT_ONCE, Models


class Lru:
    def __init__(self, models: Models, num_fit: int) -> None:
        self._models, self._num_fit = models, num_fit
        self._held: OrderedDict[str, Any] = OrderedDict()
        self._at_work: set[str] = set()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    async def make(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = asked["model"]
        async with self._turn(name):
            if name not in self._held:
                while len(self._held) >= self._num_fit:
                    del self._held[next(one for one in self._held if one not in self._at_work)]
                # It has its room while it comes.
                self._held[name] = None
                self._held[name] = await self._models.load(name)
            self._held.move_to_end(name)
            picture = await self._models.paint(name, self._held[name], ["a mill wheel"], [asked["seed"]])
        return web.Response(body=picture)

    async def loads(self, request: web.Request) -> web.Response:
        return web.json_response({"loads": self._models.num_loads})

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, began))
        self._begin()
        await began
        try:
            yield
        finally:
            self._at_work.discard(name)
            self._begin()

    def _begin(self) -> None:
        for one in list(self._waiting):
            name, began = one
            if len(self._at_work) < NUM_AT_ONCE and name not in self._at_work:
                self._waiting.remove(one)
                self._at_work.add(name)
                began.set_result(None)


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
