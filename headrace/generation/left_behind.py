"""Which of a campaign's day's partitions do not belong to it any more: a lower `num_shards` left them behind.

A changed `num_shards` divides the day's list anew, and the partitions beyond it stay in the store as they were, with
prompts that other partitions have now. Whoever counts or reads a day's partitions leaves these out; what they cost was
spent all the same (`headrace.generation.spending`). Sealed prompts say into how many shards their list was divided, and
the ones that were listed last speak for the day. An earlier Headrace's do not say it: then prompts are compared, by who
reads rows anyway.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from headrace.errors import HandoffCorrupt
from headrace.handoff.manifest import Manifest
from headrace.handoff.manifests import newest_manifest
from headrace.handoff.row_tables import PROMPTS
from headrace.keys import ContentPartition
from headrace.store.objects import ObjectStore

NUM_SHARDS = "num_shards"
"""The attribute of sealed prompts with the number of shards that their day's list was divided into."""


def left_behind(prompts: Mapping[str, Manifest], *, compared_in: ObjectStore | None = None) -> set[str]:
    """The partitions among `prompts`' keys that belong to their day no more.

    Args:
        prompts: the newest sealed prompts, by partition; other keys than content partitions' always belong.
        compared_in: where to read the prompts of days that do not state their shards; None: these belong as they are.
    """
    days: dict[tuple[str, str], list[Manifest]] = defaultdict(list)
    for key, manifest in prompts.items():
        # A window of the inbox is its own list: no number of shards divides it.
        if (part := ContentPartition.find(key)) and part.window is None:
            days[part.campaign, part.day].append(manifest)
    left: set[str] = set()
    for listed in days.values():
        if len(listed) > 1:
            left |= _left_of_day(compared_in, sorted(listed, key=lambda one: one.created_at, reverse=True))
    return left


def listed_prompts(objects: ObjectStore, keys: Iterable[str]) -> dict[str, Manifest]:
    """The newest prompts of content partitions; what cannot be read tells nothing."""
    found: dict[str, Manifest] = {}
    for key in filter(ContentPartition.find, keys):
        with suppress(HandoffCorrupt):
            if manifest := newest_manifest(objects, PROMPTS, key):
                found[key] = manifest
    return found


def _left_of_day(objects: ObjectStore | None, listed: Sequence[Manifest]) -> set[str]:
    """Args: listed: of one campaign's day, the last first."""
    stated = listed[0].attributes.get(NUM_SHARDS, "")
    if stated.isdecimal():
        return {one.partition for one in listed if (ContentPartition.parse(one.partition).shard or 0) >= int(stated)}
    if objects is None:
        return set()
    from headrace.handoff.versions import HandoffStore

    handoffs = HandoffStore(objects, leased=False)
    left, seen = set[str](), set[str]()
    for one in listed:
        try:
            table = handoffs.open(one.asset, one.partition, one.version).table(["prompt_id"])
        except HandoffCorrupt:
            # Whoever reads its rows says so.
            continue
        mine = set(table["prompt_id"].to_pylist())
        if mine & seen:
            left.add(one.partition)
        seen |= mine
    return left
