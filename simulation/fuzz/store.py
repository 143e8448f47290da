"""A store in memory that is copied at once, and that notes what its readers looked at.

A damage only concerns readers that looked at the object: one that neither read it nor saw it in a listing behaves as
before, and need not run again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.clock import FixedClock
from headrace.store.objects import check_key
from simulation.disk import Disk, Kept
from simulation.stores import MemoryStore


@dataclass
class Looks:
    """Keys that were read or checked, and listed prefixes (with sizes, with names, or their next segments)."""

    keys: set[str] = field(default_factory=set)
    below: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def concern(self, key: str, *, is_gone: bool, left: Mapping[str, Kept]) -> bool:
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


class FuzzStore(MemoryStore):
    """Like a store on this machine, whose files may be anywhere: it returns paths without checking that anything is
    there."""

    checks_what_it_fetches = False
    url = "fuzz://"

    def __init__(self, disk: Disk) -> None:
        super().__init__(FixedClock(0.0), disk)
        self.looks = Looks()

    def local_path(self, key: str) -> Path:
        self._begin("fetch", key)
        assert self.disk.directory is not None
        return self.disk.file(key) if key in self.bodies else self.disk.directory / "missing"

    def local_directory(self, prefix: str) -> Path:
        found = {key[len(prefix) + 1 :]: self.bodies[key].body for key in self.list(prefix)}
        digest = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
        assert self.disk.directory is not None
        for name, body in found.items():
            self.disk.put_file(f"d-{digest}/{name}", body)
        return self.disk.directory / f"d-{digest}"

    def _begin(self, call: str, key: str) -> None:
        if call in ("list", "entries"):
            self.looks.below.add(key)
        elif call == "children":
            self.looks.names.add(key)
        else:
            self.looks.keys.add(check_key(key))
