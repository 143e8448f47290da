"""How much of a campaign's inbox waits, in windows, events and seconds: what is sealed and has no rows, by the measured
drain.

Three listings, and the manifests of what waits and of the last windows that were made. What the log holds and has not
sealed yet is not counted: only the gateway knows it. A manifest that cannot be read counts nothing: whoever makes its
window says what is wrong with it.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from headrace.clock import epoch_seconds
from headrace.errors import HandoffCorrupt
from headrace.generation.campaign_windows import made_windows, windows_of
from headrace.generation.sealed_tables import CONTENT, PROMPTS
from headrace.handoff.layout import asset_prefix
from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import newest_manifest
from headrace.handoff.versions import HandoffStore
from headrace.inbox.drain import WorkedOff, rows_per_second
from headrace.inbox.sealed import EVENTS_ASSET
from headrace.keys import Window, partition_from_path, window_key, window_of_key
from headrace.store.objects import ObjectStore

# Attributes of prompts that are of a window: its content digest, and its number in the chain of sealed windows.
EVENTS_CONTENT = "events_content"
EVENTS_NUMBER = "events_number"
# Enough to even out windows of different lengths; what was made long before tells nothing of now.
_NUM_MEASURED = 20


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """Attributes:
    events_per_second: the measured drain; None: nothing was made yet.
    oldest_sealed_at: when the oldest waiting window was sealed, in seconds since the epoch.
    """

    num_windows: int
    num_events: int
    events_per_second: float | None
    oldest_sealed_at: float | None

    @property
    def seconds(self) -> float | None:
        """How long what waits takes at the measured drain; None: nobody knows yet."""
        if not self.num_events:
            return 0.0
        return self.num_events / self.events_per_second if self.events_per_second else None

    def figures(self) -> dict[str, int | float]:
        """For a materialization's metadata, in units."""
        known = {"backlog_seconds": self.seconds, "drained_events_per_second": self.events_per_second}
        return {
            "num_windows_waiting": self.num_windows,
            "num_events_waiting": self.num_events,
            **{name: round(value, 3) for name, value in known.items() if value is not None},
        }


def backlog_of(handoffs: HandoffStore, campaign: str, *, keeps_late: bool = False) -> Backlog:
    """Args: keeps_late: late parts are not made, so that they do not wait."""
    made = made_windows(handoffs, campaign)
    there = windows_of(made)
    waiting = [
        window
        for window in sealed_events(handoffs.objects, campaign)
        if window not in there and not (keeps_late and window.late_part)
    ]
    manifests = [
        found for window in waiting if (found := _newest(handoffs.objects, EVENTS_ASSET, window_key(campaign, window)))
    ]
    return Backlog(
        num_windows=len(manifests),
        num_events=sum(one.num_rows for one in manifests),
        events_per_second=rows_per_second(list(_measured(handoffs.objects, list(made)[-_NUM_MEASURED:]))),
        oldest_sealed_at=min((epoch_seconds(one.created_at) for one in manifests), default=None),
    )


def sealed_events(objects: ObjectStore, campaign: str) -> list[Window]:
    """The windows and late parts whose events are sealed, or being sealed. One listing."""
    named = map(window_of_key, map(partition_from_path, objects.children(asset_prefix(EVENTS_ASSET))))
    return sorted(window for one in named if one and one[0] == campaign for window in [one[1]])


def seconds_since(written: str, now: float) -> float:
    """Seconds from an ISO 8601 time to `now`; negative: it is ahead."""
    return round(now - datetime.fromisoformat(written).timestamp(), 3)


def _newest(objects: ObjectStore, asset: str, partition: str) -> Manifest | None:
    with suppress(HandoffCorrupt):
        return newest_manifest(objects, asset, partition)
    return None


def _measured(objects: ObjectStore, keys: Iterable[str]) -> Iterator[WorkedOff]:
    for key in keys:
        prompts, content = _newest(objects, PROMPTS, key), _newest(objects, CONTENT, key)
        if prompts and content:
            yield WorkedOff(
                ready_at=epoch_seconds(prompts.created_at),
                done_at=epoch_seconds(content.created_at),
                num_rows=prompts.num_rows,
            )
