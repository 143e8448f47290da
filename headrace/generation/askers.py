"""For whom a campaign's runs ask models that several share: their class, and the tenants whose rows a partition has.

It decides turns at an engine host, and nothing of a row: a window that cannot be read costs its tenants their own turns
and no run.
"""

from contextlib import suppress

from headrace.engines.asker import Asker
from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.generation.campaign import Campaign
from headrace.generation.window_prompts import sealed_window
from headrace.inbox.fairness import costs_of
from headrace.keys import ContentPartition
from headrace.store.objects import ObjectStore


def asker_of(campaign: Campaign, partition: ContentPartition, objects: ObjectStore) -> Asker:
    """Rows of prompt files are their campaign's own. Those of a window are its tenants', as many parts of each turn as
    they have of its events, by their weights; and flex if the most urgent of its events is more than batch."""
    window = None
    if partition.window is not None:
        with suppress(HandoffCorrupt, InvalidInput, ObjectMissing):
            window = sealed_window(objects, partition)
    is_flex = campaign.work_class == "flex" or (window is not None and window.event_class != "batch")
    tenants = {f"campaign {campaign.name}": 1.0}
    if window is not None and window.tenants:
        said = campaign.prompts.inbox.tenants if campaign.prompts.inbox else {}
        num_events = sum(window.tenants.values())
        tenants = costs_of(said, {tenant: num / num_events for tenant, num in window.tenants.items()})
    return Asker(work_class="flex" if is_flex else "batch", tenants=tenants)
