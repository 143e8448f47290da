"""A sealed window counts its events by tenant, by name. What is counted there is what its events still say.

The window's object stays in its chain, under its number: what is left of it takes its place.
"""

from collections import Counter
from dataclasses import replace

from headrace.erasure.scope import opened
from headrace.errors import ObjectMissing
from headrace.handoff.erasures import erased_contents
from headrace.handoff.manifest import Manifest
from headrace.handoff.versions import HandoffStore
from headrace.inbox.sealed import EVENTS_ASSET, NUMBER, WINDOW, windows_chain
from headrace.keys import window_of_key
from headrace.store.small_objects import replace_object


def recount(handoffs: HandoffStore, events: Manifest) -> None:
    """Args: events: the newest version of a table of a window's events, or of another table.

    Raises: HandoffCorrupt: the window's object, or its events, are damaged.
    """
    if found := _miscounted(handoffs, events):
        key, left = found
        replace_object(handoffs.objects, key, WINDOW, lambda window: replace(window, tenants=left))


def is_miscounted(handoffs: HandoffStore, events: Manifest) -> bool:
    """Whether the window names tenants of whom it has no event any more."""
    return _miscounted(handoffs, events) is not None


def _miscounted(handoffs: HandoffStore, events: Manifest) -> tuple[str, dict[str, int]] | None:
    """The window's key, and the counts as they should be."""
    place, number = window_of_key(events.partition), events.attributes.get(NUMBER, "")
    if events.asset != EVENTS_ASSET or not erased_contents(events) or place is None or not number.isdecimal():
        return None
    chain = windows_chain(handoffs.objects, place[0])
    try:
        window = chain.read(int(number))
    except ObjectMissing:  # it is being sealed, of what the log has left
        return None
    if window.name != events.partition or not window.tenants:
        return None
    counts = Counter(opened(handoffs, events).table(["tenant"])["tenant"].to_pylist())
    # Blank rows have no tenant.
    left = {name: counts[name] for name in sorted({*window.tenants, ""}) if counts[name]}
    return None if left == window.tenants else (chain.key(int(number)), left)
