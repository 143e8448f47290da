"""The set of a session's next turn at one gateway: from memory, else from the store, else the stable set.

A live pin that was seen here needs no I/O. For any other session a thread asks the store while the turn waits, for a
second at most. Concurrent turns of one session wait for the same answer, so a session takes one place under a cap.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from functools import partial

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, HeadraceError, InvalidInput, StoreOutage, StoreUnavailable
from headrace.rollout.routing import Pin, Reason, RoutingTable
from headrace.serving.plan_lease import PlanLease
from headrace.serving.sessions import Held, SessionPin, SessionPins

# How long a session's turn waits until its pin is read or written.
_PIN_SECONDS_MAX = 1.0
# How many sessions are remembered, the least recently seen forgotten first: some 100 MB.
_NUM_SESSIONS_MAX = 100_000
# How often a turn tries again because its set was evicted while it was pinned.
_NUM_LOOKS = 3
_NUM_PINNED_A_ROUND = 64


class SessionTurns:
    """`resolve`: the set of a unit, by its key and its client's wish; each call is one unit.

    A session's key is drawn with its first turn (`draw`), and kept with its pins. Its client can choose the session's
    name, but cannot choose its set, or know it before that turn's request is complete.
    """

    def __init__(
        self,
        pins: SessionPins,
        lease: PlanLease,
        resolve: Callable[[str, str | None], Pin],
        *,
        clock: Clock,
        threads: Executor,
        is_loaded: Callable[[str], bool],
        draw: Callable[[], str],
    ) -> None:
        self._is_loaded = is_loaded
        self._draw = draw
        self._pins = pins
        self._lease = lease
        self._monotonic = lease.monotonic
        self._resolve = resolve
        self._clock = clock
        self._threads = threads
        self._sessions: OrderedDict[str, SessionPin] = OrderedDict()
        # The sessions of `_sessions` that the store does not know.
        self._unpinned: dict[str, None] = {}
        # Running store calls with their override; at most one for each session.
        self._flights: dict[str, tuple[str | None, asyncio.Future[Held]]] = {}

    async def turn(self, session: str, override: str | None) -> SessionPin:
        """Does the work of `Router.resolve_session`."""
        if self._lease.table() is None:
            raise self._lease.unknown()
        for _ in range(_NUM_LOOKS):
            is_fresh, table = self._lease.fresh(), self._table()
            known = self._sessions.get(session)
            if known is not None and self._goes_on(session, known, table):
                return self._next_turn(session, known, table, override, is_fresh=is_fresh)
            held = await self._held(session, override) if is_fresh else None
            if held is None:
                break
            if (turn := self._first_turn(session, held, override)) is not None:
                return turn
        return self._unpinned_turn(session)

    def pin_remembered(self) -> None:
        """Pins sessions that could not be pinned at their turn.

        Raises:
            StoreUnavailable
        """
        num_asked = 0
        for session in list(self._unpinned):
            remembered = self._sessions.get(session)
            # A session that had turns on another set than the stable one is pinned at its next turn.
            if remembered is None or remembered.version_set != self._table().stable:
                continue
            if num_asked >= _NUM_PINNED_A_ROUND or not self._lease.fresh():
                return
            num_asked += 1
            choose = partial(self._choose, session, None, remembered)
            with suppress(HandoffCorrupt):
                held = self._pins.hold(session, self._table, choose)
                if not held.record.is_provisional:
                    self._remember(session, held.record)

    def _table(self) -> RoutingTable:
        table = self._lease.table()
        assert table is not None
        return table

    def _goes_on(self, session: str, known: SessionPin, table: RoutingTable) -> bool:
        """Whether the known pin of a session is live."""
        is_live = self._clock.now() < known.expires_at and known.version_set not in table.evicted
        return is_live and session not in self._unpinned

    def _next_turn(
        self, session: str, known: SessionPin, table: RoutingTable, override: str | None, *, is_fresh: bool
    ) -> SessionPin:
        if override is not None:
            _check_override(override, known, table)
        self._sessions.move_to_end(session)
        if is_fresh and self._pins.is_renewal_due(known, table):
            self._renew(session)
        return _turn(known, is_pinned=True)

    def _first_turn(self, session: str, held: Held, override: str | None) -> SessionPin | None:
        """A turn for which the store was asked; None: its set was evicted meanwhile."""
        # In this order, as in `resolve`.
        until, table, record = self._lease.until, self._table(), held.record
        if record.version_set in table.evicted:
            return None
        if override is not None and not held.is_chosen:
            _check_override(override, record, table)
        is_fresh = self._monotonic() < until
        if record.is_provisional and not (is_fresh and record.version_set in (table.candidate, table.stable)):
            # The answer took so long that the set may be aborted: the unit must not start on it now.
            return self._unpinned_turn(session, is_degraded=not is_fresh)
        self._remember(session, record)
        if record.is_provisional:
            self._renew(session)
        # If an older plan chose it, it is still the session's pin, but this turn is not the first under it.
        is_first = held.is_chosen and is_fresh and record.entry == table.head and record.reason != "degraded"
        turn = _turn(record, is_pinned=True, is_first=is_first)
        return replace(turn, is_fair=False) if held.is_shared else turn

    def _unpinned_turn(self, session: str, *, is_degraded: bool = True) -> SessionPin:
        """A turn without the store: the session's set at this gateway, or the stable set."""
        table, known = self._table(), self._sessions.get(session)
        if known is None or known.version_set in table.evicted:
            reason: Reason = "degraded" if known is None else "repinned"
            trial = 0 if known is None else known.trial
            expires_at = self._clock.now() + self._pins.lease_seconds
            known = replace(self._pins.stable(table, reason=reason, expires_at=expires_at), trial=trial)
            turn = _turn(known, is_pinned=False, is_first=is_degraded or known.reason == "repinned")
        else:
            turn = _turn(known, is_pinned=False, is_first=is_degraded and known.reason == "degraded")
        self._remember(session, known, is_pinned=False)
        return turn

    async def _held(self, session: str, override: str | None) -> Held | None:
        """The session's pin from the store; None: the store did not answer in time."""
        asked_for, flight = self._flights.get(session, (override, None))
        is_mine = flight is None
        if flight is None:
            flight = self._take_off(session, override)
        elif session in self._unpinned:
            # An earlier turn has waited long enough for it.
            return None
        done, _ = await asyncio.wait({flight}, timeout=_PIN_SECONDS_MAX)
        if not done or flight.cancelled():
            return None
        try:
            held = flight.result()
        except InvalidInput:
            raise
        except (HeadraceError, OSError):
            return None
        # Only one of the turns that share an answer is the session's first, since a unit counts once.
        return held if is_mine else replace(held, is_chosen=held.is_chosen and asked_for == override, is_shared=True)

    def _take_off(self, session: str, override: str | None) -> "asyncio.Future[Held]":
        """Asks the store in a thread, once at a time for each session."""
        begun = self._monotonic()
        known = self._sessions.get(session)
        remembered = known if session in self._unpinned else None

        def choose(last: SessionPin | None) -> Held:
            # Nobody waits any more, so a place under the cap would be wasted.
            if self._monotonic() > begun + _PIN_SECONDS_MAX:
                raise StoreOutage(f"The store took longer than {_PIN_SECONDS_MAX:g} s over a session's pin.")
            return self._choose(session, override, remembered, last)

        work = partial(self._pins.hold, session, self._table, choose, known=known)
        flight = asyncio.get_running_loop().run_in_executor(self._threads, work)
        self._flights[session] = override, flight
        flight.add_done_callback(partial(self._landed, session))
        return flight

    def _landed(self, session: str, flight: "asyncio.Future[Held]") -> None:
        del self._flights[session]
        if not flight.cancelled() and flight.exception() is None:
            record = flight.result().record
            # A provisional pin only counts for turns that began under it, and those remember it themselves.
            if not record.is_provisional:
                self._remember(session, record)

    def _renew(self, session: str) -> None:
        if session not in self._flights:
            self._take_off(session, None)

    def _choose(
        self, session: str, override: str | None, remembered: SessionPin | None, last: SessionPin | None
    ) -> Held:
        """The set of a session without a live pin; one unit.

        Raises:
            StoreUnavailable: the plan is not fresh any more.
            InvalidInput: `override` names no set of the plan.
        """
        # In this order, as in `Router.resolve`.
        until, table, is_new, draw = self._lease.until, self._table(), True, last.draw if last else ""
        if remembered is not None and remembered.version_set == table.stable:
            # The session had turns on this set while it could not be pinned.
            pin, is_new = Pin(table.stable, table.head, remembered.reason, remembered.trial, is_fair=False), False
        elif last and last.is_provisional and (last.entry, last.version_set) == (table.head, table.candidate):
            # This plan chose it, with a place under its cap: perhaps a gateway whose clock is behind has begun on it.
            pin, is_new = last, False
            if self._monotonic() >= until:
                raise self._stale()
        else:
            # A session keeps its earlier draw, so raising a weight takes no session off the candidate.
            draw = last.draw if last and last.draw else self._draw()
            pin = self._resolve(draw, override)
            if last is not None:
                # The client may know which set it gets, or have found out.
                pin = replace(pin, is_fair=False)
            if pin.reason == "degraded" and self._monotonic() >= until:
                raise self._stale()
            if not self._is_loaded(pin.version_set):
                # The turn would begin after loading, and the set may be aborted by then.
                pin = Pin(table.stable, table.head, "degraded", table.trial, is_fair=False)
        is_stable = pin.version_set == table.stable
        seconds = None if is_stable else max(0.0, until - self._monotonic())
        return self._pins.chosen(pin, seconds=seconds, draw=draw, is_new=is_new)

    def _stale(self) -> StoreUnavailable:
        return StoreOutage(f"The plan of {self._lease.name} could not be read for a second.")

    def _remember(self, session: str, record: SessionPin, *, is_pinned: bool = True) -> None:
        present = self._sessions.get(session)
        if present is not None and present.number > record.number > 0 and self._clock.now() < present.expires_at:
            # Two of the store's answers came in the wrong order.
            return
        self._sessions.pop(session, None)
        self._sessions[session] = record
        if is_pinned:
            self._unpinned.pop(session, None)
        else:
            self._unpinned[session] = None
        if len(self._sessions) > _NUM_SESSIONS_MAX:
            forgotten, _ = self._sessions.popitem(last=False)
            self._unpinned.pop(forgotten, None)


def _turn(record: SessionPin, *, is_pinned: bool, is_first: bool = False) -> SessionPin:
    """The pin for one turn: only the first turn has the pin's own reason."""
    return replace(record, reason=record.reason if is_first else "session", number=record.number if is_pinned else 0)


def _check_override(override: str, record: SessionPin, table: RoutingTable) -> None:
    """A session keeps its set. If it asked for the candidate, it may repeat that after the candidate became stable; it
    may also repeat a wish for a set that it did not get.

    Raises:
        InvalidInput: the client asks for another set than the session's.
    """
    named = {"stable": table.stable, "candidate": table.candidate}.get(override, override)
    if named == record.version_set or record.reason in ("capped", "degraded", "repinned"):
        return
    if record.reason == "override" and override in ("stable", "candidate"):
        return
    raise InvalidInput(
        f"This session is pinned to version set {record.version_set[:12]}, the request asks for {override[:12]!r}. "
        "Leave the version set out, or begin another session."
    )
