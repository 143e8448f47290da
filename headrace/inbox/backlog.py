"""How long a campaign's waiting rows will take: rows that wait, divided by the measured drain.

A window is worked off once its partition of `generated_content` is sealed. The drain is measured over the last windows
that were, and only while one was ready: an idle night says nothing about how fast rows are made. Nothing is said before
the first one.
"""

from collections import deque

from headrace.clock import epoch_seconds
from headrace.handoff.manifests import newest_manifest
from headrace.inbox.drain import WorkedOff, rows_per_second
from headrace.inbox.rules import InboxRules
from headrace.inbox.sealed import SealedWindow, windows_chain
from headrace.store.objects import ObjectStore

# What a campaign makes of a window first; later assets follow it.
WORKED_OFF_ASSET = "generated_content"
_NUM_MEASURED = 20
# How far back the first look goes: what a gateway does not know of is taken for worked off.
_NUM_LOOKED_AT = 2_000
# Windows are worked off in about their order, so of many that wait the first ones tell.
_NUM_ASKED_FOR = 50


class Backlog:
    """The sealed windows of one campaign that are not worked off. `look` does I/O; everything else is quick.

    Attributes:
        num_rows: of windows that are sealed and not worked off.
        oldest: when the first of them was sealed, seconds since the epoch; None: there is none.
        drain: rows a second; None: nothing was measured yet.
    """

    def __init__(self, store: ObjectStore, campaign: str, rules: InboxRules) -> None:
        self.num_rows = 0
        self.oldest: float | None = None
        self.drain: float | None = None
        self._store, self._rules = store, rules
        self._chain = windows_chain(store, campaign)
        self._number: int | None = None
        self._waiting: dict[int, SealedWindow] = {}
        self._worked_off: deque[WorkedOff] = deque(maxlen=_NUM_MEASURED)

    def look(self) -> None:
        """Raises: StoreUnavailable, HandoffCorrupt: nobody can tell now; the figures stay."""
        if self._number is None:
            self._number = max(self._chain.newest() - _NUM_LOOKED_AT, 0)
        while (window := self._chain.following(self._number)) is not None:
            self._number += 1
            if not (window.is_late and self._rules.late == "keep"):
                self._waiting[window.number] = window
        for window in list(self._waiting.values())[:_NUM_ASKED_FOR]:
            manifest = newest_manifest(self._store, WORKED_OFF_ASSET, window.partition)
            if manifest is not None:
                del self._waiting[window.number]
                done = WorkedOff(
                    ready_at=epoch_seconds(window.sealed_at),
                    done_at=epoch_seconds(manifest.created_at),
                    num_rows=window.num_events,
                )
                self._worked_off.append(done)
        self.num_rows = sum(window.num_events for window in self._waiting.values())
        self.oldest = min((epoch_seconds(window.sealed_at) for window in self._waiting.values()), default=None)
        self.drain = rows_per_second(self._worked_off)

    def seconds(self, num_more: int) -> float | None:
        """How long its rows and so many more will take; None: nobody can tell yet."""
        return None if self.drain is None else (self.num_rows + num_more) / self.drain
