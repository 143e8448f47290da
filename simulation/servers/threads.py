"""Servers in a thread of their own, for callers without an event loop or in another process."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_a_thread(serving: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """What `serving` gives, which is entered and left in the thread's event loop."""
    loop, ready, servers = asyncio.new_event_loop(), threading.Event(), list[T]()
    ended = asyncio.Event()

    async def serve() -> None:
        async with serving() as server:
            servers.append(server)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait(20)
    try:
        yield servers[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(20)
        loop.close()
