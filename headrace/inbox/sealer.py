"""Seals closed parts one after another, in a thread of its own: a store may be slow, and producers wait for the log.

What cannot be sealed now is tried again, at most 30 s later. What can never be (another log's windows, a damaged chain)
stops its own campaign: its events stay in the log, and the reason is told.
"""

import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from headrace.errors import StoreUnavailable, Transient, reason_of
from headrace.inbox.log import ClosedPart, LogReader
from headrace.inbox.sealing import Sealer
from headrace.inbox.windows import Part

_RETRY_SECONDS, _RETRY_SECONDS_MAX = 0.5, 30.0

SealerOf = Callable[[str], Sealer]


class _Record(Protocol):
    def __call__(self, what: str, /, **facts: Any) -> None: ...


class SealingThread:
    """Attributes: stopped: campaign → why nothing of it is sealed any more."""

    def __init__(self, sealer: Sealer, reader: LogReader, record: _Record) -> None:
        self.stopped: dict[str, str] = {}
        self._sealer, self._reader, self._record = sealer, reader, record
        self._changed = threading.Condition()
        self._attempt = threading.Lock()
        self._closed: deque[ClosedPart] = deque()
        self._sealed: list[int] = []
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="inbox-sealer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, parts: Iterable[ClosedPart]) -> None:
        """Parts to seal, in each campaign's order."""
        if parts := list(parts):
            with self._changed:
                self._closed += parts
                self._changed.notify()

    def take_sealed(self) -> list[int]:
        """Parts that were sealed since the last call."""
        with self._changed:
            taken, self._sealed = self._sealed, []
        return taken

    def waiting(self) -> dict[str, list[Part]]:
        """Campaign → its parts that are not sealed yet."""
        found: defaultdict[str, list[Part]] = defaultdict(list)
        with self._changed:
            for closed in self._closed:
                found[closed.campaign].append(closed.part)
        return found

    def wait_for_attempt(self) -> None:
        """Returns once an attempt that is under way has ended: later ones read the log as it is now."""
        with self._attempt:
            return

    def close(self, timeout_seconds: float | None) -> None:
        """Ends after the present part, or after so many seconds."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        if not self._thread.is_alive():
            self._reader.close()

    def _run(self) -> None:
        pause_seconds = _RETRY_SECONDS
        while (closed := self._next()) is not None:
            campaign = closed.campaign
            try:
                with self._attempt:
                    window = self._sealer.seal(closed, self._reader.events(closed.part.part))
            except (Transient, StoreUnavailable, sqlite3.Error) as error:
                self._record("window not sealed yet", campaign=campaign, error=reason_of(error))
                self._wait(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _RETRY_SECONDS_MAX)
                continue
            except Exception as error:  # noqa: BLE001 (other campaigns go on, and this one says why it does not)
                self._stop(campaign, reason_of(error))
                continue
            pause_seconds = _RETRY_SECONDS
            with self._changed:
                self._closed.popleft()
                self._sealed.append(closed.part.part)
            facts = {"number": window.number, "num_events": window.num_events, "closed_by": window.closed_by}
            self._record("window sealed", campaign=campaign, window=window.name, **facts)

    def _next(self) -> ClosedPart | None:
        """The first part of a campaign that is not stopped; None: this is the end."""
        with self._changed:
            while not self._is_closing:
                # Parts of a stopped campaign wait behind the others, for the next process.
                for _ in range(len(self._closed)):
                    if self._closed[0].campaign not in self.stopped:
                        return self._closed[0]
                    self._closed.rotate(-1)
                self._changed.wait()
        return None

    def _wait(self, seconds: float) -> None:
        with self._changed:
            if not self._is_closing:
                self._changed.wait(seconds)

    def _stop(self, campaign: str, reason: str) -> None:
        self.stopped[campaign] = reason
        self._record("windows no longer sealed", campaign=campaign, error=reason)
