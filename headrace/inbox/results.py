"""What became of each event of a sealed window, in the window's order: a projection of sealed tables.

A window that is made again gives its newer rows from then on, unless rows and review are named by their digests. So
whoever reads twice may get another answer for an event, under another row id or version set, and never a mixture: one
reading is of one version of each table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import polars as pl

from headrace.errors import HandoffCorrupt
from headrace.handoff.manifests import states_read
from headrace.handoff.row_tables import CONTENT, PROMPTS, REFUSED_EVENTS, REVIEWED
from headrace.handoff.schemas import EVENT_ORIGIN, MEDIA, VARIATION
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.sealed import SealedWindow, blanks, window_rows, windows_chain

EventState = Literal["made", "refused", "kept", "waiting"]
Outcome = Literal["answered", "rejected", "error"]
_EVENT = ("id", "source", "tenant", "key", "time")
_ROW = ("row_id", "output", "media", "version_set", "finish_reason", "error")
_ITEM = ("role", "item_id", "media_type", "num_bytes")
_ERROR = "error"
# Rows that are Python objects at once.
_NUM_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class MediaItem:
    """A picture or recording of a row: its bytes are the item `item_id` of generated_images or generated_speech."""

    role: str
    item_id: str
    media_type: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One output of an event; `kept` and `outcome` are null until its window is reviewed."""

    row_id: str
    output: str
    media: str | None
    version_set: str
    finish_reason: str
    error: str | None
    variation: int
    kept: bool | None = None
    rejected_by: tuple[str, ...] = ()
    outcome: Outcome | None = None
    """answered: the review kept it; rejected: it did not; error: nothing was made."""
    items: tuple[MediaItem, ...] = ()
    """Its pictures and recordings, known with the review."""


@dataclass(frozen=True, kw_only=True)
class EventResult:
    """What became of one event."""

    campaign: str
    event: str
    source: str
    tenant: str
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
    """One for each event of the campaign's windows. A window's tables are in memory one after the other.

    Args:
        event: only the events with this id, of which each source may have one.
        keeps_late: the campaign's file says that no row is made of late parts.

    Raises:
        HandoffCorrupt: a window, its events or its rows are damaged.
    """
    chain = windows_chain(handoffs.objects, campaign)
    for number in chain.numbers():
        for _, result in results_of_window(handoffs, chain.read(number), event=event, keeps_late=keeps_late):
            yield result


def results_of_window(
    handoffs: HandoffStore,
    window: SealedWindow,
    *,
    event: str | None = None,
    keeps_late: bool = False,
    content: str | None = None,
    review: str | None = None,
    after: int = 0,
) -> Iterator[tuple[int, EventResult]]:
    """One for each event of a window, in its order, with its place among them, from 1 on: the same place whatever was
    made of it, and whatever other events were erased since.

    Args:
        event, keeps_late: as for `event_results`.
        content, review: content digests of the versions that count; None, or collected meanwhile: the newest.
        after: so many places are left out at the beginning.

    Raises:
        HandoffCorrupt, HandoffMissing: the events or the rows are damaged, or gone.
    """
    table = window_rows(handoffs.objects, window)
    is_left = pl.Series([not is_blank for is_blank in blanks(table)], dtype=pl.Boolean)
    events = pl.DataFrame(table.select([*_EVENT])).with_row_index("index", offset=1).filter(is_left)
    events = events.filter(pl.col("index") > after)
    if event is not None:
        events = events.filter(pl.col("id") == event)
        if not events.height:
            return
    key = window.partition
    made, prompts = _version(handoffs, CONTENT, key, content), handoffs.newest(PROMPTS, key)
    reviewed = _version(handoffs, REVIEWED, key, review) if made else None
    reasons = _reasons(handoffs, prompts) if prompts else {}
    rows = _by_event(made, reviewed, events) if made else iter(())
    following = next(rows, None)
    for one in events.iter_rows(named=True):
        own: tuple[EventRow, ...] = ()
        if following is not None and following[0] == one["index"]:
            own, following = following[1], next(rows, None)
        reason = None if own else reasons.get((one["id"], one["source"]))
        yield (
            one["index"],
            EventResult(
                campaign=window.campaign,
                event=one["id"],
                source=one["source"],
                tenant=one["tenant"],
                key=one["key"],
                time=one["time"].isoformat(),
                partition=key,
                state=_state(bool(own), reason, is_kept=window.is_late and keeps_late),
                reason=reason,
                rows=own,
            ),
        )


def _state(is_made: bool, reason: str | None, *, is_kept: bool) -> EventState:
    if is_made:
        return "made"
    if reason is not None:
        return "refused"
    return "kept" if is_kept else "waiting"


def _version(handoffs: HandoffStore, asset: str, key: str, digest: str | None) -> Handoff | None:
    newest = handoffs.newest(asset, key)
    if digest is None or newest is None or newest.content_digest == digest:
        return newest
    for version in reversed(handoffs.versions(asset, key)):
        try:
            older = handoffs.open(asset, key, version)
        except HandoffCorrupt:
            continue
        if older.content_digest == digest:
            return older
    return newest


def _by_event(
    content: Handoff, review: Handoff | None, events: pl.DataFrame
) -> Iterator[tuple[int, tuple[EventRow, ...]]]:
    """The index of each event that has rows, and the rows; ascending."""
    varied = [VARIATION.name] if VARIATION.name in content.schema.names else []
    id_name, source_name = EVENT_ORIGIN.names[:2]
    made = content.polars([*_ROW, "position", *varied, id_name, source_name])
    own = events.select("index", pl.col("id").alias(id_name), pl.col("source").alias(source_name))
    made = made.join(own, on=[id_name, source_name], how="inner")
    if verdicts := _verdicts(review, content):
        judged = verdicts.polars(_verdict_columns(verdicts)).rename({MEDIA.name: "items"}, strict=False)
        made = made.join(judged, on="row_id", how="left")
    made = made.sort("index", "position")
    rows = made.iter_rows(named=True, buffer_size=_NUM_AT_ONCE)
    for index, group in groupby(rows, key=lambda row: row["index"]):
        yield index, tuple(map(_row, group))


def _verdict_columns(review: Handoff) -> list[str]:
    return ["row_id", "kept", "rejected_by", *([MEDIA.name] if MEDIA.name in review.schema.names else [])]


def _verdicts(review: Handoff | None, content: Handoff) -> Handoff | None:
    """The review; None: there is none, or it is of other rows."""
    if review is None:
        return None
    stated = review.manifest.input_versions.get(f"{CONTENT}[{content.partition}]")
    return review if stated is None or states_read(stated, content.content_digest) else None


def _row(row: Mapping[str, Any]) -> EventRow:
    kept: bool | None = row.get("kept")
    outcome: Outcome | None = None
    if kept is not None:
        outcome = "answered" if kept else "error" if row["finish_reason"] == _ERROR else "rejected"
    return EventRow(
        **{name: row[name] for name in _ROW},
        variation=row.get(VARIATION.name, 0),
        kept=kept,
        rejected_by=tuple(row.get("rejected_by") or ()),
        outcome=outcome,
        items=tuple(MediaItem(**{name: item[name] for name in _ITEM}) for item in row.get("items") or ()),
    )


def _reasons(handoffs: HandoffStore, prompts: Handoff) -> Mapping[tuple[str, str], str]:
    refused = refused_of(handoffs, prompts)
    if refused is None:
        return {}
    return {(one["event_id"], one["event_source"]): one["reason"] for one in refused.table().to_pylist()}


def refused_of(handoffs: HandoffStore, prompts: Handoff) -> Handoff | None:
    """The refusals beside sealed prompts; None: of files, or collected."""
    return handoffs.find(REFUSED_EVENTS, prompts.partition, prompts=prompts.content_digest)
