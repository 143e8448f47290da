"""Simulated time and processes: greenlets that yield wherever the library waits for its store.

Real library code runs unchanged. At each store call others may run, time passes, and a process may be killed. A killed
process's greenlets get `Killed` where they wait, and their further calls have no effect. One seed gives one order of
events, in every run and on every machine.
"""

import asyncio
import contextvars
import gc
import heapq
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import greenlet

# The wall clocks' time at simulated second 0.
EPOCH = 1_760_000_000.0


class Killed(BaseException):
    """`kill -9` for simulated code; not an Exception, so that no handler takes it for a failure."""


class Process:
    """What lives and dies together. `calls_to_live`: store calls; `killed_after`: after the last one's effect."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        # A dict, since sets are ordered differently in every run.
        self.fibres: dict[Fibre, None] = {}
        self.calls_to_live: int | None = None
        self.killed_after = False


class Fibre(greenlet.greenlet):
    """One thread of a simulated process."""

    process: Process


class Scheduler:
    """`now`: simulated seconds since the schedule began; it never goes back."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        # Atomic: in the middle of `at`, the collector may end a dead coroutine, which calls `at` too.
        self._counts = itertools.count()
        self._hub = greenlet.getcurrent()
        self.finished = False
        self._fibres: dict[Fibre, None] = {}
        # Errors that a fibre did not catch: a defect of the simulator or of the library, never of the schedule.
        self.failures: list[tuple[str, BaseException]] = []

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._due, (max(seconds, self.now), next(self._counts), action))

    def spawn(self, process: Process, work: Callable[[], Any], *, delay: float = 0.0) -> None:
        def whole() -> None:
            try:
                work()
            except (Killed, greenlet.GreenletExit):
                pass
            except BaseException as error:  # noqa: BLE001 (whatever it is, the schedule reports it with its seed)
                self.failures.append((process.name, error))
            finally:
                process.fibres.pop(fibre, None)
                self._fibres.pop(fibre, None)

        fibre = Fibre(whole, self._hub)
        fibre.process = process
        process.fibres[fibre] = None
        self._fibres[fibre] = None
        self.at(self.now + delay, lambda: self._resume(fibre))

    def process(self) -> Process | None:
        """The process whose code calls; None: the simulator's own, which no fault meets."""
        current = greenlet.getcurrent()
        return current.process if isinstance(current, Fibre) else None

    def sleep(self, seconds: float) -> None:
        """Lets others run. Raises: Killed: the process was killed meanwhile."""
        current = greenlet.getcurrent()
        if not isinstance(current, Fibre):
            return
        self.check_alive()
        self.at(self.now + seconds, lambda: self._resume(current))
        self._hub.switch()
        self.check_alive()

    def check_alive(self) -> None:
        process = self.process()
        if process is not None and not process.alive:
            raise Killed

    def kill(self, process: Process) -> None:
        """Ends every fibre of a process. If one of them calls it, it does not return."""
        process.alive = False
        current = greenlet.getcurrent()
        for fibre in list(process.fibres):
            if fibre is not current:
                # In the hub's turn, since no fibre may run inside another one's call.
                self.at(self.now, lambda fibre=fibre: self._end(fibre))
        if isinstance(current, Fibre) and current.process is process:
            raise Killed

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = max(self.now, until)

    def finish(self) -> None:
        """Ends everything that still waits, so that no greenlet outlives its schedule."""
        self.finished = True
        for fibre in list(self._fibres):
            fibre.process.alive = False
        for fibre in list(self._fibres):
            self._end(fibre)
        self._due.clear()

    def _resume(self, fibre: Fibre) -> None:
        if not fibre.dead and fibre.process.alive:
            fibre.switch()

    def _end(self, fibre: Fibre) -> None:
        if fibre:
            fibre.throw(Killed)
        else:
            # Never begun, or ended: nothing to unwind.
            fibre.process.fibres.pop(fibre, None)
            self._fibres.pop(fibre, None)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Schedules run in its block; collect between two of them, now and then."""
    with warnings.catch_warnings():
        # Python's collector unwinds a killed process's remains some time later, and complains.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        sys.unraisablehook = lambda _: None
        # It must not act in the middle of a schedule; between two of them it cannot.
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            gc.collect()
            sys.unraisablehook = sys.__unraisablehook__


@dataclass
class SimulatedClock:
    """A wall clock in simulated time. `offset`: this process's clock error, in seconds."""

    scheduler: Scheduler
    offset: float = 0.0
    epoch: float = EPOCH

    def now(self) -> float:
        return self.epoch + self.scheduler.now + self.offset


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The part of an event loop that the library's coroutines use; its executor's threads are fibres."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process

    def time(self) -> float:
        return self._scheduler.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
        return task

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        return self.call_at(self._scheduler.now, callback, *args, context=context)

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._scheduler.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)

        def run() -> None:
            if not handle.cancelled() and self._process.alive:
                asyncio.events._set_running_loop(self)
                try:
                    handle._run()
                finally:
                    asyncio.events._set_running_loop(None)

        self._scheduler.at(when, run)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Does nothing: the heap notices when the time comes."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 (handed to whoever waits)
                self.call_soon(lambda error=error: future.done() or future.set_exception(error))
            else:
                self.call_soon(lambda: future.done() or future.set_result(result))

        self._scheduler.spawn(self._process, work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # A killed process leaves tasks behind, which are not reported.
        if self._process.alive and not self._scheduler.finished and "exception" in context:
            self._scheduler.failures.append((self._process.name, context["exception"]))
