"""Seals closed parts in the store: their events as a handoff, then their object in the campaign's chain.

A part that is closed never changes, so whoever seals it again writes the same: a sealer killed anywhere goes on at the
first part that the log does not know as sealed. The handoff carries the log's name and the part's number, of which
there is one version; the object is made by `create`, and names the log too. One log alone seals for a campaign: a
second one finds the first one's objects, and stops.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

import pyarrow as pa

from headrace.clock import Clock
from headrace.errors import HandoffCorrupt, IllegalTransition, ObjectMissing
from headrace.fairness import CLASSES, FairClock
from headrace.handoff.erasures import erased_contents
from headrace.handoff.versions import HandoffStore
from headrace.inbox.fairness import costs_of
from headrace.inbox.kept import OFFSET, without_offsets
from headrace.inbox.log import ClosedPart
from headrace.inbox.rules import Tenant
from headrace.inbox.sealed import (
    EVENTS_ASSET,
    NUMBER,
    SealedWindow,
    inbox_prefix,
    window_name,
    windows_chain,
)
from headrace.inbox.windows import Part
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind, create_object

_CODE_VERSION = "1"
_MICROSECONDS = 1_000_000
# Windows from which a new process knows what each tenant has had: more than usually wait.
_NUM_RESUMED = 500
_NUM_TENANTS_MAX = 1_000


@dataclass(frozen=True, kw_only=True)
class InboxOwner:
    """Whose a campaign's events are. `log`: the nonce of the log that takes and seals them."""

    campaign: str
    log: str


OWNER = Kind("Inbox's owner", InboxOwner, "Restore it from a backup of the store; until then no event is taken.")


def owner_key(campaign: str) -> str:
    return f"{inbox_prefix(campaign)}/log.json"


class OtherLog(IllegalTransition):
    """Another log seals this campaign's windows; or this one is older than what it has sealed."""


class Sealer:
    """Used from one thread."""

    def __init__(
        self,
        store: ObjectStore,
        log: str,
        zone: tzinfo,
        clock: Clock,
        *,
        tenants: Mapping[str, Mapping[str, Tenant]] | None = None,
        worked_off: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        """Args:
        log: the log's nonce.
        zone: that of the windows' days.
        tenants: campaign → what its file says of tenants.
        worked_off: campaign → the highest turn among its windows that were worked off; from any thread.
        """
        self._store, self._log, self._zone, self._clock = store, log, zone, clock
        self._handoffs = HandoffStore(store, clock)
        self._tenants, self._worked_off = tenants or {}, worked_off
        self._fair: dict[str, FairClock] = {}
        # Campaign → the last part's number and turn: sealing is tried again after a failure.
        self._turns: dict[str, tuple[int, float]] = {}

    def claim(self, campaign: str, last_number: int) -> None:
        """Makes the campaign this log's for good, before its first event is taken.

        Args:
            last_number: the last one that this log has given to a part of the campaign.

        Raises:
            OtherLog: it is another log's, or has windows that this log does not know.
            HandoffCorrupt: what says so is damaged.
        """
        owner = create_object(
            self._store, owner_key(campaign), OWNER, InboxOwner(campaign=campaign, log=self._log)
        ).value
        if owner.log != self._log:
            raise OtherLog(
                f"Events of campaign {campaign} are another log's ({owner.log[:8]}…, this one is {self._log[:8]}…). "
                "It alone knows those that it has taken: use that log's directory, or give the campaign another name.",
                campaign=campaign,
            )
        number = windows_chain(self._store, campaign).newest()
        if number > last_number:
            raise OtherLog(
                f"Campaign {campaign} has {number} sealed windows, and its log knows of {last_number}: the log was "
                "restored from before, and has forgotten events that it had taken. Give the campaign another name.",
                campaign=campaign,
            )

    def seal(self, closed: ClosedPart, events: pa.Table) -> SealedWindow:
        """Seals one part; the one before it in its campaign has been sealed.

        Args:
            events: as `LogReader.events` gives them.

        Raises:
            OtherLog: another log sealed under this number.
            StoreUnavailable, Transient: to be tried again.
        """
        campaign, part = closed.campaign, closed.part
        table = without_offsets(events)
        tenants = Counter[str](table["tenant"].to_pylist())
        turn = self._turn(campaign, part.number, tenants)
        name = window_name(campaign, part.window, part.late_part)
        handoff = self._handoffs.publish(
            EVENTS_ASSET,
            name,
            table,
            code_version=_CODE_VERSION,
            run_id=f"inbox-{self._log}",
            once={"inbox_log": self._log, NUMBER: str(part.number)},
        )
        window = SealedWindow(
            campaign=campaign,
            number=part.number,
            window=part.window,
            is_late=part.late_part > 0,
            late_part=part.late_part,
            day=day_of(part, self._zone),
            begins_at=_iso(part.begins),
            ends_at=_iso(part.ends),
            num_events=table.num_rows,
            # As it was sealed, whatever was erased of it since.
            content=[*erased_contents(handoff.manifest), handoff.content_digest][0],
            closed_by=part.closed_by or "seconds",
            log=self._log,
            offset_max=int(events[OFFSET].to_numpy().max()),
            sealed_at=_iso(int(self._clock.now() * _MICROSECONDS)),
            turn=turn,
            event_class=min(table["class"].unique().to_pylist(), key=CLASSES.index),
            tenants=dict(tenants.most_common(_NUM_TENANTS_MAX)),
        )
        made = windows_chain(self._store, campaign).create(part.number, window)
        if made.won or _is_same(made.value, window):
            return made.value
        raise OtherLog(
            f"Window {part.number} of campaign {campaign} is {made.value.name} of the log {made.value.log[:8]}… in the "
            f"store, and {name} of {self._log[:8]}… here. Somebody copied a log's directory and runs both: stop one.",
            campaign=campaign,
        )

    def _turn(self, campaign: str, number: int, tenants: Mapping[str, int]) -> float:
        if self._turns.get(campaign, (0, 0.0))[0] != number:
            costs = costs_of(self._tenants.get(campaign, {}), tenants)
            turn = self._fair_clock(campaign, number).turn(costs, self._worked_off(campaign))
            self._turns[campaign] = (number, turn)
        return self._turns[campaign][1]

    def _fair_clock(self, campaign: str, number: int) -> FairClock:
        """Goes on where the windows before this number left it; one that is damaged counts for nobody."""
        if campaign not in self._fair:
            chain = windows_chain(self._store, campaign)
            clock, said = FairClock(), self._tenants.get(campaign, {})
            for before in range(max(number - _NUM_RESUMED, 1), number):
                with suppress(HandoffCorrupt, ObjectMissing):
                    window = chain.read(before)
                    clock.resume([(window.turn, costs_of(said, window.tenants))])
            self._fair[campaign] = clock
        return self._fair[campaign]


def day_of(part: Part, zone: tzinfo) -> str:
    """The day of a window's last moment: a window until midnight is of the day that ends with it."""
    return datetime.fromtimestamp((part.ends - 1) / _MICROSECONDS, UTC).astimezone(zone).strftime("%Y-%m-%d")


def _is_same(one: SealedWindow, other: SealedWindow) -> bool:
    """Whether both are one part of one log; the moment, and the day in a zone that was changed since, say nothing."""
    return (one.log, one.name, one.content) == (other.log, other.name, other.content)


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / _MICROSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
