"""`python -m benchmarks.colocation.router HOST OWN`: a plain router in front of an engine host, as people put one in
front of a model's server.

It has eight places for each model and one line for all who ask it, first come, first served; it knows no class of work.
Both are Unix sockets. Ends with SIGTERM.
"""

import asyncio
import signal
import sys
from collections import defaultdict

import aiohttp
from aiohttp import web

from headrace.engines.host.edge import REQUEST_BYTES_MAX

# As many turns as its models do at once in a batch.
NUM_PLACES = 8
_HEADERS = ("Content-Type",)


class Router:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._places: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(NUM_PLACES))

    async def relay(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return await self._sent_on(request)
        async with self._places[request.path.split("/")[2]]:
            return await self._sent_on(request)

    async def _sent_on(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        # What it knows no meaning of is passed on as a live client's.
        headers = {"X-Headrace-Class": "live"}
        url = f"http://host{request.path}"
        async with self._session.request(request.method, url, data=raw, headers=headers) as answer:
            told = {name: answer.headers[name] for name in _HEADERS if name in answer.headers}
            return web.Response(body=await answer.read(), status=answer.status, headers=told)


async def main(host: str, own: str) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    connector = aiohttp.UnixConnector(path=host, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", Router(session).relay)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.UnixSite(runner, own).start()
        await ended.wait()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
