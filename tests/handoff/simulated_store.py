"""Actors that run one operation of a store in memory at a time.

An actor is a thread that waits before each of its store operations until it is told to go on: the test decides who does
the next one. A killed actor never goes on; nothing of it is cleaned up, as after a real kill.
"""

import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

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


class Actors(RuleBasedStateMachine):
    """A model whose actors each do some operations in turn, are stopped right before one, or killed."""

    stops: ClassVar[Sequence[str]]
    store: Any

    def __init__(self) -> None:
        super().__init__()
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []

    def act(self, program: Callable[[Any], None]) -> None:
        self.actors.append(Actor(self.store, program))

    @rule(turns=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=12))
    def go_on(self, turns: list[tuple[int, int]]) -> None:
        for index, num_steps in turns:
            if self.actors:
                actor = self.actors[index % len(self.actors)]
                for _ in range(num_steps):
                    actor.step()
        self.actors = [actor for actor in self.actors if not self.has_ended(actor)]

    @rule(index=st.integers(0, 30), data=st.data())
    def go_on_until(self, index: int, data: st.DataObject) -> None:
        """Stops right before what the others must, or must not, see."""
        if self.actors:
            self.actors[index % len(self.actors)].run_until(data.draw(st.sampled_from(self.stops)))
            self.go_on([])

    @rule(index=st.integers(0, 30))
    def kill(self, index: int) -> None:
        if self.actors:
            self.killed.append(self.actors.pop(index % len(self.actors)))

    def has_ended(self, actor: Actor) -> bool:
        if actor.error and "plan is" not in str(actor.error):
            raise actor.error
        return actor.is_done

    def bury_all(self) -> None:
        for actor in self.actors + self.killed:
            actor.bury()


class ByHand:
    """Stands for the renewal thread where the test says when a process renews."""

    def includes(self, leases: object) -> None: ...

    def wake(self, leases: object) -> None: ...
