"""Results that are kept in a file: a run that was stopped goes on where it was.

A line each. What a result depends on is its key, with a digest of the code that made it: none outlives a change.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class KeptResults:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = entry["result"]
                except (ValueError, KeyError, TypeError):
                    continue  # the line that was being written when the run was stopped

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._known.get(_text(key))

    def put(self, key: Mapping[str, Any], result: dict[str, Any]) -> None:
        self._known[_text(key)] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"key": _text(key), "result": result}) + "\n")

    def forget(self) -> None:
        """For what is measured anew each time, once a run is whole."""
        self._known.clear()
        self._path.unlink(missing_ok=True)


def digest_of(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
