"""One daemon dequeues. Dagster itself only logs that there are two, and one run is then started twice (dagster#33962).

On one machine a lock file decides: the kernel gives it back when its holder dies, however it dies. For daemons on
several machines, which share a database, a row names the holder, renewed while it works. A holder that stood still for
longer than the row is good for, between a look and a launch, could overlap with its successor: GPUs would still not be
promised twice, since both write what they promise into the same run, and a run that is not QUEUED is not launched.
"""

import json
import os
import secrets
import socket
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.storage.legacy_storage import LegacyRunStorage
from dagster._core.storage.runs import InMemoryRunStorage, SqliteRunStorage
from filelock import FileLock, Timeout

from headrace.errors import HeadraceError

_KEY = "headrace/dequeuing_daemon"
# A daemon that is alive renews every iteration, seconds apart; a launch may take a minute in between.
_GOOD_SECONDS = 120.0
# Two daemons that start at once both find no row: the one whose row stands after this time has won.
_SETTLE_SECONDS = 3.0


class AnotherDaemon(HeadraceError):
    """Shown on the UI's daemon page."""


class DaemonLease:
    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "nonce": secrets.token_hex(8)}
        self._lock: FileLock | None = None
        self._claimed_at: float | None = None
        self._is_one_machine = _is_one_machine(instance)

    def hold(self, now: float) -> bool:
        """Renew; False while a fresh claim has not yet settled.

        Raises:
            AnotherDaemon: names it.
        """
        self._hold_lock()
        if self._is_one_machine:
            return True
        storage = self._instance.daemon_cursor_storage
        holder = json.loads(storage.get_cursor_values({_KEY}).get(_KEY, "null"))
        is_mine = holder is not None and holder["nonce"] == self._me["nonce"]
        # The lock file tells that a holder on this machine is gone.
        is_gone = holder is None or holder["host"] == self._me["host"] or now - holder["at"] > _GOOD_SECONDS
        if holder is not None and not is_mine and not is_gone:
            self._claimed_at = None
            raise AnotherDaemon(
                f"Another daemon (process {holder['pid']} on {holder['host']}) dequeues the runs of this instance: "
                "stop one of the two, or two would start the same run."
            )
        if not is_mine:
            self._claimed_at = now
        storage.set_cursor_values({_KEY: json.dumps({**self._me, "at": now})})
        return self._claimed_at is None or now - self._claimed_at >= _SETTLE_SECONDS

    def give_back(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None

    def _hold_lock(self) -> None:
        if self._lock or self._instance.is_ephemeral:
            return
        path = Path(self._instance.root_directory, "dequeuing.lock")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise AnotherDaemon(
                f"Another daemon on this machine holds {path} and dequeues the runs of this instance: stop one of "
                "the two, or two would start the same run."
            ) from None
        self._lock = lock


def _is_one_machine(instance: DagsterInstance) -> bool:
    storage = instance.run_storage
    if isinstance(storage, LegacyRunStorage):
        storage = storage._storage.run_storage
    return isinstance(storage, SqliteRunStorage | InMemoryRunStorage)
