"""Results of a campaign's events, one after another, from any position on. Reads the store: for a thread of its own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from headrace.errors import InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.inbox.finished import FinishedWindow, finished_chain, results_of_finished
from headrace.inbox.results import EventResult
from headrace.store.objects import ObjectStore

_POSITION = re.compile(r"([1-9]\d{0,17})\.(\d{1,18})", re.ASCII)


@dataclass(frozen=True, order=True)
class Position:
    """`12.345`: behind the 345th event of the campaign's 12th finished window. `1.0` is before everything.

    Events that were erased keep their places, so that a position means the same for good.
    """

    finished: int = 1
    event: int = 0

    def __str__(self) -> str:
        return f"{self.finished}.{self.event}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Raises: InvalidInput: it is none."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidInput(f"A position must be as 12.345, which is the id of a result, got {text!r:.60}.")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, kw_only=True)
class PlacedResult:
    """`position`: behind it, the results that follow. `finished_at`: of its window, ISO 8601 in UTC."""

    position: Position
    finished_at: str
    result: EventResult


class ResultFeed:
    """Attributes: position: behind what `read` gave out, or passed over."""

    def __init__(self, store: ObjectStore, campaign: str, position: Position) -> None:
        self.position = position
        self._handoffs = HandoffStore(store)
        self._chain = finished_chain(store, campaign)
        self._window: FinishedWindow | None = None
        self._results: Iterator[tuple[int, EventResult]] = iter(())

    def newest(self) -> int:
        """The number of the window that was finished last; 0: none was. One listing.

        Raises: ChainBroken: one is missing before a later one.
        """
        return self._chain.newest()

    def read(self, num_max: int) -> list[PlacedResult]:
        """The next results; none: there are no more for now, or only the window has changed, as `position` says.

        Raises:
            HandoffCorrupt, HandoffMissing: the next window, its events or its rows are damaged, or gone.
            StoreUnavailable: to be tried again.
        """
        if self._window is None:
            window = self._chain.following(self.position.finished - 1)
            if window is None:
                return []
            self._results = results_of_finished(self._handoffs, window, after=self.position.event)
            self._window = window
        found: list[PlacedResult] = []
        try:
            for place, result in islice(self._results, num_max):
                self.position = Position(self._window.number, place)
                found.append(PlacedResult(position=self.position, finished_at=self._window.finished_at, result=result))
        except BaseException:
            # A generator that raised is at its end, and this window is not.
            self._window = None
            if found:
                return found
            raise
        if len(found) < num_max:
            self.position, self._window = Position(self._window.number + 1), None
        return found
