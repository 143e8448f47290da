"""Which windows of a campaign's inbox are sealed, begun and made: the store's listings alone say so.

A day's shards are known from the campaign's file; its windows are known once they are sealed, and belong to the day on
which they end.
"""

from collections.abc import Iterable

from headrace.handoff.layout import asset_prefix
from headrace.handoff.row_tables import CONTENT, PROMPTS, REVIEWED
from headrace.handoff.versions import HandoffStore
from headrace.inbox.sealed import EVENTS_ASSET
from headrace.keys import ContentPartition, Window, partition_from_path, window_of_key
from headrace.store.objects import ObjectStore


def sealed_events(objects: ObjectStore, campaign: str) -> list[Window]:
    """The windows and late parts whose events are sealed, or being sealed. One listing."""
    named = map(window_of_key, map(partition_from_path, objects.children(asset_prefix(EVENTS_ASSET))))
    return sorted(window for one in named if one and one[0] == campaign for window in [one[1]])


def begun_windows(objects: ObjectStore, campaign: str, asset: str = PROMPTS) -> dict[str, ContentPartition]:
    """The windows of a campaign with a partition of this asset, by key, oldest first: sealed, or begun by a run that
    may have been killed. One listing, whatever has gathered there."""
    parts = filter(None, map(ContentPartition.find, map(partition_from_path, objects.children(asset_prefix(asset)))))
    own = [part for part in parts if part.campaign == campaign and part.window is not None]
    return {part.key: part for part in sorted(own, key=_age)}


def made_windows(handoffs: HandoffStore, campaign: str) -> dict[str, ContentPartition]:
    """Those with sealed rows. Two listings, and one more for each whose review was not begun."""
    reviewed = begun_windows(handoffs.objects, campaign, REVIEWED)
    begun = begun_windows(handoffs.objects, campaign, CONTENT)
    return {key: part for key, part in begun.items() if key in reviewed or handoffs.versions(CONTENT, key)}


def windows_of(parts: Iterable[ContentPartition]) -> set[Window]:
    return {part.window for part in parts if part.window is not None}


def _age(partition: ContentPartition) -> tuple[str, Window]:
    assert partition.window is not None, "a window"
    return partition.day, partition.window
