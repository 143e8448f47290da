"""Lets only one daemon dequeue. With two, Dagster only logs that, and starts one run twice (dagster#33962).

On one machine a lock file decides: the kernel releases it when its holder dies in any way. For daemons on several
machines, which share a database, a row names the holder, which renews it while it works. If a holder pauses for longer
than its row is valid, between a look and a launch, it may overlap with its successor. Even then no GPU is promised
twice, since both write their promises into the same run, and only QUEUED runs are launched.
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
"""No tag, but a row of Dagster's key-value table: which daemon dequeues, and until when."""
# A live daemon renews every iteration, seconds apart; a launch between two may take a minute.
_GOOD_SECONDS = 120.0
# Two daemons that start at once both find no row: the one whose row remains after this time has won.
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
        """Renews; False while a new claim has not settled yet.

        Raises:
            AnotherDaemon: names the other daemon.
        """
        self._hold_lock()
        if self._is_one_machine:
            return True
        storage = self._instance.daemon_cursor_storage
        holder = json.loads(storage.get_cursor_values({_KEY}).get(_KEY, "null"))
        is_mine = holder is not None and holder["nonce"] == self._me["nonce"]
        # The lock file proves that a holder on this machine is gone.
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
