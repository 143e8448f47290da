"""Sealed windows: what a campaign's inbox hands to everybody else, and the only part of it that they need.

The windows of a campaign are a chain, `inbox/CAMPAIGN/windows/00000001.json` and so on, in the order in which they were
sealed. Each object names its events by content digest; they are a handoff, `inbox_events[CAMPAIGN-w000123]`, written
before the object. Sealed windows never change: late events are sealed as further parts of their window.

Knows nothing of logs, watermarks and gateways.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pyarrow as pa
from annotated_types import Ge

from headrace.errors import HandoffCorrupt
from headrace.fairness import WorkClass
from headrace.handoff.columns import STRING, columns, nullable
from headrace.handoff.erasures import erased_contents
from headrace.handoff.versions import HandoffStore
from headrace.keys import Window, partition_path, window_key
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind

EVENTS_ASSET = "inbox_events"
# The attribute of a window's events with its number in the chain.
NUMBER = "inbox_number"
ClosedBy = Literal["watermark", "rows", "seconds"]

_TIME = pa.timestamp("us", tz="UTC")
# Rows are sorted by key, sequence, time, id, source.
EVENT_COLUMNS = columns(
    id=STRING,
    source=STRING,
    time=_TIME,
    key=STRING,  # CloudEvents' partitionkey; "": the event has none
    sequence=pa.int64(),  # 0: the event has none
    tenant=STRING,
    **{"class": STRING},  # live, flex or batch
    deadline=nullable(_TIME),
    data=STRING,  # a JSON object
)
# What stays of an event that was erased, beside its time and class: its row counts, and says nothing. No event that
# was taken has such data.
BLANK_EVENT = {"id": "", "source": "", "key": "", "sequence": 0, "tenant": "", "deadline": None, "data": ""}
_REMEDY = (
    "Restore it from a backup of the store: until then no run is requested for this window and those after it. Its "
    f"events are still there, as a handoff of {EVENTS_ASSET}."
)


@dataclass(frozen=True, kw_only=True)
class SealedWindow:
    """One object of a campaign's chain.

    Attributes:
        number: its place in the chain, from 1 on.
        window: the window's own number, from 1 on; late parts have that of their window.
        late_part: 0: the window itself; 1, 2 …: its late events, in the order of sealing. A window of late events alone
            has no part 0.
        day: YYYY-MM-DD, the day of the window's last moment in the campaign's time zone.
        begins_at, ends_at: ISO 8601 in UTC; event times from the first on, before the second.
        content: content digest of the events' handoff, of which there is one for each part.
        closed_by: watermark: no source has earlier events. rows: it was full; events of the same span follow in
            another window. seconds: it waited long enough for the watermark.
        log: nonce of the log that sealed it, the only one that may seal for this campaign.
        offset_max: the highest offset in that log among its events.
        sealed_at: ISO 8601 in UTC.
        turn: windows are worked off in the order of their turns, so that tenants have fair shares
            (`headrace.inbox.fairness`).
        event_class: the most urgent among its events'.
        tenants: how many events each tenant has in it, as far as 1,000 tenants go.
    """

    campaign: str
    number: Annotated[int, Ge(1)]
    window: Annotated[int, Ge(1)]
    is_late: bool
    late_part: Annotated[int, Ge(0)]
    day: str
    begins_at: str
    ends_at: str
    num_events: Annotated[int, Ge(1)]
    content: str
    closed_by: ClosedBy
    log: str
    offset_max: Annotated[int, Ge(0)]
    sealed_at: str
    turn: Annotated[float, Ge(0)] = 0.0
    event_class: WorkClass = "batch"
    tenants: dict[str, Annotated[int, Ge(1)]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`glossary-w000123`, `glossary-w000123-late`, `glossary-w000123-late2`: unique to this object."""
        return window_name(self.campaign, self.window, self.late_part)

    @property
    def partition(self) -> str:
        """`2026-11-22|glossary-w000123`: the partition of the assets that process it."""
        return f"{self.day}|{self.name}"


def window_name(campaign: str, window: int, late_part: int = 0) -> str:
    """The first late part is `…-late`, later ones `…-late2` and so on."""
    return window_key(campaign, Window(number=window, late_part=late_part))


def inbox_prefix(campaign: str) -> str:
    """Where the store has the campaign's inbox."""
    return f"inbox/{partition_path(campaign)}"


def windows_chain(store: ObjectStore, campaign: str) -> Chain[SealedWindow]:
    return Chain(
        store=store,
        prefix=f"{inbox_prefix(campaign)}/windows",
        kind=WINDOW,
        is_marked=True,
        remedy=_REMEDY,
    )


def sealed_windows(
    store: ObjectStore, campaign: str, *, after: int = 0, limit: int | None = None
) -> list[SealedWindow]:
    """The campaign's sealed windows in order, from number `after + 1` on, at most `limit`. Lists the chain once.

    Raises:
        ChainBroken: one is missing before a later one.
        HandoffCorrupt: one of those asked for is damaged.
    """
    chain = windows_chain(store, campaign)
    numbers = [number for number in chain.numbers() if number > after]
    return [chain.read(number) for number in numbers[:limit]]


def window_events(store: ObjectStore, window: SealedWindow) -> pa.Table:
    """The events, with EVENT_COLUMNS (text as large strings), sorted by (key, sequence, time, id, source).

    Events that were erased since are not among them.

    Raises: as `window_rows`.
    """
    table = window_rows(store, window)
    is_left = [not is_blank for is_blank in blanks(table)]
    return table if all(is_left) else table.filter(pa.array(is_left))


def blanks(table: pa.Table) -> list[bool]:
    """Of each of a window's rows, whether its event was erased."""
    return [data == BLANK_EVENT["data"] for data in table["data"].to_pylist()]


def window_rows(store: ObjectStore, window: SealedWindow) -> pa.Table:
    """As `window_events`, with the blank rows of erased events: an event's place is the same for good.

    Raises:
        HandoffMissing: somebody deleted them.
        HandoffCorrupt: they differ from what was sealed.
    """
    handoff = HandoffStore(store).open(EVENTS_ASSET, window.name)
    if window.content != handoff.content_digest and window.content not in erased_contents(handoff.manifest):
        raise HandoffCorrupt(
            f"Events {handoff.label} have content {handoff.content_digest[:12]}…, sealed window {window.name} (number "
            f"{window.number}) states {window.content[:12]}…. Somebody published over them: restore the older version "
            "from a backup of the store.",
            handoff=handoff.label,
        )
    return handoff.table(plain=True)


WINDOW = Kind("Sealed window", SealedWindow, _REMEDY)
