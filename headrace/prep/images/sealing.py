"""The kept pictures of a shard as training reads them: copied as they were sealed, with caption and split."""

from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.reading import MediaSet


def kept_items(raw: MediaSet, verdicts: pa.Table, shard: str) -> Iterator[MediaItem]:
    """The items of one shard's raw_images that no rule drops, in their order.

    Args:
        verdicts: IMAGE_VERDICTS of the whole corpus.

    Raises:
        InvalidInput: pictures were read after they were judged.
        HandoffCorrupt: an item is damaged.
    """
    of_shard = pl.DataFrame(verdicts).filter(pl.col("shard").cast(pl.String) == shard)
    judged = {
        image_id: (split, caption) for image_id, split, caption in of_shard["image_id", "split", "caption"].iter_rows()
    }
    for item, chunks in raw.contents():
        if item.item_id not in judged:
            raise InvalidInput(
                f"Picture {item.item_id} of {raw.handoff.label} was never judged: {shard} was read again after "
                "image_verdicts was made. Materialize image_verdicts, then this partition."
            )
        split, caption = judged[item.item_id]
        if split is None:
            continue
        yield MediaItem(
            item_id=item.item_id,
            media_type=item.media_type,
            content=chunks,
            num_bytes=item.num_bytes,
            width=item.width,
            height=item.height,
            caption=caption,
            attributes={**item.attributes, "split": split},
        )
