"""Sealed windows for those who read them, sealed as the inbox seals them: the events first, then their object."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from headrace.clock import FixedClock
from headrace.handoff.schemas import EVENT_ORIGIN, GENERATED_CONTENT, PROMPTS, REFUSED_EVENTS, REVIEWED_CONTENT
from headrace.handoff.versions import HandoffStore
from headrace.inbox.sealed import EVENT_COLUMNS, EVENTS_ASSET, SealedWindow, window_events, window_name, windows_chain
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
    log: str = "log",
    **more: Any,
) -> SealedWindow:
    """Seals the next object of the campaign's chain. `events`: in the order that the window has. `more`: its fields."""
    name = window_name(campaign, window, late_part)
    clock = FixedClock(datetime.fromisoformat(sealed_at).timestamp())
    chain = windows_chain(objects, campaign)
    number = chain.newest() + 1
    once = {"inbox_log": log, "inbox_number": str(number)}
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
            log=log,
            offset_max=number * 1000,
            sealed_at=sealed_at,
            **more,
        ),
    )
    return made.value


def finish_window(
    objects: ObjectStore, window: SealedWindow, *, version_set: str = "set-1", faults: Mapping[str, str] | None = None
) -> None:
    """Seals rows and review of a window, an `answer to ID` for each event.

    Args:
        faults: event id → `refused`, `rejected` or `error`; others are kept.
    """
    handoffs, faults, key = HandoffStore(objects), faults or {}, window.partition
    events = window_events(objects, window).to_pylist()
    refused = [one for one in events if faults.get(one["id"]) == "refused"]
    answered = [one for one in events if one not in refused]
    origins = [{"event_id": one["id"], "event_source": one["source"], "event_key": one["key"]} for one in answered]
    texts = [
        {"prompt_id": one["id"], "position": at, "text": one["data"], "term": None} for at, one in enumerate(answered)
    ]
    prompts_schema = pa.schema([*PROMPTS, *EVENT_ORIGIN])
    prompts = handoffs.publish(
        "prompts",
        key,
        pa.Table.from_pylist([a | b for a, b in zip(texts, origins, strict=True)], schema=prompts_schema),
        code_version="1",
        run_id="r",
    )
    reasons = [
        {"event_id": one["id"], "event_source": one["source"], "event_key": one["key"], "reason": "has no column 'x'."}
        for one in refused
    ]
    handoffs.publish(
        "refused_events",
        key,
        pa.Table.from_pylist(reasons, schema=REFUSED_EVENTS),
        code_version="1",
        run_id="r",
        attributes={"prompts": prompts.content_digest},
    )
    rows = []
    for at, (one, origin) in enumerate(zip(answered, origins, strict=True)):
        fault = faults.get(one["id"])
        row = {
            "row_id": f"{version_set}-{window.number}-{one['id']}",
            "prompt_id": one["id"],
            "position": at,
            "seed": at,
        }
        row |= {
            "prompt": "",
            "output": "" if fault == "error" else f"answer to {one['id']}",
            "version_set": version_set,
        }
        row |= {"finish_reason": "error" if fault == "error" else "stop", "error": fault if fault == "error" else None}
        rows.append(row | origin | {"kept": fault is None, "rejected_by": [] if fault is None else ["length"]})
    content = handoffs.publish(
        "generated_content",
        key,
        pa.Table.from_pylist(rows, schema=pa.schema([*GENERATED_CONTENT, *EVENT_ORIGIN])),
        code_version="1",
        run_id="r",
    )
    handoffs.publish(
        "reviewed_content",
        key,
        pa.Table.from_pylist(rows, schema=pa.schema([*REVIEWED_CONTENT, *EVENT_ORIGIN])),
        code_version="1",
        run_id="r",
        input_versions={f"generated_content[{key}]": f"v{content.version} {content.content_digest}"},
    )
