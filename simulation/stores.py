"""Object stores in memory: one that works, and one in simulated time that is slow, refuses, loses replies and sees
processes die, as a schedule demands.

One `Disk` has the durable content; each process sees it through its own store. A create takes effect at one moment,
which the disk records, so the oracle can order events. Parts become real files on demand, since Arrow maps them.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing, StoreUnavailable
from headrace.store.objects import Entry, Segment, check_key
from simulation.disk import Disk, Kept, Trouble
from simulation.scheduler import Scheduler, SimulatedClock


class MemoryStore:
    """`headrace.store.objects.ObjectStore` states what each method promises. Deleting a prefix is not atomic.

    `before_each` is called with every operation, such as `create a/b`, before its effect.
    """

    checks_what_it_fetches = True
    url = "memory://"

    def __init__(
        self, clock: Clock, disk: Disk | None = None, before_each: Callable[[str], None] = lambda operation: None
    ) -> None:
        self.clock = clock
        self.disk = disk or Disk()
        self.bodies = self.disk.objects
        self.before_each = before_each

    def seen_by(self, before_each: Callable[[str], None]) -> "MemoryStore":
        """The same objects, with another `before_each`."""
        return MemoryStore(self.clock, self.disk, before_each)

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        self._begin("create", key)
        made = self._make(key, body)
        self._end()
        return made

    def replace(self, key: str, body: bytes, *, of: bytes) -> bool:
        self._begin("replace", key)
        found = self.bodies.get(key)
        is_same = found is not None and found.body == of
        if is_same:
            self.bodies[key] = Kept(bytes(body), self.clock.now(), self._name())
        self._end()
        return is_same

    def read(self, key: str) -> bytes:
        self._begin("read", key)
        found = self.bodies.get(key)
        self._end()
        if found is None:
            raise ObjectMissing(f"{self.uri(key)} does not exist.")
        return found.body

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> "list[memoryview]":
        body = memoryview(self.read(key))
        if any(offset + num_bytes > len(body) for offset, num_bytes in ranges):
            raise HandoffCorrupt(f"{self.uri(key)} ends after {len(body)} bytes: it is torn.", key=key)
        return [body[offset : offset + num_bytes] for offset, num_bytes in ranges]

    def exists(self, key: str) -> bool:
        self._begin("exists", key)
        found = key in self.bodies
        self._end()
        return found

    @contextmanager
    def write_part(self, key: str) -> Iterator["_Part"]:
        part = _Part()
        yield part
        self._begin("part", key)
        if not self._make(key, part.getvalue()):
            raise InvalidInput(f"Part {key} is already there.")
        self._end()

    def link(self, key: str, existing: str) -> bool:
        return False

    def local_path(self, key: str) -> Path:
        self._begin("fetch", key)
        if key not in self.bodies:
            raise ObjectMissing(f"{self.uri(key)} does not exist.")
        return self.disk.file(key)

    def local_directory(self, prefix: str) -> Path:
        self._begin("fetch", prefix)
        return self.disk.files_below(prefix)

    def local_segments(self, key: str, *, digest: str, num_bytes: int, segments: Sequence[Segment]) -> Path:
        return self.local_path(key)

    def delete(self, key: str, *, durable: bool = True) -> None:
        self._begin("delete", key)
        if self.bodies.pop(key, None):
            self.disk.gone.append((key, self.clock.now()))
        self._end()

    def delete_prefix(self, prefix: str) -> None:
        for key in self.disk.below(prefix):
            self.delete(key)

    def uri(self, key: str) -> str:
        return f"{self.url}/{key}"

    def node_directory(self) -> Path:
        assert self.disk.directory is not None
        return self.disk.directory / "node"

    def children(self, prefix: str) -> "list[str]":
        start = len(prefix) + 1 if prefix else 0
        return sorted({key[start:].partition("/")[0] for key in self._listed("children", prefix)})

    def entries(self, prefix: str) -> "list[Entry]":
        found = [(key, self.bodies[key]) for key in self._listed("entries", prefix)]
        return [Entry(key=key, num_bytes=len(one.body), modified_at=one.at) for key, one in found]

    # Last of the public ones: its name hides the built-in `list` from the annotations that follow it.
    def list(self, prefix: str) -> "list[str]":
        return self._listed("list", prefix)

    def _listed(self, call: str, prefix: str) -> "list[str]":
        self._begin(call, prefix)
        keys = self.disk.below(prefix)
        self._end()
        return keys

    def _make(self, key: str, body: bytes, by: str | None = None) -> bool:
        made = Kept(bytes(body), self.clock.now(), self._name() if by is None else by)
        # One operation: of two threads that create a key, one wins.
        return self.bodies.setdefault(check_key(key), made) is made

    def _begin(self, call: str, key: str) -> object:
        """Before a call's effect."""
        self.before_each(f"{call} {key}")

    def _end(self) -> None:
        """After a call's effect."""

    def _name(self) -> str:
        """The calling process's name."""
        return ""


class SimulatedStore(MemoryStore):
    """A process's store in simulated time. Its calls meet present troubles, and may be their process's last.

    `foresees` is called before every call; it may make something happen then, and delay the call by seconds.
    """

    url = "simulated://"

    def __init__(
        self,
        disk: Disk,
        scheduler: Scheduler,
        chance: random.Random,
        troubles: Sequence[Trouble],
        trace: "list[str] | None" = None,
        foresees: Callable[[str], float] = lambda call: 0.0,
    ) -> None:
        super().__init__(SimulatedClock(scheduler, epoch=0.0), disk)
        self._scheduler = scheduler
        self._chance = chance
        self._troubles = troubles
        self._trace = trace
        self._foresees = foresees
        self._head_read_at = 0.0
        self._calls_since_head = 0
        self.num_calls = 0

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        trouble = self._begin("create", key)
        kind = trouble.kind if trouble and self._chance.random() < trouble.chance else ""
        looked_at, by = self._head_read_at if self._calls_since_head <= 1 else None, self._name()

        def make() -> bool:
            if not self._make(key, body, by):
                return False
            if key.endswith(".settled.json"):
                self.disk.looked_at[key] = looked_at
            return True

        if kind == "late writes":
            self._scheduler.at(self._scheduler.now + self._chance.choice((0.02, 0.1, 0.5)), make)
            self._end()
            raise StoreUnavailable(f"simulated: no answer in time to create {key}.")
        made = make()
        self._end()
        if kind == "losing replies" and made:
            if self._chance.random() < 0.5:
                raise StoreUnavailable(f"simulated: the reply to create {key} was lost.")
            # The client asked again, and got the answer about its own success.
            return False
        return made

    def read(self, key: str) -> bytes:
        trouble = self._begin("read", key)
        found = self.bodies.get(key)
        if found is None and "/journal/" in key:
            self._head_read_at, self._calls_since_head = self._scheduler.now, 0
        self._end(trouble)
        if found is None:
            raise ObjectMissing(f"{key} does not exist.")
        return found.body

    def _listed(self, call: str, prefix: str) -> "list[str]":
        trouble = self._begin(call, prefix)
        keys = self.disk.below(prefix)
        if trouble and trouble.kind == "stale listings" and self._chance.random() < trouble.chance:
            seen = self._scheduler.now - self._chance.choice((0.05, 0.3))
            keys = [key for key in keys if self.bodies[key].at <= seen]
        self._end()
        return keys

    def _make(self, key: str, body: bytes, by: str | None = None) -> bool:
        made = super()._make(key, body, by)
        if made and self._trace is not None:
            self._trace.append(f"{self._scheduler.now:8.3f} {self._name() or 'simulator':<14} made {key}")
        return made

    def _begin(self, call: str, key: str) -> Trouble | None:
        """Runs before the effect. Returns the trouble that the call may meet on its way back.

        Raises:
            Killed: the process dies before the call has an effect.
            StoreUnavailable: the call has no effect.
        """
        self.num_calls += 1
        self._calls_since_head += 1
        process = self._scheduler.process()
        if process is None:
            return None
        call = f"{call} {key}"
        self._scheduler.check_alive()
        if held := self._foresees(call):
            self._scheduler.sleep(held)
        if process.calls_to_live is not None:
            process.calls_to_live -= 1
            if process.calls_to_live <= 0 and not process.killed_after:
                self._scheduler.kill(process)
        trouble = self._trouble(process.name, call)
        if trouble is None:
            self._scheduler.sleep(0.001 + 0.012 * self._chance.random())
            return None
        if trouble.kind == "slow" and call.startswith("read ") and self._chance.random() < 0.5:
            return trouble  # the way back takes long
        if trouble.kind == "slow":
            self._scheduler.sleep(self._long())
            return None
        if trouble.kind != "down":
            self._scheduler.sleep(0.01)
            return trouble
        # Down: some calls are refused at once, others hang until their client gives up or the store is back.
        if self._chance.random() < 0.6:
            self._scheduler.sleep(0.003)
            raise StoreUnavailable("simulated: 503 Service Unavailable.")
        patience = self._chance.choice((0.5, 2.0, 30.0))
        if self._scheduler.now + patience < trouble.end:
            self._scheduler.sleep(patience)
            raise StoreUnavailable("simulated: no answer in time.")
        self._scheduler.sleep(trouble.end - self._scheduler.now)
        return None

    def _long(self) -> float:
        return self._chance.choice((0.4, 1.2, 5.0, 30.0)) * (0.5 + self._chance.random())

    def _end(self, trouble: Trouble | None = None) -> None:
        """Runs after the effect. Raises: Killed: the process dies after the call's effect."""
        process = self._scheduler.process()
        if process is None:
            return
        if process.calls_to_live is not None and process.calls_to_live <= 0:
            self._scheduler.kill(process)
        is_slow = trouble is not None and trouble.kind == "slow"
        self._scheduler.sleep(self._long() if is_slow else 0.001 + 0.006 * self._chance.random())

    def _trouble(self, process: str, call: str) -> Trouble | None:
        now = self._scheduler.now
        for trouble in self._troubles:
            if trouble.begin <= now < trouble.end and trouble.process in (None, process) and trouble.keys in call:
                return trouble
        return None

    def _name(self) -> str:
        process = self._scheduler.process()
        return process.name if process else ""


class _Part(BytesIO):
    @property
    def num_bytes(self) -> int:
        return len(self.getbuffer())
