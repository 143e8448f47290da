"""Finds which small objects of a store are whole, damaged, or older than their digests.

Judges each object by its own content, not by its kind or neighbours, so a missing object or a gap in a chain is not
seen here. Finds objects by listing, of every kind. Skips handoffs, whose manifests carry a digest of another form
(`headrace handoff verify` reads them), and the files below `parts`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.store.mounts import Finding
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import check_envelope

# A person should not wait longer. It is enough for 10,000 objects of a disk, or at least a thousand of a server.
_SECONDS = 20.0
# A server needs tens of milliseconds a request.
_NUM_READERS = 8
_BATCH = 64
_NUM_NAMED = 3
_NOT_SMALL = {"handoff", "examination"}


@dataclass(frozen=True, kw_only=True)
class Examined:
    """`standing`: `unverified` means older than digests; `reason` says what is damaged."""

    key: str
    standing: Literal["whole", "unverified", "damaged"]
    reason: str = ""


def small_object_keys(store: ObjectStore) -> list[str]:
    """Every key that may hold a small object; one listing of each of the store's own directories."""
    roots = [root for root in store.children("") if root not in _NOT_SMALL and not root.startswith(".")]
    return [
        key
        for root in roots
        for key in store.list(root)
        if key.endswith(".json") and "parts" not in key.split("/")[:-1]
    ]


def examine(store: ObjectStore, keys: Sequence[str]) -> Iterator[Examined]:
    """Yields those of `keys` that exist, in order; reads several at a time."""
    with ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="examine") as readers:
        for start in range(0, len(keys), _BATCH):
            for found in readers.map(lambda key: _examined(store, key), keys[start : start + _BATCH]):
                if found:
                    yield found


def standings_finding(
    store: ObjectStore, *, every: bool = False, seconds_now: Callable[[], float] = time.monotonic
) -> Finding:
    """The state of the store's small objects: of all, or of as many random ones as a short time allows.

    Args:
        every: examines all, however long that takes.
        seconds_now: the clock that measures this time, without the listing.
    """
    keys = small_object_keys(store)
    if not every:
        random.shuffle(keys)
    end = seconds_now() + _SECONDS
    counts: Counter[str] = Counter()
    damaged: list[Examined] = []
    drawn_from = None
    for found in examine(store, keys):
        counts[found.standing] += 1
        if found.standing == "damaged":
            damaged.append(found)
        if not every and seconds_now() > end:
            drawn_from = len(keys)
            break
    sentence = _counted(counts, drawn_from)
    if not damaged:
        return Finding(check="small objects", level="ok", sentence=sentence)
    damaged.sort(key=lambda one: one.key)
    named = "; ".join(f"{one.key} ({one.reason})" for one in damaged[:_NUM_NAMED])
    more = f"; and {len(damaged) - _NUM_NAMED} more" if len(damaged) > _NUM_NAMED else ""
    return Finding(
        check="small objects",
        level="fail",
        sentence=f"{sentence} Damaged: {named}{more}. Only what needs one stops, and says what to do; bring them back "
        "from a copy of the store where there is one.",
    )


def _examined(store: ObjectStore, key: str) -> Examined | None:
    try:
        number = check_envelope(store.read(key), key)
    except ObjectMissing:
        return None
    except (ValueError, HandoffCorrupt) as error:
        return Examined(key=key, standing="damaged", reason=str(error))
    return Examined(key=key, standing="unverified" if number is None else "whole")


def _counted(counts: Counter[str], drawn_from: int | None) -> str:
    words = [f"{counts['whole']:,} whole"]
    if counts["unverified"]:
        words.append(f"{counts['unverified']:,} of earlier releases, which nothing vouches for")
    if counts["damaged"]:
        words.append(f"{counts['damaged']:,} damaged")
    rest = f", drawn from {drawn_from:,} (--all looks at every one)" if drawn_from else ""
    return f"{counts.total():,} looked at{rest}: {', '.join(words)}."
