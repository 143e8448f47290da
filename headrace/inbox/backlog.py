"""What waits of a campaign's inbox, in windows, events and seconds: sealed windows without rows, by the measured drain.

A window is worked off once its partition of `generated_content` is sealed. The drain, events a second, is measured over
the last windows that were, and only while one was ready: an idle night says nothing about how fast rows are made.
Nothing is said before the first one.

The first look takes three listings, and the manifests of what waits and of the last windows that were made. Later ones
follow the chain of sealed windows, and ask for some of what waits. What a log holds and has not sealed yet is not
counted: only its gateway knows it. A manifest that cannot be read counts nothing: whoever makes its window says what is
wrong with it.
"""

from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from headrace.clock import epoch_seconds
from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import newest_manifest
from headrace.handoff.row_tables import CONTENT, PROMPTS
from headrace.handoff.versions import HandoffStore
from headrace.inbox.drain import WorkedOff, rows_per_second
from headrace.inbox.made import made_windows, sealed_events, windows_of
from headrace.inbox.sealed import EVENTS_ASSET, NUMBER, SealedWindow, windows_chain
from headrace.inbox.turns import in_turn
from headrace.keys import Window, window_key
from headrace.store.objects import ObjectStore

# Enough to even out windows of different lengths; what was made long before tells nothing of now.
_NUM_MEASURED = 20


@dataclass(kw_only=True)
class _Waiting:
    """`partition` None: not looked for yet; its window has this number in the chain."""

    num_events: int
    sealed_at: float
    number: int
    partition: str | None = None
    turn: float = 0.0
    tenants: Mapping[str, int] = field(default_factory=dict)


class Backlog:
    """One campaign's sealed windows that are not worked off. `look` does I/O; everything else is quick.

    Attributes:
        num_windows, num_events: that are sealed and not worked off.
        oldest: when the first of them was sealed, seconds since the epoch; None: there is none.
        drain: events a second; None: nothing was measured yet.
        tenants: `num_events` by tenant, of windows that were sealed or looked for since the first look.
        turn: the highest one among windows that were worked off.
    """

    def __init__(self, store: ObjectStore, campaign: str, *, keeps_late: bool = False) -> None:
        """Args: keeps_late: no row is made of late parts, so that they do not wait."""
        self.num_windows = self.num_events = 0
        self.oldest: float | None = None
        self.drain: float | None = None
        self.tenants: Mapping[str, int] = {}
        self.turn = 0.0
        self._store, self._campaign, self._keeps_late = store, campaign, keeps_late
        self._chain = windows_chain(store, campaign)
        self._number: int | None = None
        self._waiting: dict[Window, _Waiting] = {}
        self._worked_off: deque[WorkedOff] = deque(maxlen=_NUM_MEASURED)

    def look(self) -> None:
        """Raises: StoreUnavailable, HandoffCorrupt: nobody can tell now; the figures stay."""
        if self._number is None:
            # Before the listings: what is sealed meanwhile is found by following the chain, too.
            number = self._chain.highest()
            self._look_at_all()
            self._number = number
        else:
            while (window := self._chain.following(self._number)) is not None:
                self._number += 1
                self._add(window)
            for window in in_turn(self._waiting):
                self._ask_for(window)
        self.num_windows = len(self._waiting)
        self.num_events = sum(one.num_events for one in self._waiting.values())
        self.oldest = min((one.sealed_at for one in self._waiting.values()), default=None)
        self.drain = rows_per_second(self._worked_off)
        tenants = Counter[str]()
        for one in self._waiting.values():
            tenants.update(one.tenants)
        self.tenants = tenants

    def seconds(self, num_more: int = 0) -> float | None:
        """How long its events and so many more will take; None: nobody can tell yet."""
        if not self.num_events + num_more:
            return 0.0
        return None if self.drain is None else (self.num_events + num_more) / self.drain

    def figures(self) -> dict[str, int | float]:
        """For a materialization's metadata, in units."""
        known = {"backlog_seconds": self.seconds(), "drained_events_per_second": self.drain}
        return {
            "num_windows_waiting": self.num_windows,
            "num_events_waiting": self.num_events,
            **{name: round(value, 3) for name, value in known.items() if value is not None},
        }

    def _look_at_all(self) -> None:
        self._waiting.clear()
        self._worked_off.clear()
        made = made_windows(HandoffStore(self._store), self._campaign)
        there = windows_of(made.values())
        for window in sealed_events(self._store, self._campaign):
            if window in there or (self._keeps_late and window.late_part):
                continue
            if events := self._events(window):
                self._waiting[window] = _Waiting(
                    num_events=events.num_rows,
                    sealed_at=epoch_seconds(events.created_at),
                    number=_number_of(events),
                )
        for key, part in list(made.items())[-_NUM_MEASURED:]:
            assert part.window is not None, "a window"
            if events := self._events(part.window):
                self._measure(key, num_events=events.num_rows, sealed_at=epoch_seconds(events.created_at))
                with suppress(HandoffCorrupt, ObjectMissing):
                    self.turn = max(self.turn, self._chain.read(_number_of(events)).turn)

    def _events(self, window: Window) -> Manifest | None:
        return _newest(self._store, EVENTS_ASSET, window_key(self._campaign, window))

    def _add(self, window: SealedWindow) -> None:
        if not (window.is_late and self._keeps_late):
            self._waiting[Window(number=window.window, late_part=window.late_part)] = _Waiting(
                num_events=window.num_events,
                sealed_at=epoch_seconds(window.sealed_at),
                number=window.number,
                partition=window.partition,
                turn=window.turn,
                tenants=window.tenants,
            )

    def _ask_for(self, window: Window) -> None:
        one = self._waiting[window]
        if one.partition is None:
            with suppress(HandoffCorrupt, ObjectMissing):
                sealed = self._chain.read(one.number)
                one.partition, one.turn, one.tenants = sealed.partition, sealed.turn, sealed.tenants
        if one.partition and self._measure(one.partition, num_events=one.num_events, sealed_at=one.sealed_at):
            self.turn = max(self.turn, one.turn)
            del self._waiting[window]

    def _measure(self, partition: str, *, num_events: int, sealed_at: float) -> bool:
        """Whether its rows are sealed; then its seconds count."""
        content = _newest(self._store, CONTENT, partition)
        if content is None:
            return False
        prompts = _newest(self._store, PROMPTS, partition)
        ready_at = epoch_seconds(prompts.created_at) if prompts else sealed_at
        done_at = epoch_seconds(content.created_at)
        self._worked_off.append(WorkedOff(ready_at=ready_at, done_at=done_at, num_rows=num_events))
        return True


def _number_of(events: Manifest) -> int:
    """Its window's, in the chain; 0: it states none, and no window has that number."""
    stated = events.attributes.get(NUMBER, "")
    return int(stated) if stated.isdecimal() else 0


def _newest(objects: ObjectStore, asset: str, partition: str) -> Manifest | None:
    with suppress(HandoffCorrupt):
        return newest_manifest(objects, asset, partition)
    return None
