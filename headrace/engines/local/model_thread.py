"""A model and the thread that alone uses it: what engines share whose turns wait for one model in this process."""

import asyncio
import threading
from abc import abstractmethod
from collections import deque
from typing import Any, Generic, Protocol, TypeVar

from headrace.engines.base import EngineFailed, LoadedModel
from headrace.fairness import CLASSES, WorkClass
from headrace.version_sets.sets import EngineSpec, Member

# A gateway admits fewer. More than this is an error, which must not use up memory.
NUM_WAITING_MAX = 256


class OnDevice(Protocol):
    """`device`: a `torch.device`; `mixes_rows`: as in `LoadedModel`."""

    @property
    def device(self) -> Any: ...

    @property
    def mixes_rows(self) -> bool: ...


L = TypeVar("L", bound=OnDevice)
V = TypeVar("V")
B = TypeVar("B")


class ModelThread(LoadedModel, Generic[L, V, B]):
    """What waits for the thread, by class: turns that are asked alone, `V`, and those that are asked together, `B`.
    `_changed` guards both, and tells the thread of news. More urgent ones go first, also at each step of what the
    thread does for others.
    """

    def __init__(self, local: L, member: Member, spec: EngineSpec, *, doing: str) -> None:
        """`doing`: the thread's name begins with it."""
        self._named = f"{member.model_name} {member.model_version}"
        self._local: L | None = local
        self._batch_rows = spec.batch_rows
        # Those that the thread makes, and as many at hand when it has.
        self.num_at_once = 2 * spec.batch_rows
        self.mixes_rows = local.mixes_rows
        self.computes_on_cpu = local.device.type == "cpu"
        self._turns: dict[WorkClass, deque[V]] = {one: deque() for one in CLASSES}
        self._batches: dict[WorkClass, deque[B]] = {one: deque() for one in CLASSES}
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(
            target=self._run, args=(local,), name=f"{doing} {member.model_name}", daemon=True
        )
        self._thread.start()

    @property
    def _num_waiting(self) -> int:
        return sum(map(len, (*self._turns.values(), *self._batches.values())))

    def _taken_out(self) -> list[V | B]:
        """All that waits, which nobody will make any more."""
        with self._changed:
            left = [one for queues in (self._turns, self._batches) for queue in queues.values() for one in queue]
            for queue in (*self._turns.values(), *self._batches.values()):
                queue.clear()
        return left

    @abstractmethod
    def _run(self, local: L) -> None:
        """The thread's work, until `_is_closed`; then fails what still waits."""

    async def close(self) -> None:
        """Fails the turns under way, and frees the model."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)
        self._local = None

    def _closed(self) -> EngineFailed:
        return EngineFailed(f"The engine of {self._named} is closed.", may_be_the_turn=False)
