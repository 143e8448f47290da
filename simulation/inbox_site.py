"""A log and its sealer over streams of `simulation.event_streams`, in one thread, and what the store has in the end."""

from collections import defaultdict
from typing import Any

from headrace.clock import epoch_seconds
from headrace.inbox.events import Event
from headrace.inbox.log import EventLog
from headrace.inbox.rules import InboxRules
from headrace.inbox.sealed import sealed_windows, window_events
from headrace.inbox.sealing import Sealer
from headrace.store.objects import ObjectStore
from simulation.event_oracle import Expected, TimeRules
from simulation.event_streams import SECOND, Sent

CAMPAIGN = "slogans"
# What a window's rows are sorted by.
_ORDER = ("key", "sequence", "time", "id")


def event_of(sent: Sent) -> Event:
    data = f'{{"product":"{sent.id}"}}'
    return Event(CAMPAIGN, sent.id, sent.source, sent.time, sent.key, sent.sequence, "tests", "batch", None, data)


def time_rules(rules: InboxRules) -> TimeRules:
    """The same for the oracle."""
    return TimeRules(
        window=rules.window_seconds * SECOND,
        lateness=int(rules.lateness_seconds * SECOND),
        idle=int(rules.idle_seconds * SECOND),
        skew=int(rules.skew_seconds * SECOND),
    )


def seal_all(log: EventLog, sealer: Sealer) -> None:
    """Seals what is closed, and forgets its events."""
    reader = log.reader()
    for closed in log.take_closed():
        sealer.seal(closed, reader.events(closed.part.part))
        log.mark_sealed([closed.part.part])
    reader.close()
    while log.forget_sealed():
        pass


def sealed_spans(store: ObjectStore) -> Expected:
    """What the store has, in the oracle's form. Parts of one span are put together, so their order is made anew.

    Raises:
        AssertionError: a window is not in its order, or does not have as many rows as it says.
    """
    found: dict[bool, defaultdict[int, list[tuple[Any, ...]]]] = {True: defaultdict(list), False: defaultdict(list)}
    for window in sealed_windows(store, CAMPAIGN):
        rows = [tuple(row.values()) for row in window_events(store, window).select(_ORDER).to_pylist()]
        assert rows == sorted(rows), f"{window.name} is not in its order"
        assert len(rows) == window.num_events, f"{window.name} has {len(rows)} rows and says {window.num_events}"
        found[window.is_late][int(epoch_seconds(window.begins_at)) * SECOND] += rows
    on_time, late = (
        {begins: [row[-1] for row in sorted(rows)] for begins, rows in found[is_late].items()}
        for is_late in (False, True)
    )
    return Expected(on_time=on_time, late=late)
