"""A device that takes a stated time for each item, one at a time, and keeps a record of it. Standard library only.

What a GPU does for an item is imitated by a pause under the device's lock, so processes that share one get their turns,
as on a real one. Where to is in the environment (`PLACE`), since a version set must not name a temporary directory.
"""

import fcntl
import json
import os
import time
from pathlib import Path

PLACE = "BENCHMARK_DEVICES"


class Device:
    """`name`: such as a GPU's number. `kind`: what is made on it: text, image or speech."""

    def __init__(self, name: str, kind: str, item_seconds: float) -> None:
        self._name, self._kind, self._item_seconds = name, kind, item_seconds
        self._place = Path(os.environ[PLACE])

    def work(self, unit: str) -> None:
        """Blocks until the item is made; appends a line of JSON to this process's record."""
        with (self._place / f"{self._name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            begun = time.time()
            time.sleep(self._item_seconds)
            ended = time.time()
        line = {"kind": self._kind, "unit": unit, "device": self._name, "begun": begun, "ended": ended}
        with (self._place / f"{os.getpid()}.jsonl").open("a") as record:
            record.write(json.dumps({**line, "process": os.getpid()}) + "\n")
