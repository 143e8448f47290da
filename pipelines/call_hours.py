"""Which hours of services' calls to seal now: those that are over, with windows that no partition has.

The cursor holds the last window of each log's inbox that was looked at, and the hours that windows since belong to,
until all of their windows are in sealed partitions. What is asked for follows from the store and from runs under way,
so a tick that is repeated asks for the same run key.

Of a gateway whose log is away nobody knows whether it has calls of an hour: when it comes back, they are a late part.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import dagster as dg

from assets.calls import ZONE
from assets.partitions import days
from headrace.errors import HandoffCorrupt
from headrace.handoff.manifests import newest_manifest
from headrace.inbox.sealed import windows_following
from headrace.keys import CallHour, digest_text, feed_service, partition_from_path
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore
from headrace.voice.hours import ROWS, hour_ends, hour_of, left_of_hour
from headrace.voice.recorded import Recording
from pipelines.jobs import JOBS
from pipelines.ticks import RunsUnderWay

# Gateways close an hour within a second of its time, and seal it then: some hundred calls take a moment.
_SEALING_SECONDS = 60
# Windows of one log that a tick reads.
_WINDOWS_MAX = 100


class CallHours:
    """One tick's look. Attributes: requests, problems, reasons: as a tick tells them."""

    def __init__(self, objects: ObjectStore, services: Mapping[str, Service], under_way: RunsUnderWay) -> None:
        self.requests: list[dg.RunRequest] = []
        self.problems: list[str] = []
        self.reasons: list[str] = []
        self._objects, self._services, self._under_way = objects, services, under_way

    def look(self, cursor: Mapping[str, Any], *, now: float) -> dict[str, Any]:
        """Returns the cursor after this tick."""
        seen: dict[str, int] = dict(cursor.get("seen", {}))
        hours = set(cursor.get("hours", ()))
        for feed in map(partition_from_path, self._objects.children("inbox")):
            if (service := feed_service(feed)) is None:
                continue
            windows, seen[feed] = windows_following(self._objects, feed, seen.get(feed, 0))
            try:
                for window in islice(windows, _WINDOWS_MAX):
                    hours.add(hour_of(service, window, ZONE).key)
                    seen[feed] = window.number
            except HandoffCorrupt as error:
                self.problems.append(f"{feed}: {error}")
        waiting = [key for key in sorted(hours) if self._waits(CallHour.parse(key), now)]
        return {"seen": seen, "hours": waiting} if seen else {}

    def _waits(self, hour: CallHour, now: float) -> bool:
        """Asks for what is due of an hour. False: all of it is sealed, or can never be."""
        if hour.day < (days.get_first_partition_key() or ""):
            self.problems.append(
                f"Calls of {hour.key} are of a day before HEADRACE_FIRST_DAY, and no run can seal them: set an earlier "
                "first day, and this sensor's cursor back to {}."
            )
            return False
        service = self._services.get(hour.service)
        rules = (service.recording if service else None) or Recording()
        due = hour_ends(hour, ZONE) + rules.lateness_seconds + _SEALING_SECONDS
        if now < due:
            self.reasons.append(f"{hour.key} is sealed in {due - now:.0f} s.")
            return True
        try:
            num_parts, left = left_of_hour(self._objects, hour, ZONE)
            unmade = [part for part in _parts(hour, num_parts) if not newest_manifest(self._objects, ROWS, part.key)]
        except HandoffCorrupt as error:
            self.problems.append(f"{hour.key}: {error}")
            return True
        # A part that is decided and not made was asked for under the windows that it had then.
        wanted = [(part, "again") for part in unmade]
        if left and not unmade:
            names = digest_text(*(f"{one.inbox}/{one.number}" for one in left))
            wanted = [(_parts(hour, num_parts + 1)[-1], names[:16])]
        for part, names in wanted[:1]:
            if not self._under_way.make((ROWS,), part.key):
                request = dg.RunRequest(
                    run_key=f"calls:{part.key}:{names}", partition_key=part.key, job_name=JOBS["seal_calls"].name
                )
                self.requests.append(request)
        return bool(wanted)


def _parts(hour: CallHour, num: int) -> list[CallHour]:
    """The hour and its first late parts, so many together."""
    return [CallHour(day=hour.day, service=hour.service, hour=hour.hour, late_part=part) for part in range(num)]
