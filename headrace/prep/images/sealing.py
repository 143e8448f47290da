"""The kept pictures of a shard as training reads them: copied as they were sealed, with caption and split.

A picture's id tells its place, not what is there. So verdicts count only for the very pictures that they were made of:
a file that was written anew would else give a picture the caption and the side of another one.
"""

from collections.abc import Iterator

import polars as pl

from headrace.errors import InvalidInput
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.images.corpus import ImageCorpus
from headrace.prep.shard_verdicts import own_rows

# An attribute of image_signatures: the content digest of the raw_images that they were read with.
RAW_IMAGES = "raw_images"


def own_verdicts(
    corpus: ImageCorpus, handoffs: HandoffStore, raw: Handoff, signatures: Handoff, verdicts: Handoff
) -> pl.DataFrame:
    """IMAGE_VERDICTS of one shard.

    Args:
        raw, signatures: of the shard, the newest.
        verdicts: of the whole corpus.

    Raises:
        InvalidInput: the verdicts are of other pictures, or of another images file; or a run was killed while it read
            the shard.
    """
    if signatures.attributes.get(RAW_IMAGES) != raw.content_digest:
        raise InvalidInput(
            f"{signatures.label} and {raw.label} were not read together: a run that read {raw.partition} ended between "
            f"the two. Materialize {raw.asset}[{raw.partition}] again."
        )
    return own_rows(
        verdicts,
        [signatures],
        handoffs=handoffs,
        name=corpus.name,
        made_by=corpus.judging_digest,
        shards=corpus.shard_keys,
    )


def kept_items(raw: MediaSet, verdicts: pl.DataFrame) -> Iterator[MediaItem]:
    """The items of one shard's raw_images that no rule drops, in their order.

    Args:
        verdicts: IMAGE_VERDICTS of the shard, made of these pictures.

    Raises:
        HandoffCorrupt: an item is damaged.
    """
    judged = {
        image_id: (split, caption) for image_id, split, caption in verdicts["image_id", "split", "caption"].rows()
    }
    for item, chunks in raw.contents():
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
