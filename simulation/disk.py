"""An object store in memory that is slow, refuses, loses replies and sees processes die, as a schedule wants it.

| trouble | what a call meets |
|---|---|
| down | it is refused, or hangs until its client gives up or the store is back |
| slow | it takes up to 45 s, before or after it has its effect, and succeeds |
| losing replies | a write happens and its client hears nothing, or "it is there already" |
| late writes | a write's client gives up, and the write happens a moment later all the same |
| stale listings | a listing does not show what was made in the last moments, as over NFS |

What is durable is one `Disk`; each process sees it through a `SimulatedStore`. A create takes effect at one moment of
simulated time, which the disk keeps: the oracle orders events by it. Parts are real files, for Arrow maps them.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from headrace.errors import ObjectMissing, StoreUnavailable
from headrace.store.objects import Entry, Segment, check_key
from simulation.scheduler import Scheduler

# Chances that decide over a call of the store in a time of trouble.
_LOST_REPLY = 0.3


@dataclass(frozen=True, slots=True)
class Kept:
    """One object. `at`: simulated seconds at which it came to be; `by`: the process that made it."""

    body: bytes
    at: float
    by: str


Ill = Literal["down", "slow", "losing replies", "late writes", "stale listings"]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A time in which calls of the store fail or take long.

    `process`: whose; None: everybody's. `keys`: a part of the keys that it is about. `chance`: of a write or listing.
    """

    kind: Ill
    begin: float
    end: float
    process: str | None = None
    keys: str = ""
    chance: float = _LOST_REPLY

    @property
    def hangs_on(self) -> bool:
        """Whether a call that began in it may take long after its end."""
        return self.kind in ("down", "slow")


class Disk:
    """All objects. `gone`: what was deleted or overwritten, and when.

    `looked_at`: settlement → when its writer read past the journal's end in the call before; None: it did not.
    """

    def __init__(self, directory: Path, *, copied: "Disk | None" = None) -> None:
        self.directory = directory
        self.objects: dict[str, Kept] = dict(copied.objects) if copied else {}
        self.gone: list[tuple[str, float]] = []
        self.looked_at: dict[str, float | None] = {}
        self._others_files: dict[str, Path] = dict(copied._files) if copied else {}
        self._files: dict[str, Path] = {}

    def file(self, key: str) -> Path:
        if key in self._others_files:
            return self._others_files[key]
        if key not in self._files:
            path = self.directory / f"{id(self):x}-{len(self._files):05d}"
            path.write_bytes(self.objects[key].body)
            self._files[key] = path
        return self._files[key]

    def close(self) -> None:
        for path in self._files.values():
            path.unlink(missing_ok=True)

    def json(self, key: str) -> dict[str, Any]:
        return json.loads(self.objects[key].body)

    def below(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix + "/"))


class SimulatedStore:
    """What each method promises stands at `headrace.store.objects.ObjectStore`."""

    checks_what_it_fetches = True
    url = "simulated://"

    def __init__(
        self,
        disk: Disk,
        scheduler: Scheduler,
        chance: random.Random,
        troubles: list[Trouble],
        trace: list[str] | None = None,
        foresees: Callable[[str], float] = lambda call: 0.0,
    ) -> None:
        self._disk = disk
        self._scheduler = scheduler
        self._chance = chance
        self._troubles = troubles
        self._trace = trace
        # Told of every call before it begins, it may make something happen just then, and hold the call for seconds.
        self._foresees = foresees
        self._head_read_at = 0.0
        self._calls_since_head = 0
        self.num_calls = 0

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        check_key(key)
        trouble = self._begin(f"create {key}")
        kind = trouble.kind if trouble and self._chance.random() < trouble.chance else ""
        looked_at, by = self._head_read_at if self._calls_since_head <= 1 else None, self._name()

        def make() -> bool:
            if key in self._disk.objects:
                return False
            self._disk.objects[key] = Kept(bytes(body), self._scheduler.now, by)
            if key.endswith(".settled.json"):
                self._disk.looked_at[key] = looked_at
            self._say(f"made {key}")
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
            # The client asked again, and heard of its own success.
            return False
        return made

    def read(self, key: str) -> bytes:
        trouble = self._begin(f"read {key}")
        found = self._disk.objects.get(key)
        if found is None and "/journal/" in key:
            self._head_read_at, self._calls_since_head = self._scheduler.now, 0
        self._end(trouble)
        if found is None:
            raise ObjectMissing(f"{key} does not exist.")
        return found.body

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        body = memoryview(self.read(key))
        return [body[offset : offset + num_bytes] for offset, num_bytes in ranges]

    def exists(self, key: str) -> bool:
        self._begin(f"exists {key}")
        found = key in self._disk.objects
        self._end()
        return found

    def children(self, prefix: str) -> list[str]:
        keys = self._listed("children", prefix)
        names = {key[len(prefix) + 1 :].partition("/")[0] for key in keys}
        self._end()
        return sorted(names)

    @contextmanager
    def write_part(self, key: str) -> Iterator["_Part"]:
        part = _Part()
        yield part
        self._begin(f"part {key}")
        self._disk.objects[key] = Kept(part.getvalue(), self._scheduler.now, self._name())
        self._end()

    def local_path(self, key: str) -> Path:
        self._begin(f"fetch {key}")
        if key not in self._disk.objects:
            raise ObjectMissing(f"{key} does not exist.")
        return self._disk.file(key)

    def local_directory(self, prefix: str) -> Path:
        raise NotImplementedError(prefix)

    def local_segments(self, key: str, *, digest: str, num_bytes: int, segments: Sequence[Segment]) -> Path:
        return self.local_path(key)

    def delete(self, key: str, *, durable: bool = True) -> None:
        self._begin(f"delete {key}")
        if self._disk.objects.pop(key, None):
            self._disk.gone.append((key, self._scheduler.now))
        self._end()

    def delete_prefix(self, prefix: str) -> None:
        for key in self._disk.below(prefix):
            self.delete(key)

    def uri(self, key: str) -> str:
        return f"simulated://{key}"

    def node_directory(self) -> Path:
        return self._disk.directory

    def entries(self, prefix: str) -> list[Entry]:
        kept = {key: self._disk.objects[key] for key in self._listed("entries", prefix)}
        self._end()
        return [Entry(key=key, num_bytes=len(one.body), modified_at=one.at) for key, one in kept.items()]

    def list(self, prefix: str) -> list[str]:
        keys = self._listed("list", prefix)
        self._end()
        return keys

    def _listed(self, call: str, prefix: str) -> "list[str]":
        trouble = self._begin(f"{call} {prefix}")
        keys = self._disk.below(prefix)
        if trouble is None or trouble.kind != "stale listings" or self._chance.random() >= trouble.chance:
            return keys
        seen = self._scheduler.now - self._chance.choice((0.05, 0.3))
        return [key for key in keys if self._disk.objects[key].at <= seen]

    def _begin(self, call: str) -> Trouble | None:
        """The way there. Returns the trouble that the call may meet on its way back.

        Raises:
            Killed: the process dies before the call has an effect.
            StoreUnavailable: and the call has no effect.
        """
        self.num_calls += 1
        self._calls_since_head += 1
        process = self._scheduler.process()
        if process is None:
            return None
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
        # Down: some are refused at once, some hang until their client's patience ends, or until the store is back.
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
        """The way back. Raises: Killed: the process dies behind the call's effect."""
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

    def _say(self, what: str) -> None:
        if self._trace is not None:
            self._trace.append(f"{self._scheduler.now:8.3f} {self._name() or 'simulator':<14} {what}")

    def _name(self) -> str:
        process = self._scheduler.process()
        return process.name if process else ""


class _Part(BytesIO):
    @property
    def num_bytes(self) -> int:
        return len(self.getbuffer())
