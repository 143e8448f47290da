"""The content partitions of a campaign's days: shards, which its file tells, or windows, which the store tells."""

from collections.abc import Collection, Container, Iterable

from headrace.generation.campaign import Campaign
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.made import begun_windows
from headrace.keys import ContentPartition
from headrace.store.objects import ObjectStore


def partitions_of_days(campaign: Campaign, days: Collection[str], objects: ObjectStore) -> dict[str, list[str]]:
    """Day → its content partitions: all shards, or the windows with prompts, for which the store is listed once.

    Of a campaign that took files before, or takes them again, only what its file asks for now.
    """
    if not campaign.takes_events:
        return {day: campaign.partition_keys(day) for day in days}
    found: dict[str, list[str]] = {day: [] for day in days}
    for key, part in begun_windows(objects, campaign.name).items():
        if part.day in found:
            found[part.day].append(key)
    return found


def newest_besides(
    handoffs: HandoffStore, asset: str, keys: Iterable[str], there: Container[str]
) -> dict[str, Handoff]:
    """The newest version of each of `keys` that is a window and not `there`."""
    parts = {key: part for key in keys if key not in there and (part := ContentPartition.find(key)) and part.window}
    return {key: found for key in parts if (found := handoffs.newest(asset, key))}
