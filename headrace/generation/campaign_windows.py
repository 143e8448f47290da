"""Which windows of a campaign's inbox have prompts, rows or reviews: the store's listings alone say so.

A day's shards are known from the campaign's file; its windows are known once they are sealed, and belong to the day on
which they end.
"""

from collections.abc import Container, Iterable, Mapping

from headrace.generation.campaign import Campaign
from headrace.generation.sealed_tables import CONTENT, PROMPTS, REVIEWED
from headrace.handoff.layout import asset_prefix
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition, Window, partition_from_path
from headrace.store.objects import ObjectStore


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


def windows_of(parts: Mapping[str, ContentPartition]) -> set[Window]:
    """The windows of partitions by key."""
    return {part.window for part in parts.values() if part.window is not None}


def partitions_of_day(campaign: Campaign, day: str, objects: ObjectStore) -> list[str]:
    """One day's content partitions: all shards, or the windows with prompts.

    Of a campaign that took files before, or takes them again, only what its file asks for now.
    """
    if not campaign.takes_events:
        return campaign.partition_keys(day)
    return [key for key, part in begun_windows(objects, campaign.name).items() if part.day == day]


def newest_besides(
    handoffs: HandoffStore, asset: str, keys: Iterable[str], there: Container[str]
) -> dict[str, Handoff]:
    """The newest version of each of `keys` that is a window and not `there`."""
    parts = {key: part for key in keys if key not in there and (part := ContentPartition.find(key)) and part.window}
    return {key: found for key in parts if (found := handoffs.newest(asset, key))}


def _age(partition: ContentPartition) -> tuple[str, Window]:
    assert partition.window is not None, "a window"
    return partition.day, partition.window
