"""Threads for store calls that may hang: nothing waits for a hanging one, not even the end of the process."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any


class DaemonThreads(Executor):
    """Up to `num_max` threads, started when all others are busy. Calls beyond them wait for a free one."""

    def __init__(self, num_max: int, name: str) -> None:
        self._num_max = num_max
        self._name = name
        self._num_threads = 0
        self._idle = threading.Semaphore(0)
        self._starting = threading.Lock()
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.put((future, lambda: fn(*args, **keywords)))
        if not self._idle.acquire(blocking=False):
            self._start_one()
        return future

    def _start_one(self) -> None:
        with self._starting:
            if self._num_threads >= self._num_max:
                return
            self._num_threads += 1
            name = f"{self._name}-{self._num_threads}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while True:
            future, work = self._waiting.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
                    future.set_exception(error)
            del future, work
            self._idle.release()
