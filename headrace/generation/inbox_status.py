"""Where each campaign's inbox stands: windows sealed, made and waiting, late parts, and how long what waits will take.

Read from the store alone: it has neither the log's events that no window has yet, nor Dagster's runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.clock import epoch_seconds
from headrace.errors import HandoffCorrupt
from headrace.handoff.versions import HandoffStore
from headrace.inbox.backlog import Backlog
from headrace.inbox.made import made_windows, sealed_events, windows_of
from headrace.inbox.sealed import windows_chain
from headrace.keys import feed_service, partition_from_path
from headrace.store.objects import ObjectStore

_ROOT = "inbox"


@dataclass(frozen=True, kw_only=True)
class NewestWindow:
    partition: str
    num_events: int
    ends_at: str
    """ISO 8601: event times are before it."""
    seconds_since_end: float
    seconds_since_sealed: float


@dataclass(frozen=True, kw_only=True)
class InboxStatus:
    """One campaign's inbox. Windows are counted without their late parts."""

    campaign: str
    num_windows: int
    num_windows_made: int
    """With sealed rows."""
    num_late_parts: int
    num_late_parts_made: int
    num_late_parts_kept: int
    """Of which the campaign's file wants no rows."""
    num_waiting: int
    """Windows and late parts without rows."""
    num_events_waiting: int
    events_per_second: float | None
    """The drain, measured over the last 20 windows while there was something to make; null: nothing was made yet."""
    backlog_seconds: float | None
    """How long the waiting events take at that drain; null: nobody knows yet."""
    oldest_waiting_seconds: float | None
    """Since the oldest waiting window was sealed; null: none waits."""
    newest: NewestWindow | None
    problem: str | None
    """Why the chain of windows cannot be read; null: it can."""


def campaigns_with_windows(objects: ObjectStore) -> list[str]:
    """Those of which a window is sealed in this store."""
    names = map(partition_from_path, objects.children(_ROOT))
    campaigns = (name for name in names if feed_service(name) is None)
    return sorted(name for name in campaigns if objects.children(windows_chain(objects, name).prefix))


def inbox_status(handoffs: HandoffStore, campaign: str, now: float, *, keeps_late: bool = False) -> InboxStatus:
    """Args: keeps_late: the campaign's file says that no row is made of late parts. now: seconds since the epoch."""
    sealed = sealed_events(handoffs.objects, campaign)
    made = windows_of(made_windows(handoffs, campaign).values())
    late = [window for window in sealed if window.late_part]
    late_made = sum(window in made for window in late)
    backlog = Backlog(handoffs.objects, campaign, keeps_late=keeps_late)
    backlog.look()
    newest, problem = None, None
    try:
        if last := windows_chain(handoffs.objects, campaign).last():
            window = last[1]
            newest = NewestWindow(
                partition=window.partition,
                num_events=window.num_events,
                ends_at=window.ends_at,
                seconds_since_end=round(now - epoch_seconds(window.ends_at), 3),
                seconds_since_sealed=round(now - epoch_seconds(window.sealed_at), 3),
            )
    except HandoffCorrupt as error:
        problem = str(error)
    return InboxStatus(
        campaign=campaign,
        num_windows=len(sealed) - len(late),
        num_windows_made=sum(not window.late_part for window in made),
        num_late_parts=len(late),
        num_late_parts_made=late_made,
        num_late_parts_kept=len(late) - late_made if keeps_late else 0,
        num_waiting=backlog.num_windows,
        num_events_waiting=backlog.num_events,
        events_per_second=_rounded(backlog.drain),
        backlog_seconds=_rounded(backlog.seconds()),
        oldest_waiting_seconds=None if backlog.oldest is None else _rounded(now - backlog.oldest),
        newest=newest,
        problem=problem,
    )


def inbox_statuses(
    handoffs: HandoffStore, now: float, *, keep_late: Mapping[str, bool], campaign: str | None = None
) -> tuple[InboxStatus, ...]:
    """Of all campaigns with a sealed window, and those of the project that take events.

    Args:
        keep_late: a campaign of the project that takes events → whether it only keeps late ones.
        campaign: only this one.
    """
    names = sorted({*campaigns_with_windows(handoffs.objects), *keep_late})
    return tuple(
        inbox_status(handoffs, name, now, keeps_late=keep_late.get(name, False))
        for name in names
        if campaign in (None, name)
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
