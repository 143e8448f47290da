"""What became of each event of a campaign's inbox, in the order of windows: a projection of sealed tables.

A window that is made again gives its newer rows from then on. So whoever reads twice may get another answer for an
event, under another row id or version set, and never a mixture.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from headrace.generation.sealed_tables import CONTENT, PROMPTS, REVIEWED
from headrace.generation.window_prompts import content_partition, refused_of
from headrace.handoff.manifests import states_read
from headrace.handoff.schemas import EVENT_ORIGIN, VARIATION
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.sealed import SealedWindow, window_events, windows_chain

EventState = Literal["made", "refused", "kept", "waiting"]
_Origin = tuple[str, str]
_ROW = ("row_id", "output", "media", "version_set", "finish_reason", "error")


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One output of an event; `kept` is null until its window is reviewed."""

    row_id: str
    output: str
    media: str | None
    version_set: str
    finish_reason: str
    error: str | None
    variation: int
    kept: bool | None = None
    rejected_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EventResult:
    """What became of one event."""

    event: str
    source: str
    key: str
    time: str
    """Of the event, in ISO 8601."""
    partition: str
    """The window's, or its late part's."""
    state: EventState
    """refused: it holds no prompt; kept: it came late, and the campaign makes no rows of late ones."""
    reason: str | None
    """Why it was refused."""
    rows: tuple[EventRow, ...]
    """One for each variation, in their order."""


def event_results(
    handoffs: HandoffStore, campaign: str, *, event: str | None = None, keeps_late: bool = False
) -> Iterator[EventResult]:
    """One for each event. A window's tables are in memory one after the other.

    Args:
        event: only the events with this id, of which each source may have one.
        keeps_late: the campaign's file says that no row is made of late parts.

    Raises:
        HandoffCorrupt: a window, its events or its rows are damaged.
    """
    chain = windows_chain(handoffs.objects, campaign)
    for number in chain.numbers():
        yield from _of_window(handoffs, chain.read(number), event, keeps_late=keeps_late)


def _of_window(
    handoffs: HandoffStore, window: SealedWindow, event: str | None, *, keeps_late: bool
) -> Iterator[EventResult]:
    events = pl.DataFrame(window_events(handoffs.objects, window).select(["id", "source", "key", "time"]))
    if event is not None:
        events = events.filter(pl.col("id") == event)
        if not events.height:
            return
    key = content_partition(window).key
    content, prompts = handoffs.newest(CONTENT, key), handoffs.newest(PROMPTS, key)
    rows = _rows(content, handoffs.newest(REVIEWED, key), event) if content else {}
    reasons = _reasons(handoffs, prompts) if prompts else {}
    for one in events.iter_rows(named=True):
        origin = (one["id"], one["source"])
        state: EventState = "waiting"
        if origin in rows:
            state = "made"
        elif origin in reasons:
            state = "refused"
        elif window.is_late and keeps_late:
            state = "kept"
        yield EventResult(
            event=one["id"],
            source=one["source"],
            key=one["key"],
            time=one["time"].isoformat(),
            partition=key,
            state=state,
            reason=reasons.get(origin) if state == "refused" else None,
            rows=tuple(rows.get(origin, ())),
        )


def _rows(content: Handoff, review: Handoff | None, event: str | None) -> Mapping[_Origin, list[EventRow]]:
    varied = [VARIATION.name] if VARIATION.name in content.schema.names else []
    made = content.polars([*_ROW, "position", *varied, *EVENT_ORIGIN.names])
    if event is not None:
        made = made.filter(pl.col("event_id") == event)
    verdicts = _verdicts(review, content)
    found: dict[_Origin, list[EventRow]] = defaultdict(list)
    for row in made.sort("position").iter_rows(named=True):
        verdict = verdicts.get(row["row_id"])
        found[row["event_id"], row["event_source"]].append(
            EventRow(
                **{name: row[name] for name in _ROW},
                variation=row.get(VARIATION.name, 0),
                kept=verdict[0] if verdict else None,
                rejected_by=tuple(verdict[1]) if verdict else (),
            )
        )
    return found


def _verdicts(review: Handoff | None, content: Handoff) -> Mapping[str, tuple[bool, list[str]]]:
    """By row id; none, if the review is of older rows."""
    if review is None:
        return {}
    stated = review.manifest.input_versions.get(f"{CONTENT}[{content.partition}]")
    if stated is not None and not states_read(stated, content.content_digest):
        return {}
    rows: Any = review.polars(["row_id", "kept", "rejected_by"]).iter_rows()
    return {row_id: (kept, list(rejected_by)) for row_id, kept, rejected_by in rows}


def _reasons(handoffs: HandoffStore, prompts: Handoff) -> Mapping[_Origin, str]:
    refused = refused_of(handoffs, prompts)
    if refused is None:
        return {}
    return {(one["event_id"], one["event_source"]): one["reason"] for one in refused.table().to_pylist()}
