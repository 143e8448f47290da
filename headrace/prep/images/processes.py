"""Runs foreign decoders in processes of their own, one a core, so that a picture that kills one ends nothing else.

Pictures go there in batches, and come back in their order. Of a batch whose process died, and of all that were under
way beside it, each picture runs again, alone: the one that dies then is the culprit, and no other is lost. The price is
a copy of each file and each sealed picture between processes, and a process's start, about half a second of one core.
"""

import multiprocessing
import os
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Generic, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

# A batch is a tenth of a second of work or more, beside which its way there and back is nothing.
_BATCH_CALLS, _BATCH_BYTES = 16, 8 * 2**20
# One batch at work, and the next one there already.
_BATCHES_A_PROCESS = 2


class Killed:
    """What a call comes to that ends its process, even alone."""


class DecodingProcesses:
    """Processes that are started when there is work, and again after one died; of one thread."""

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        self._started: ProcessPoolExecutor | None = None

    def map(
        self,
        function: Callable[[bytes], Made],
        given: Iterable[Given],
        body_of: Callable[[Given], bytes | None],
        *,
        memory_bytes_max: int,
    ) -> Iterator[tuple[Given, Made | Killed | None]]:
        """Each of `given` with what `function` makes of its body, in order; None: it has no body.

        Args:
            function: can be pickled, and answers for every fault of a body.
            memory_bytes_max: how much more memory than at rest a process may take; beyond it `function` gets a
                MemoryError.
        """
        under_way: deque[_Batch[Given, Made]] = deque()
        call = _Call(function, memory_bytes_max)
        try:
            for batch in _batches(given, body_of):
                while len(under_way) >= _BATCHES_A_PROCESS * self.num_processes:
                    yield from self._next(call, under_way)
                batch.future = self._submit(call, batch.bodies)
                under_way.append(batch)
            while under_way:
                yield from self._next(call, under_way)
        finally:
            for batch in under_way:
                if batch.future:
                    batch.future.cancel()

    def _next(
        self, call: "_Call[Made]", under_way: "deque[_Batch[Given, Made]]"
    ) -> "Iterator[tuple[Given, Made | Killed | None]]":
        """The first batch, or, if its process died, all batches."""
        batch = under_way.popleft()
        if (made := batch.made()) is not None:
            yield from batch.paired(made)
            return
        self.end()
        suspects = [batch, *under_way]
        under_way.clear()
        for one in suspects:
            # Nothing else may be under way, or an innocent picture would be blamed.
            yield from one.paired(one.made() or [self._alone(call, body) for body in one.bodies])

    def _alone(self, call: "_Call[Made]", body: bytes) -> Made | Killed:
        try:
            [made] = self._submit(call, [body]).result()
        except BrokenProcessPool:
            self.end()
            return Killed()
        return made

    def _submit(self, call: "_Call[Made]", bodies: Sequence[bytes]) -> Future[list[Made]]:
        if self._started is None:
            # Not forked: libraries of this process have threads, whose locks a fork would copy as they are.
            context = multiprocessing.get_context("spawn")
            self._started = ProcessPoolExecutor(self.num_processes, mp_context=context, initializer=_begin)
        try:
            return self._started.submit(call, bodies)
        except BrokenProcessPool:
            # It died while nothing was waited for: whoever asks for the result finds that out.
            broken: Future[list[Made]] = Future()
            broken.set_exception(BrokenProcessPool())
            return broken

    def end(self) -> None:
        """Waits for what is at work. With more work they start again."""
        if self._started is not None:
            self._started.shutdown(cancel_futures=True)
            self._started = None


_of_thread = threading.local()


def decoding_processes() -> DecodingProcesses:
    """Those of this thread: they stay until it ends, since a start costs more than reading a small shard.

    Two threads that shared some would each blame the other's pictures for a death.
    """
    found: DecodingProcesses | None = getattr(_of_thread, "processes", None)
    if found is None:
        found = _of_thread.processes = DecodingProcesses(len(os.sched_getaffinity(0)))
    return found


class _Batch(Generic[Given, Made]):
    def __init__(self) -> None:
        self.given: list[Given] = []
        self.has_body: list[bool] = []
        self.bodies: list[bytes] = []
        self.num_bytes = 0
        self.future: Future[list[Made]] | None = None

    def add(self, one: Given, body: bytes | None) -> None:
        self.given.append(one)
        self.has_body.append(body is not None)
        if body is not None:
            self.bodies.append(body)
            self.num_bytes += len(body)

    @property
    def is_full(self) -> bool:
        return len(self.given) >= _BATCH_CALLS or self.num_bytes >= _BATCH_BYTES

    def made(self) -> list[Made] | None:
        """None: its process died."""
        assert self.future is not None
        try:
            return self.future.result()
        except (BrokenProcessPool, CancelledError):
            return None

    def paired(self, made: Sequence[Made | Killed]) -> Iterator[tuple[Given, Made | Killed | None]]:
        left = iter(made)
        for one, has_body in zip(self.given, self.has_body, strict=True):
            yield one, next(left) if has_body else None


def _batches(given: Iterable[Given], body_of: Callable[[Given], bytes | None]) -> "Iterator[_Batch[Given, Made]]":
    batch = _Batch[Given, Made]()
    for one in given:
        batch.add(one, body_of(one))
        if batch.is_full:
            yield batch
            batch = _Batch[Given, Made]()
    if batch.given:
        yield batch


class _Call(Generic[Made]):
    """What a process runs."""

    def __init__(self, function: Callable[[bytes], Made], memory_bytes_max: int) -> None:
        self._function, self._memory_bytes_max = function, memory_bytes_max

    def __call__(self, bodies: Sequence[bytes]) -> list[Made]:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + self._memory_bytes_max
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
        return [self._function(body) for body in bodies]


def _begin() -> None:
    # A terminal interrupts all; the parent ends what it has started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The other end of its queue is open in its siblings too, so it would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
