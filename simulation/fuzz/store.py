"""A store in memory that is copied in a moment, and that notes what its readers looked at.

What a reader looked at decides which readers a damage can concern: one that neither read the object nor saw it in a
listing does what it did before, so it need not be asked again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.store.objects import Entry, Segment, check_key


@dataclass
class Looks:
    """Keys that were read or asked for, prefixes listed with sizes or names, prefixes of which the next names were."""

    keys: set[str] = field(default_factory=set)
    below: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def concern(self, key: str, *, is_gone: bool, left: dict[str, bytes]) -> bool:
        if key in self.keys or any(key.startswith(f"{prefix}/") for prefix in self.below):
            return True
        if not is_gone:
            return False
        # A name vanishes with the last object below it.
        segments = key.split("/")
        for depth in range(1, len(segments)):
            prefix = "/".join(segments[:depth])
            start = f"{prefix}/{segments[depth]}"
            if prefix in self.names and not any(one == start or one.startswith(f"{start}/") for one in left):
                return True
        return False


class FuzzStore:
    """What each method promises stands at `headrace.store.objects.ObjectStore`. `now`: of all objects."""

    checks_what_it_fetches = False
    url = "fuzz://"

    def __init__(self, files: Path, objects: dict[str, bytes] | None = None, *, now: float = 0.0) -> None:
        self.objects = dict(objects or {})
        self.looks = Looks()
        self.now = now
        self._files = files

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        self._look(key)
        if key in self.objects:
            return False
        self.objects[key] = bytes(body)
        return True

    def read(self, key: str) -> bytes:
        self._look(key)
        if key not in self.objects:
            raise ObjectMissing(f"{self.uri(key)} does not exist.")
        return self.objects[key]

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> "list[memoryview]":
        body = memoryview(self.read(key))
        for offset, num_bytes in ranges:
            if offset + num_bytes > len(body):
                raise HandoffCorrupt(f"{self.uri(key)} ends before byte {offset + num_bytes}: it is torn.", key=key)
        return [body[offset : offset + num_bytes] for offset, num_bytes in ranges]

    def exists(self, key: str) -> bool:
        self._look(key)
        return key in self.objects

    @contextmanager
    def write_part(self, key: str) -> Iterator["_Part"]:
        part = _Part()
        yield part
        if not self.create(key, part.getvalue()):
            raise InvalidInput(f"Part {key} is already there.")

    def local_path(self, key: str) -> Path:
        self._look(key)
        body = self.objects.get(key)
        return self._files / "missing" if body is None else self._file(body)

    def local_directory(self, prefix: str) -> Path:
        self.looks.below.add(prefix)
        found = {
            key[len(prefix) + 1 :]: body for key, body in list(self.objects.items()) if key.startswith(f"{prefix}/")
        }
        digest = hashlib.sha256()
        for name, body in sorted(found.items()):
            digest.update(f"{name} {len(body)} ".encode() + body)
        directory = self._files / f"d-{digest.hexdigest()}"
        for name, body in found.items():
            path = directory / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
        return directory

    def local_segments(self, key: str, *, digest: str, num_bytes: int, segments: Sequence[Segment]) -> Path:
        return self.local_path(key)

    def uri(self, key: str) -> str:
        return f"fuzz://{key}"

    def node_directory(self) -> Path:
        return self._files / "node"

    def delete(self, key: str, *, durable: bool = True) -> None:
        self._look(key)
        self.objects.pop(key, None)

    def delete_prefix(self, prefix: str) -> None:
        for key in self.list(prefix):
            self.objects.pop(key, None)

    def children(self, prefix: str) -> "list[str]":
        self.looks.names.add(prefix)
        start = f"{prefix}/"
        return sorted({key[len(start) :].partition("/")[0] for key in [*self.objects] if key.startswith(start)})

    def entries(self, prefix: str) -> "list[Entry]":
        keys = self.list(prefix)
        return [Entry(key=key, num_bytes=len(self.objects[key]), modified_at=self.now) for key in keys]

    # Last in the class: its name hides the built-in one from the annotations that follow it.
    def list(self, prefix: str) -> "list[str]":
        self.looks.below.add(prefix)
        # A copy: the thread that renews leases writes here too.
        return sorted(key for key in [*self.objects] if key.startswith(f"{prefix}/"))

    def _look(self, key: str) -> None:
        self.looks.keys.add(check_key(key))

    def _file(self, body: bytes) -> Path:
        path = self._files / hashlib.sha256(body).hexdigest()
        if not path.exists():
            path.write_bytes(body)
        return path


class _Part(BytesIO):
    @property
    def num_bytes(self) -> int:
        return len(self.getbuffer())
