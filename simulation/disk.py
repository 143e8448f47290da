"""The content of a simulated store, with the time of each change, and the store's times of trouble.

| trouble | effect on a call |
|---|---|
| down | it is refused, or hangs until its client gives up or the store is back |
| slow | it takes up to 45 s, before or after its effect, and succeeds |
| losing replies | a write happens, and its client gets no answer, or "it is there already" |
| late writes | a write's client gives up, and the write happens a moment later |
| stale listings | a listing lacks the newest objects, as over NFS |

It uses no library code, since the oracle reads it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

# Probability for a write or listing in a time of trouble.
_LOST_REPLY = 0.3


class Kept(NamedTuple):
    """One object. `at`: seconds of its creation; `by`: the process that made it."""

    body: bytes
    at: float = 0.0
    by: str = ""


Ill = Literal["down", "slow", "losing replies", "late writes", "stale listings"]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A time in which store calls fail or take long.

    `process`: whose calls; None: everybody's. `keys`: a part of the affected keys. `chance`: for a write or listing.
    """

    kind: Ill
    begin: float
    end: float
    process: str | None = None
    keys: str = ""
    chance: float = _LOST_REPLY

    @property
    def hangs_on(self) -> bool:
        """Whether a call that began in it may continue long after its end."""
        return self.kind in ("down", "slow")


class Disk:
    """All objects. `gone`: what was deleted or overwritten, and when.

    `directory` has the objects that somebody maps, as files named by content, so disks may share it. `looked_at`:
    settlement → when its writer read past the journal's end in the preceding call; None: it did not.
    """

    def __init__(self, directory: Path | None = None, objects: Mapping[str, Kept] | None = None) -> None:
        self.directory = directory
        self.objects: dict[str, Kept] = dict(objects or {})
        self.gone: list[tuple[str, float]] = []
        self.looked_at: dict[str, float | None] = {}
        self._own_files: set[Path] = set()

    def file(self, key: str) -> Path:
        return self.put_file(hashlib.sha256(self.objects[key].body).hexdigest(), self.objects[key].body)

    def files_below(self, prefix: str) -> Path:
        """A directory with every object below `prefix` under the rest of its key."""
        bodies = {key.removeprefix(f"{prefix}/"): self.objects[key].body for key in self.below(prefix)}
        name = hashlib.sha256(prefix.encode() + b"".join(map(bytes, bodies.values()))).hexdigest()
        for file, body in bodies.items():
            self.put_file(f"{name}/{file}", body)
        assert self.directory is not None
        return self.directory / name

    def put_file(self, name: str, body: bytes) -> Path:
        assert self.directory is not None, "this disk has no place for files"
        path = self.directory / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            self._own_files.add(path)
        return path

    def close(self) -> None:
        """Deletes the files that did not exist before."""
        for path in self._own_files:
            path.unlink(missing_ok=True)

    def json(self, key: str) -> dict[str, Any]:
        return json.loads(self.objects[key].body)

    def below(self, prefix: str) -> list[str]:
        start = f"{prefix}/" if prefix else ""
        # A copy, since lease-renewing threads write meanwhile.
        return sorted(key for key in list(self.objects) if key.startswith(start))
