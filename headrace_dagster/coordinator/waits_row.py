"""The queue's measured waits, in one row of Dagster's key-value table, so that they outlive a daemon.

`headrace queue` reads it, too, and tells the daemon's own times. Without the row, or with one that cannot be read, the
waits are measured anew: the order may change once, no promise does.
"""

import json
from dataclasses import asdict

from dagster import DagsterInstance

from headrace.placement.fifo_waits import FifoWaits, StatedWaits
from headrace.store.small_objects import Record

_KEY = "headrace/fifo_waits"
"""No tag, but a row of Dagster's key-value table: how long runs would wait in order of submission, over time."""
_RECORD = Record("Waits of the queue", StatedWaits)


class WaitsRow:
    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._num_raised = 0

    def read(self) -> FifoWaits:
        text = self._instance.daemon_cursor_storage.get_cursor_values({_KEY}).get(_KEY, "")
        try:
            return FifoWaits(_RECORD.checked(text))
        except ValueError:
            return FifoWaits()

    def keep(self, waits: FifoWaits) -> None:
        """Writes them if a wait became longer: by a fiftieth at least each time, so seldom."""
        if waits.num_raised != self._num_raised:
            self._num_raised = waits.num_raised
            self._instance.daemon_cursor_storage.set_cursor_values({_KEY: json.dumps(asdict(waits.stated()))})
