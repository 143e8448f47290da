"""An event loop in its own thread, so that synchronous code can call asynchronous code.

The caller may already run a loop, as notebooks do, so this never uses the caller's.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from headrace.engines.base import EngineFailed

T = TypeVar("T")


class LoopThread:
    def __init__(self) -> None:
        """Starts nothing before the first `run`."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`, or raises its error; cancels it if the caller is interrupted.

        Raises: EngineFailed: an engine cancelled the task that asked it.
        """
        loop = self._started()
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except CancelledError as error:
            # Nobody else has this task. The error is an Exception, which would look like one of a row.
            raise EngineFailed("An engine cancelled the task that asked it.") from error
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(self._loop,), name="engine", daemon=True)
            self._thread.start()
        return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Runs until `loop.stop`. SystemExit in some task of an engine ends `run_forever` too, but no caller's wait."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue
        return
