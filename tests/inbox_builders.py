"""Sealed windows for those who read them, sealed as the inbox seals them: the events first, then their object."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from headrace.clock import FixedClock
from headrace.handoff.versions import HandoffStore
from headrace.inbox.sealed import EVENT_COLUMNS, EVENTS_ASSET, SealedWindow, window_name, windows_chain
from headrace.store.objects import ObjectStore

_NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def event(identity: str, data: Mapping[str, object] | str, **changes: Any) -> dict[str, Any]:
    """A row of EVENT_COLUMNS; `data` as text stands as it is."""
    row = {
        "id": identity,
        "source": "shop",
        "time": _NOON,
        "key": "",
        "sequence": 0,
        "tenant": "",
        "class": "batch",
        "deadline": None,
        "data": data if isinstance(data, str) else json.dumps(data),
    }
    return row | changes


def events_table(*events: Mapping[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([*events], schema=EVENT_COLUMNS)


def seal_window(
    objects: ObjectStore,
    events: Sequence[Mapping[str, Any]],
    *,
    campaign: str = "orders",
    window: int = 1,
    late_part: int = 0,
    day: str = "2026-11-22",
    sealed_at: str = "2026-11-22T13:01:00+00:00",
) -> SealedWindow:
    """Seals the next object of the campaign's chain. `events`: in the order that the window has."""
    name = window_name(campaign, window, late_part)
    clock = FixedClock(datetime.fromisoformat(sealed_at).timestamp())
    chain = windows_chain(objects, campaign)
    number = chain.newest() + 1
    once = {"inbox_log": "log", "inbox_number": str(number)}
    sealed = HandoffStore(objects, clock).publish(
        EVENTS_ASSET, name, events_table(*events), code_version="1", run_id="inbox", once=once
    )
    made = chain.create(
        number,
        SealedWindow(
            campaign=campaign,
            number=number,
            window=window,
            is_late=late_part > 0,
            late_part=late_part,
            day=day,
            begins_at=f"{day}T12:00:00+00:00",
            ends_at=f"{day}T13:00:00+00:00",
            num_events=len(events),
            content=sealed.content_digest,
            closed_by="watermark",
            log="log",
            offset_max=number * 1000,
            sealed_at=sealed_at,
        ),
    )
    return made.value
