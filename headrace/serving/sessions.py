"""Which version set a session keeps: a chain of small objects a session, of which the newest one counts.

`rollout/<name>/sessions/<first two>/<sha256 of the session's name>/<n>.json`. Pin n+1 is made by `create`: of two
gateways that saw pin n one makes the next, and the other takes it over. A pin is replaced only by

- the same set for longer: when less than half of its lease is left,
- the stable set, reason `repinned`: when its set was rolled back with eviction,
- a new choice: when its lease has ended. A set that was rolled back without eviction is kept to that end.

The first pin on a candidate is *provisional*: it ends with the plan lease that it was decided under. A write that
reaches the store late, after an abort that keeps sessions where they are, so binds nobody. It is replaced by a whole
lease once the session's first turn has begun.

Ends of leases are wall-clock times. A lease is taken as ended only `skew_seconds` later than it says, so gateways whose
clocks agree that well never disagree on a live pin.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, ObjectMissing, StoreOutage
from headrace.rollout.routing import Reason, RoutingTable
from headrace.store.objects import ObjectStore, create_json

# How long pins stay after their lease has ended, for whoever asks what a session saw.
KEPT_SECONDS = 24 * 3600.0
# Wall clocks of gateways must agree this well, or to a tenth of a session's lease, whichever is less.
SKEW_SECONDS_MAX = 30.0
# Races that one call may lose; each means that another gateway moved the session on.
_NUM_TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A set for a session without a live pin. `seconds`: how long a provisional pin lasts; None: a whole lease."""

    version_set: str
    entry: int
    trial: int
    reason: Reason
    is_fair: bool
    seconds: float | None = None
    # False: the session goes on with what it had.
    is_new: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRecord:
    """One pin. `number` 0: it is in no store. `expires_at`: seconds since the Unix epoch."""

    number: int
    version_set: str
    entry: int
    trial: int
    expires_at: float
    reason: Reason
    is_fair: bool
    is_provisional: bool = False
    by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """`is_chosen`: this call chose the set; otherwise the session had it."""

    record: SessionRecord
    is_chosen: bool = False


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
        choose: Callable[[SessionRecord | None], Choice],
        *,
        known: SessionRecord | None = None,
    ) -> Held:
        """The session's live pin: the one that is there, or renewed, or chosen anew.

        Args:
            table: the newest plan, whenever it is asked.
            choose: asked where no live pin is there; it gets the last one.
            known: the pin under which a turn of this session has begun at this gateway.

        Raises:
            StoreUnavailable: the pin is not known; it may have been written.
        """
        is_current = known is not None and known.number and not self.is_over(known, self._clock.now())
        record = known if is_current else self.newest(session)
        is_chosen = False
        for _ in range(_NUM_TRIES):
            following = self._following(record, known, table(), choose)
            if following is None:
                assert record is not None
                return Held(record=record, is_chosen=is_chosen)
            number = record.number + 1 if record else 1
            made = create_json(self._store, self._key(session, number), _body(following.record))
            record = _record(number, made.body)
            is_chosen = made.won and following.is_chosen
        raise StoreOutage(f"Session {_digest(session)[:12]} was moved {_NUM_TRIES} times while it was asked for.")

    def newest(self, session: str) -> SessionRecord | None:
        """The pin that counts, ended or not; None: there is none.

        Raises:
            StoreUnavailable
        """
        prefix = self._prefix(session)
        # Again where pins are swept between the two looks.
        for _ in range(_NUM_TRIES):
            numbers = [int(name[:6]) for name in self._store.children(prefix) if name[:6].isdigit()]
            if not numbers:
                return None
            try:
                return _record(max(numbers), json.loads(self._store.read(self._key(session, max(numbers)))))
            except ObjectMissing:
                continue
        return None

    def is_renewal_due(self, record: SessionRecord, table: RoutingTable) -> bool:
        if record.is_provisional:
            return True
        is_half_over = record.expires_at - self._clock.now() < self.lease_seconds / 2
        return is_half_over and record.version_set not in table.aborted

    def sweep(self) -> int:
        """Delete the pins of sessions whose last lease ended a day ago. Returns how many sessions.

        The newest pin goes last: a sweep that is killed leaves chains that read the same. A session that comes back to
        two gateways in the very moment in which it is swept may get two sets.
        """
        now, num_swept = self._clock.now(), 0
        root = f"rollout/{self._name}/sessions"
        for shard in self._store.children(root):
            chains: dict[str, list[str]] = {}
            for entry in self._store.entries(f"{root}/{shard}"):
                chains.setdefault(entry.key.rpartition("/")[0], []).append(entry.key)
            for keys in chains.values():
                num_swept += self._sweep_chain(sorted(keys), now)
        return num_swept

    def _sweep_chain(self, keys: list[str], now: float) -> bool:
        try:
            newest = json.loads(self._store.read(keys[-1]))
        except ObjectMissing:
            return False
        if newest["expires_at"] + KEPT_SECONDS > now:
            return False
        for key in keys:
            self._store.delete(key)
        return True

    def _following(
        self,
        record: SessionRecord | None,
        known: SessionRecord | None,
        table: RoutingTable,
        choose: Callable[[SessionRecord | None], Choice],
    ) -> Held | None:
        """What must take the newest pin's place; None: it stays."""
        now = self._clock.now()
        # A turn has begun under it here, so nothing but another gateway's pin ends it.
        has_begun = record is not None and record == known
        if record is None or (self.is_over(record, now) and not (has_begun and record.is_provisional)):
            choice = choose(record)
            seconds = self.lease_seconds if choice.seconds is None else choice.seconds
            new = SessionRecord(
                number=0,
                version_set=choice.version_set,
                entry=choice.entry,
                trial=choice.trial,
                expires_at=now + seconds,
                reason=choice.reason,
                is_fair=choice.is_fair,
                is_provisional=choice.seconds is not None,
                by=self._by,
            )
            return Held(record=new, is_chosen=choice.is_new)
        expires_at = max(now + self.lease_seconds, record.expires_at)
        if record.version_set in table.evicted:
            stable = SessionRecord(
                number=0,
                version_set=table.stable,
                entry=table.head,
                trial=table.trial,
                expires_at=expires_at,
                reason="repinned",
                is_fair=False,
                by=self._by,
            )
            return Held(record=stable, is_chosen=True)
        if self.is_renewal_due(record, table) and (has_begun or not record.is_provisional):
            return Held(record=replace(record, expires_at=expires_at, is_provisional=False, by=self._by))
        return None

    def is_over(self, record: SessionRecord, now: float) -> bool:
        """Whether a pin binds nobody any more."""
        if record.is_provisional:
            # Not before, whatever became of its set: a turn may have begun on it at another gateway.
            return now >= record.expires_at
        return now >= record.expires_at + self.skew_seconds

    def _prefix(self, session: str) -> str:
        digest = _digest(session)
        return f"rollout/{self._name}/sessions/{digest[:2]}/{digest}"

    def _key(self, session: str, number: int) -> str:
        return f"{self._prefix(session)}/{number:06d}.json"


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()


def _body(record: SessionRecord) -> dict[str, object]:
    return {
        "version_set": record.version_set,
        "entry": record.entry,
        "trial": record.trial,
        "expires_at": record.expires_at,
        "reason": record.reason,
        "is_fair": record.is_fair,
        "is_provisional": record.is_provisional,
        "by": record.by,
    }


def _record(number: int, body: dict[str, object]) -> SessionRecord:
    """What another gateway or an earlier release wrote; a field that it does not know says nothing."""
    try:
        fields = {name: body[name] for name in ("version_set", "entry", "trial", "expires_at", "reason")}
    except KeyError as error:
        raise HandoffCorrupt(f"Session pin {number} cannot be read: it lacks {error}.") from error
    return SessionRecord(
        number=number,
        is_fair=bool(body.get("is_fair", False)),
        is_provisional=bool(body.get("is_provisional", False)),
        by=str(body.get("by", "")),
        **cast(dict, fields),  # pyright: ignore[reportMissingTypeArgument]
    )
