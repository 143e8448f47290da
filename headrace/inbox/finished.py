"""In which order the windows of a campaign were finished: the one order in which results of events go out.

A window is finished once its rows are reviewed; a late part of a campaign that only keeps late events, at once. Windows
are not finished in the order of their sealing, and one whose run failed must not keep the results of the others. So
the gateway that has the campaign's log appends what it finds to a chain, `inbox/CAMPAIGN/finished/00000001.json` and so
on. A result's position, `12.345`, is its window's number in this chain and its place among the window's events, both
for good: whoever goes on behind a position misses nothing and gets nothing twice.

An object names the rows and the review by content digest. A window that is made again later is not appended again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock, iso
from headrace.errors import IllegalTransition
from headrace.handoff.manifests import newest_manifest
from headrace.handoff.row_tables import CONTENT, REVIEWED
from headrace.handoff.versions import HandoffStore
from headrace.inbox.results import EventResult, results_of_window
from headrace.inbox.sealed import SealedWindow, inbox_prefix, windows_chain
from headrace.inbox.turns import in_turn
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind

_REMEDY = "Restore it from a backup of the store: until then no further result of the campaign goes out."


@dataclass(frozen=True, kw_only=True)
class FinishedWindow:
    """One object of the chain.

    Attributes:
        number: its place in this chain, from 1 on.
        window: its place in the chain of sealed windows.
        content, review: content digests of its rows and their review; empty: no row is made of it.
        reached: no window with a higher number is finished.
        unfinished: those below `reached` that are not.
        finished_at: when it was found to be finished, ISO 8601 in UTC.
    """

    campaign: str
    number: Annotated[int, Ge(1)]
    window: Annotated[int, Ge(1)]
    num_events: Annotated[int, Ge(1)]
    content: str
    review: str
    reached: Annotated[int, Ge(1)]
    unfinished: tuple[Annotated[int, Ge(1)], ...]
    finished_at: str


FINISHED = Kind("Finished window", FinishedWindow, _REMEDY)


def finished_chain(store: ObjectStore, campaign: str) -> Chain[FinishedWindow]:
    prefix = f"{inbox_prefix(campaign)}/finished"
    return Chain(store=store, prefix=prefix, kind=FINISHED, is_marked=True, remedy=_REMEDY)


def results_of_finished(
    handoffs: HandoffStore, finished: FinishedWindow, *, after: int = 0
) -> Iterator[tuple[int, EventResult]]:
    """The results of its events with their places, in the window's order, without the first `after`.

    Raises: HandoffCorrupt, HandoffMissing: the window, its events or its rows are damaged, or gone.
    """
    return results_of_window(
        handoffs,
        windows_chain(handoffs.objects, finished.campaign).read(finished.window),
        keeps_late=not finished.content,
        content=finished.content or None,
        review=finished.review or None,
        after=after,
    )


class FinishedWindows:
    """Finds what was finished of one campaign, and appends it. One process does so: the one with the campaign's log.

    Attributes: number: the chain's last object; 0: there is none, or nobody has looked yet.
    """

    def __init__(self, store: ObjectStore, campaign: str, clock: Clock, *, keeps_late: bool = False) -> None:
        self.number = 0
        self._store, self._campaign, self._clock, self._keeps_late = store, campaign, clock, keeps_late
        self._windows = windows_chain(store, campaign)
        self._chain = finished_chain(store, campaign)
        # Sealed, and not finished; by number.
        self._waiting: dict[int, SealedWindow] = {}
        self._seen = self._reached = 0
        self._is_read = False

    def look(self) -> int:
        """Appends what was finished since the last look; returns how many windows.

        Raises:
            HandoffCorrupt: one of the chains is damaged; windows behind the damage wait.
            IllegalTransition: another process appends, too.
            StoreUnavailable: nobody can tell now.
        """
        if not self._is_read:
            self._read()
        before = self.number
        while (window := self._windows.following(self._seen)) is not None:
            self._seen = window.number
            self._waiting[window.number] = window
        while self._look_at_some():
            pass
        return self.number - before

    def _read(self) -> None:
        last = self._chain.last()
        if last is not None:
            self.number = last[0]
            self._seen = self._reached = last[1].reached
            self._waiting = {number: self._windows.read(number) for number in last[1].unfinished}
        self._is_read = True

    def _look_at_some(self) -> bool:
        """Whether one of them was finished: then the next ones may be, too."""
        found = False
        for number in in_turn(self._waiting):
            window = self._waiting[number]
            if window.is_late and self._keeps_late:
                digests = ("", "")
            elif (review := newest_manifest(self._store, REVIEWED, window.partition)) is not None:
                content = review.input_versions.get(f"{CONTENT}[{window.partition}]", "").rpartition(" ")[2]
                digests = (content, review.content_digest)
            else:
                continue
            self._append(window, *digests)
            found = True
        return found

    def _append(self, window: SealedWindow, content: str, review: str) -> None:
        reached = max(self._reached, window.number)
        made = self._chain.create(
            self.number + 1,
            FinishedWindow(
                campaign=self._campaign,
                number=self.number + 1,
                window=window.number,
                num_events=window.num_events,
                content=content,
                review=review,
                reached=reached,
                unfinished=tuple(sorted(one for one in self._waiting if one < reached and one != window.number)),
                finished_at=iso(self._clock.now()),
            ),
        )
        if made.value.window != window.number:
            # Its own was lost before it was told, or another process has the campaign's log.
            self._is_read = False
            raise IllegalTransition(
                f"Finished window {self.number + 1} of campaign {self._campaign} is window {made.value.window} in the "
                f"store, and {window.number} here: another process appends to the same chain. Stop one of the gateways."
            )
        del self._waiting[window.number]
        self.number, self._reached = self.number + 1, reached
