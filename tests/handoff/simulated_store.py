"""Actors that run one operation of a store in memory at a time.

An actor is a thread that waits before each of its store operations until it is told to go on: the test decides who does
the next one. A killed actor never goes on; nothing of it is cleaned up, as after a real kill.
"""

import re
import threading
from collections.abc import Callable
from typing import Any

from simulation.stores import MemoryStore


class Killed(BaseException):
    """Ends the thread of a killed actor, long after."""


class Actor:
    """Runs `program(store)`, one store operation a `step`."""

    def __init__(self, store: MemoryStore, program: Callable[[Any], None]) -> None:
        self.error: BaseException | None = None
        self.is_done = False
        self.next_operation = ""
        self._may_go = threading.Semaphore(0)
        self._has_stopped = threading.Semaphore(0)
        self._is_killed = False
        self._thread = threading.Thread(target=self._run, args=(store.seen_by(self.wait), program), daemon=True)
        self._thread.start()
        self._has_stopped.acquire()

    def wait(self, operation: str) -> None:
        """Until the next step. What the program's own pool of threads reads is part of the step it is in."""
        if threading.current_thread() is not self._thread:
            return
        self.next_operation = operation
        self._has_stopped.release()
        self._may_go.acquire()
        if self._is_killed:
            raise Killed

    def step(self) -> None:
        if not self.is_done:
            self._may_go.release()
            self._has_stopped.acquire()

    def run_until(self, operation: str, *, steps_max: int = 200) -> None:
        """Goes on until it is about to do `operation`, a pattern such as `create leases/`."""
        for _ in range(steps_max):
            self.step()
            if self.is_done or re.match(operation, self.next_operation):
                return

    def bury(self) -> None:
        """Lets the thread of an actor that will not be told to go on end."""
        self._is_killed = True
        while not self.is_done:
            self._may_go.release()
            self._has_stopped.acquire()
        self._thread.join()

    def _run(self, store: MemoryStore, program: Callable[[Any], None]) -> None:
        try:
            self.wait("start")
            program(store)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            self.error = error
        finally:
            self.is_done = True
            self._has_stopped.release()


class ByHand:
    """Stands for the renewal thread where the test says when a process renews."""

    def includes(self, leases: object) -> None: ...

    def wake(self, leases: object) -> None: ...
