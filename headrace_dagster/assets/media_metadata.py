"""What people see first of an asset of media, in Dagster's UI."""

from typing import Any

import dagster as dg

from headrace.handoff.media.reading import MediaSet
from headrace.handoff.media.thumbnails import contact_sheet_markdown, thumbnail_markdown

NUM_ITEMS = "num_items"


def media_metadata(media: MediaSet) -> dict[str, Any]:
    """What people see of media first: how many and how large they are, and the first ones."""
    return {
        NUM_ITEMS: len(media),
        "media_bytes": media.num_bytes,
        "num_shards": len(media.layout.shards),
        "thumbnails": dg.MetadataValue.md(thumbnail_markdown(media)),
        "contact_sheet": dg.MetadataValue.md(contact_sheet_markdown(media)),
    }
