"""Work beside the units, with a limit: work beyond it is dropped, and no client waits for any of it.

Unexpected failures are passed to `failed`, and end only their own task.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Background:
    """Tasks of one kind. Not thread-safe."""

    def __init__(self, name: str, *, num_max: int, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._num_max = num_max
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def has_room(self) -> bool:
        return len(self._tasks) < self._num_max

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._watched(work), name=self._name)
        # The event loop has only weak references to its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 (it is told)
            self._failed(error)
