"""Work beside the units: so much at once, the rest is dropped, and no client waits for any of it.

Work that fails in a way that it did not foresee is told to `failed`, and ends nothing but itself.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Background:
    """Tasks of one kind. Not for several threads."""

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
        # The event loop holds its tasks weakly.
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
