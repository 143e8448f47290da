"""The version set that a session keeps: a chain of small objects for each session, of which the newest counts.

`rollout/<name>/sessions/<first two>/<sha256 of the session's name>/<n>.json`. `create` makes pin n+1: of two gateways
that saw pin n one makes the next, and the other adopts it. A pin is only replaced by

- the stable set, reason `repinned`: if it is damaged, so that its content is unknown,
- the same set for longer: if less than half of its lease is left,
- the stable set, reason `repinned`: if its set was rolled back with eviction,
- a new choice: if its lease has ended. A set that was rolled back without eviction is kept until then.

The first pin on a candidate is *provisional*: it ends with the plan lease under which it was decided. So a write that
reaches the store late, after an abort that keeps sessions where they are, binds nobody. It is replaced by a whole lease
once the session's first turn has begun.

Leases end at wall-clock times. A lease counts as ended only `skew_seconds` later, so gateways whose clocks agree that
well never disagree on a live pin.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, ObjectMissing, StoreOutage
from headrace.rollout.layout import rollout_prefix
from headrace.rollout.routing import Pin, Reason, RoutingTable
from headrace.store.chain import Chain, Head
from headrace.store.listings import by_prefix
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, Kind

# How long pins stay after their lease has ended, for questions about what a session saw.
KEPT_SECONDS = 24 * 3600.0
# Gateways' wall clocks must agree this well, or within a tenth of a session's lease if that is less.
SKEW_SECONDS_MAX = 30.0
_READERS = 16
# How many races one call may lose; in each, another gateway changed the session's pin.
_NUM_TRIES = 8
_REMEDY = "The session goes on with the stable set; the pin is swept with the session's others."


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionPin(Pin):
    """A session's pin. `number` 0: the store does not have it. `expires_at`: without a further turn, in epoch seconds.

    `draw`: the key that ranks the session against a candidate's weight; empty: none was drawn. Fields that earlier
    releases lack have defaults that claim nothing.
    """

    entry: Annotated[int, Ge(0)]
    trial: Annotated[int, Ge(0)]
    is_fair: bool = False
    number: int = 0
    expires_at: float
    is_provisional: bool = False
    draw: str = ""
    by: str = ""

    @property
    def is_pinned(self) -> bool:
        return self.number > 0


SESSION_PIN = Kind("Session pin", SessionPin, _REMEDY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """`is_chosen`: this call chose the set; otherwise the session keeps its set.

    `is_shared`: another turn began with the same answer.
    """

    record: SessionPin
    is_chosen: bool = False
    is_shared: bool = False


class SessionPins:
    """A service's session pins in the store."""

    def __init__(self, store: ObjectStore, name: str, clock: Clock, *, lease_seconds: float, by: str) -> None:
        self.lease_seconds = lease_seconds
        self.skew_seconds = min(SKEW_SECONDS_MAX, lease_seconds / 10)
        self._store = store
        self._name = name
        self._clock = clock
        self._by = by

    def hold(
        self,
        session: str,
        table: Callable[[], RoutingTable],
        choose: Callable[[SessionPin | None], Held],
        *,
        known: SessionPin | None = None,
    ) -> Held:
        """The session's live pin: the existing one, a renewed one, or a new choice.

        Args:
            table: returns the newest plan.
            choose: called if there is no live pin; it gets the last pin and returns what `chosen` makes.
            known: the pin under which a turn of this session began at this gateway.

        Raises:
            StoreUnavailable: the pin is unknown; it may have been written.
            HandoffCorrupt: an earlier pin is missing, or a newer Headrace wrote the newest one.
        """
        is_current = known is not None and known.number and not self.is_over(known, self._clock.now())
        chain = self._chain(session)
        head = Head(0, None) if is_current else chain.head()
        damaged = head.number if head.damage else 0
        record = known if is_current else self._numbered(head)
        # A chain that was just listed needs no second listing before the append.
        is_listed = not is_current
        is_chosen = False
        for _ in range(_NUM_TRIES):
            if damaged and record is None:
                expires_at = self._clock.now() + self.lease_seconds
                stable = self.stable(table(), reason="repinned", expires_at=expires_at)
                following = Held(record=stable, is_chosen=True)
            else:
                following = self._following(record, known, table(), choose)
            if following is None:
                assert record is not None
                return Held(record=record, is_chosen=is_chosen)
            number = record.number + 1 if record else damaged + 1
            made = chain.create(number, replace(following.record, number=0), is_listed=is_listed)
            record, is_listed = replace(made.value, number=number), True
            is_chosen = made.won and following.is_chosen
        raise StoreOutage(f"Session {_digest(session)[:12]} was moved {_NUM_TRIES} times while it was asked for.")

    def chosen(self, pin: Pin, *, seconds: float | None = None, draw: str = "", is_new: bool = True) -> Held:
        """A set for a session without a live pin.

        Args:
            seconds: duration of a provisional pin; None: a whole lease.
            is_new: False: the session keeps its set.
        """
        record = SessionPin(
            version_set=pin.version_set,
            entry=pin.entry,
            trial=pin.trial,
            expires_at=self._clock.now() + (self.lease_seconds if seconds is None else seconds),
            reason=pin.reason,
            is_fair=pin.is_fair,
            is_provisional=seconds is not None,
            draw=draw,
            by=self._by,
        )
        return Held(record=record, is_chosen=is_new)

    def stable(self, table: RoutingTable, *, reason: Reason, expires_at: float) -> SessionPin:
        """The stable set, if the session's set is unknown or must not be used."""
        return SessionPin(
            version_set=table.stable,
            entry=table.head,
            trial=table.trial,
            expires_at=expires_at,
            reason=reason,
            by=self._by,
        )

    def newest(self, session: str) -> SessionPin | None:
        """The newest pin, ended or not; None: there is none.

        Raises:
            StoreUnavailable
            HandoffCorrupt: the pin cannot be read.
        """
        head = self._chain(session).head()
        if head.damage:
            raise head.damage
        return self._numbered(head)

    def _numbered(self, head: Head[SessionPin]) -> SessionPin | None:
        return replace(head.value, number=head.number) if head.value else None

    def is_renewal_due(self, record: SessionPin, table: RoutingTable) -> bool:
        if record.is_provisional:
            return True
        is_half_over = record.expires_at - self._clock.now() < self.lease_seconds / 2
        return is_half_over and record.version_set not in table.aborted

    def sweep(self, *, damaged: Damaged = lambda _: None) -> int:
        """Deletes the pins of sessions whose last lease ended a day ago. Returns the number of sessions.

        The newest pin goes last, so if a sweep is killed, chains read the same. A session that returns to two gateways
        at the very moment of its sweep may get two sets.

        Args:
            damaged: called for unreadable newest pins; their age counts from when they were written.
        """
        now, num_swept = self._clock.now(), 0
        for chain, written in _chains(self._store, self._name):
            num_swept += self._sweep_chain(chain, written, now, damaged)
        return num_swept

    def _sweep_chain(
        self, chain: Chain[SessionPin], written: Mapping[int, float], now: float, damaged: Damaged
    ) -> bool:
        newest = max(written)
        try:
            expires_at = chain.read(newest).expires_at
        except ObjectMissing:
            return False
        except HandoffCorrupt as error:
            damaged(error)
            expires_at = written[newest] + self.lease_seconds
        if expires_at + KEPT_SECONDS > now:
            return False
        chain.sweep(written)
        return True

    def _following(
        self,
        record: SessionPin | None,
        known: SessionPin | None,
        table: RoutingTable,
        choose: Callable[[SessionPin | None], Held],
    ) -> Held | None:
        """The pin that must replace the newest one; None: it stays."""
        now = self._clock.now()
        # A turn has begun under it here, so only another gateway's pin ends it.
        has_begun = record is not None and record == known
        if record is None or (self.is_over(record, now) and not (has_begun and record.is_provisional)):
            return choose(record)
        expires_at = max(now + self.lease_seconds, record.expires_at)
        if record.version_set in table.evicted:
            stable = self.stable(table, reason="repinned", expires_at=expires_at)
            return Held(record=replace(stable, draw=record.draw), is_chosen=True)
        if self.is_renewal_due(record, table) and (has_begun or not record.is_provisional):
            return Held(record=replace(record, expires_at=expires_at, is_provisional=False, by=self._by))
        return None

    def is_over(self, record: SessionPin, now: float) -> bool:
        """Whether a pin no longer binds anybody."""
        if record.is_provisional:
            # Not earlier, whatever happened to its set: a turn may have begun on it at another gateway.
            return now >= record.expires_at
        return now >= record.expires_at + self.skew_seconds

    def _chain(self, session: str) -> Chain[SessionPin]:
        digest = _digest(session)
        return _chain_below(self._store, f"{rollout_prefix(self._name, 'sessions')}/{digest[:2]}/{digest}")


def pinned_sets(store: ObjectStore, name: str, now: float, *, damaged: Damaged) -> set[str]:
    """Every set that binds a session of a service, now or by some gateway's clock.

    Args:
        damaged: called for unreadable newest pins.
    """

    def read(newest: tuple[Chain[SessionPin], Mapping[int, float]]) -> SessionPin | HandoffCorrupt | None:
        chain, written = newest
        try:
            return chain.read(max(written))
        except ObjectMissing:
            return None  # swept or renewed meanwhile
        except HandoffCorrupt as error:
            return error

    found = set[str]()
    with ThreadPoolExecutor(_READERS) as readers:
        for pin in readers.map(read, _chains(store, name)):
            if isinstance(pin, HandoffCorrupt):
                damaged(pin)
            elif pin is not None and pin.expires_at + SKEW_SECONDS_MAX > now:
                found.add(pin.version_set)
    return found


def _chains(store: ObjectStore, name: str) -> Iterator[tuple[Chain[SessionPin], dict[int, float]]]:
    """Every session's pins, with the time of writing of each."""
    root = rollout_prefix(name, "sessions")
    for shard in store.children(root):
        for prefix, entries in by_prefix(store.entries(f"{root}/{shard}"), depth=root.count("/") + 3).items():
            chain, times = _chain_below(store, prefix), {entry.key: entry.modified_at for entry in entries}
            if numbers := chain.made(key.rpartition("/")[2] for key in times):
                yield chain, {number: times[chain.key(number)] for number in numbers}


def _chain_below(store: ObjectStore, prefix: str) -> Chain[SessionPin]:
    return Chain(store=store, prefix=prefix, kind=SESSION_PIN, digits=6, may_lack="oldest", remedy=_REMEDY)


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()
