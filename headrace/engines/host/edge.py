"""Where requests enter a host and its models' processes: bounded, and answered with errors in OpenAI's form."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from headrace.engines.host.outcomes import error_body, status_of
from headrace.errors import HeadraceError

REQUEST_BYTES_MAX = 256 * 2**20
# How long a process that ends waits for answers under way: who waits asks again elsewhere.
LEAVE_SECONDS = 1.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def telling(handler: Handler) -> Handler:
    """The handler, whose errors of ours are answers."""

    async def handled(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except HeadraceError as error:
            return web.json_response(error_body(error), status=status_of(error))

    return handled
