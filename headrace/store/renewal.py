"""A process's single thread that renews its leases. It starts with the first lease and keeps no process alive."""

import _thread
import atexit
import contextlib
import logging
import os
import queue
import threading
import weakref
from typing import Protocol

# The thread tries a renewal several times before a lease runs out, even if the store fails meanwhile.
_WAKE_EVERY = 1 / 6
_IDLE_SECONDS = 600.0

_log = logging.getLogger(__name__)


class Renewable(Protocol):
    ttl_seconds: float

    def renew(self) -> None: ...

    def release_all(self) -> None: ...

    def after_fork(self) -> None: ...


class Renewal:
    """This process's single renewal thread; it starts with the first lease."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Renewable] = weakref.WeakSet()
        self._become_own()
        os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self._at_exit)

    def includes(self, leases: Renewable) -> None:
        if self._is_running and leases in self._all:
            return
        with self._lock:
            self._all.add(leases)
            if not self._is_running:
                # Nothing is due yet; the thread first computes how long it may sleep. `Thread.start` would wait until
                # it runs, which is a quarter of the time in which a reader opens a handoff.
                _thread.start_new_thread(self._run, ())
                self._is_running = True
                return
        self.wake(leases)

    def wake(self, leases: Renewable) -> None:
        self._wakes.put(leases)

    def _run(self) -> None:
        everything: list[Renewable] = []
        while True:
            with self._lock:
                everything = list({*self._all, *everything})
            wake_seconds = min((leases.ttl_seconds for leases in everything), default=_IDLE_SECONDS) * _WAKE_EVERY
            for leases in everything:
                try:
                    leases.renew()
                except Exception:  # noqa: BLE001 (one store's trouble must not end the others' renewal)
                    _log.warning("leases in %s were not renewed; tried again soon", leases, exc_info=True)
            # The sleeping thread must not keep a store alive.
            everything.clear()
            leases = None
            with contextlib.suppress(queue.Empty):
                # What asked to be woken is kept until its renewal: its last lease may have been returned with it.
                everything.append(self._wakes.get(timeout=wake_seconds))
                while True:
                    everything.append(self._wakes.get_nowait())

    def _become_own(self) -> None:
        self._lock = threading.Lock()
        self._wakes: queue.SimpleQueue[Renewable] = queue.SimpleQueue()
        self._is_running = False

    def _after_fork(self) -> None:
        """The child has no renewal thread, and its locks are in whatever state the parent's threads left them."""
        self._become_own()
        for leases in list(self._all):
            leases.after_fork()

    def _at_exit(self) -> None:
        for leases in list(self._all):
            leases.release_all()


RENEWAL = Renewal()
