"""What waits of a service's recorded calls: hours and windows that are sealed by gateways and in no partition yet.

Read from the store alone, of the last 31 days: what gateways hold and have not sealed only they know.
"""

from dataclasses import dataclass
from datetime import tzinfo

from headrace.clock import epoch_seconds
from headrace.errors import HandoffCorrupt
from headrace.handoff.manifests import newest_manifest
from headrace.inbox.sealed import SealedWindow, windows_chain
from headrace.keys import CallHour, feed_service, partition_from_path
from headrace.rollout.layout import rollout_prefix
from headrace.store.objects import ObjectStore
from headrace.voice.hours import ROWS, NamedWindow, feeds_of, hour_chain, hour_ends

_SECONDS = 31 * 86_400


@dataclass(frozen=True, kw_only=True)
class CallsStatus:
    """One service's recorded calls."""

    service: str
    num_hours: int
    """Hours that are decided, with all that they had in time."""
    num_late_parts: int
    num_unmade: int
    """Of both, those whose rows are not sealed yet."""
    num_windows_waiting: int
    """Sealed by a gateway, and in no hour."""
    num_calls_waiting: int
    oldest_waiting_seconds: float | None
    """Since the end of the first of them; null: none waits."""
    newest: str | None
    """The last hour that is decided: its partition."""
    lag_seconds: float | None
    """Since the end of that hour."""
    problem: str | None
    """Why something of it cannot be read; null: it can."""

    def figures(self) -> dict[str, int]:
        """For a materialization's metadata."""
        return {"num_late_parts": self.num_late_parts, "num_calls_waiting": self.num_calls_waiting}


def calls_status(objects: ObjectStore, service: str, zone: tzinfo, now: float) -> CallsStatus:
    """Args: zone: the project's. now: seconds since the epoch."""
    taken, parts, problem = set[NamedWindow](), list[CallHour](), None
    for hour in _decided_hours(objects, service):
        if hour_ends(hour, zone) < now - _SECONDS:
            continue
        chain = hour_chain(objects, hour)
        try:
            for number in chain.numbers():
                decided = chain.read(number)
                taken.update(decided.windows)
                parts.append(CallHour.parse(decided.hour))
        except HandoffCorrupt as error:
            problem = str(error)
    waiting = list[SealedWindow]()
    for feed in feeds_of(objects, service):
        chain = windows_chain(objects, feed)
        try:
            for number in range(chain.newest(), 0, -1):
                window = chain.read(number)
                if epoch_seconds(window.sealed_at) < now - _SECONDS:
                    break
                if NamedWindow(inbox=feed, number=number) not in taken:
                    waiting.append(window)
        except HandoffCorrupt as error:
            problem = str(error)
    newest = max(parts, default=None)
    return CallsStatus(
        service=service,
        num_hours=sum(not part.late_part for part in parts),
        num_late_parts=sum(part.late_part > 0 for part in parts),
        num_unmade=sum(newest_manifest(objects, ROWS, part.key) is None for part in parts),
        num_windows_waiting=len(waiting),
        num_calls_waiting=sum(window.num_events for window in waiting),
        oldest_waiting_seconds=max((round(now - epoch_seconds(one.ends_at), 3) for one in waiting), default=None),
        newest=newest.key if newest else None,
        lag_seconds=round(now - hour_ends(newest, zone), 3) if newest else None,
        problem=problem,
    )


def calls_statuses(objects: ObjectStore, zone: tzinfo, now: float) -> tuple[CallsStatus, ...]:
    """Of all services of which a gateway has sealed calls in this store."""
    feeds = map(partition_from_path, objects.children("inbox"))
    services = sorted({service for feed in feeds if (service := feed_service(feed))})
    return tuple(calls_status(objects, service, zone, now) for service in services)


def _decided_hours(objects: ObjectStore, service: str) -> list[CallHour]:
    found: list[CallHour] = []
    for name in objects.children(rollout_prefix(service, "hours")):
        day, _, hour = name.rpartition("-")
        if hour.isdigit():
            found.append(CallHour(day=day, service=service, hour=int(hour)))
    return found
