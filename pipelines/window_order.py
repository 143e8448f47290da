"""In which order windows of an inbox are generated, and what their runs are to the queue: by class, then by turn."""

from collections.abc import Mapping
from contextlib import suppress

from dagster._core.storage.tags import PRIORITY_TAG

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.fairness import CLASSES, WorkClass
from headrace.generation.window_prompts import sealed_window
from headrace.inbox.sealed import SealedWindow, inbox_prefix
from headrace.keys import ContentPartition
from headrace.placement.demand import PREEMPTIBLE
from headrace.store.objects import ObjectStore

# Of windows whose object was not read in this process before: those of one tick, so that none lasts.
_NUM_READ_MAX = 200
# Store and partition → its window; begun anew once it has more than ever wait.
_KNOWN: dict[tuple[str, str], SealedWindow] = {}
_NUM_KNOWN_MAX = 5_000
# Live goes before the runs of numbered shards, batch behind them.
_PRIORITY: Mapping[WorkClass, int] = {"live": 1, "flex": 0, "batch": -1}


def known_windows(objects: ObjectStore, partitions: Mapping[str, ContentPartition]) -> dict[str, SealedWindow]:
    """Partition key → its window, as far as this process has read them; some more at each call. A window never changes.

    One that is damaged is left out: whoever makes it says what is wrong with it.
    """
    store = objects.uri(inbox_prefix("all"))
    if len(_KNOWN) > _NUM_KNOWN_MAX:
        _KNOWN.clear()
    for key in [key for key in partitions if (store, key) not in _KNOWN][:_NUM_READ_MAX]:
        with suppress(HandoffCorrupt, InvalidInput, ObjectMissing):
            _KNOWN[store, key] = sealed_window(objects, partitions[key])
    return {key: _KNOWN[store, key] for key in partitions if (store, key) in _KNOWN}


def turn_of(window: SealedWindow | None) -> tuple[int, float, int]:
    """What windows are sorted by: class, turn, number. Those that nobody has read yet come last."""
    if window is None:
        return len(CLASSES), 0.0, 0
    return CLASSES.index(window.event_class), window.turn, window.number


def class_tags(window: SealedWindow | None) -> dict[str, str]:
    """Of the runs of a window: its most urgent class decides. Batch work makes room for other work."""
    if window is None:
        return {}
    tags = {PRIORITY_TAG: str(_PRIORITY[window.event_class])}
    return tags | ({PREEMPTIBLE: "true"} if window.event_class == "batch" else {})


def run_key_of(said: str, window: SealedWindow | None) -> str:
    """`said`, of this window's log alone: Dagster keeps run keys for good, and starts none twice. The same events in
    another store, behind the same instance, would else never be made.
    """
    return said if window is None else f"{said}:{window.log[:8]}"
