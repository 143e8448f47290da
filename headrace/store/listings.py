"""Groups a listing by prefix, so that garbage collection can count and date it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from headrace.store.objects import Entry


def by_prefix(entries: Iterable[Entry], *, depth: int) -> dict[str, list[Entry]]:
    """Groups by the first `depth` segments of the keys."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups["/".join(entry.key.split("/")[:depth])].append(entry)
    return groups


def size_and_time(entries: Sequence[Entry]) -> tuple[int, float]:
    """Total bytes, and the time of the newest write."""
    return sum(entry.num_bytes for entry in entries), max(entry.modified_at for entry in entries)
