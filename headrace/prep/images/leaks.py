"""Finds pictures and captions on both sides of the split, the one fault that falsifies every held-out figure.

Looks at what is sealed, by the corpus's own measure of what looks alike: pictures beyond it, such as mirrored ones, are
no leak to it. Within that measure it finds all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.media.reading import MediaSet
from headrace.prep.images.corpus import ImageCorpus, ImageDuplicates
from headrace.prep.images.duplicates import look_alikes
from headrace.prep.text_keys import text_keys_of


@dataclass(frozen=True, kw_only=True)
class ImageLeaks:
    """How many captions, and groups of pictures that look alike, are in both train and held-out, with a few of each.

    `compares_captions`: False where captions are names of classes, and meant to be in both.
    """

    num_images: int
    num_heldout: int
    num_captions: int
    num_looks: int
    compares_captions: bool
    samples: tuple[str, ...]

    @property
    def found(self) -> bool:
        return self.num_captions + self.num_looks > 0

    def told(self, num_shards: int) -> str:
        """What was compared and what was found, in sentences. `num_shards`: of how many shards the pictures are."""
        train = self.num_images - self.num_heldout
        shards = f"{num_shards:,} {'shard' if num_shards == 1 else 'shards'}"
        compared = f"{self.num_heldout:,} held-out and {train:,} training pictures of {shards} were compared"
        if not self.found:
            nothing = "no caption and no look" if self.compares_captions else "no look"
            return f"{compared}: {nothing} is on both sides."
        counts = ((self.num_captions, "caption", "captions"), (self.num_looks, "look", "looks"))
        found = " and ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in counts if count)
        verb = "is" if self.num_captions + self.num_looks == 1 else "are"
        return f"{compared}: on both sides {verb} {found}, for example: {'; '.join(self.samples)}"


def find_image_leaks(corpus: ImageCorpus, shards: Iterable[MediaSet], signatures: Iterable[pa.Table]) -> ImageLeaks:
    """Args:
        shards: of clean_images.
        signatures: IMAGE_SIGNATURES of the same shards.

    Raises:
        InvalidInput: a picture has no signature.
    """
    # Otherwise captions are names of classes, and meant to be on both.
    compares_captions = corpus.split_by != "picture"
    sealed = pl.DataFrame(
        [(item.item_id, item.caption, item.attributes.get("split")) for media in shards for item in media],
        schema={"image_id": pl.String, "caption": pl.String, "split": pl.String},
        orient="row",
    )
    columns = ["image_id", "coarse_hash", "fine_hash", "colours"]
    compared = [pl.DataFrame(table.select(columns)) for table in signatures]
    pictures = sealed.join(pl.concat(compared), on="image_id", how="left") if compared else sealed
    if sealed.is_empty():
        return ImageLeaks(
            num_images=0, num_heldout=0, num_captions=0, num_looks=0, compares_captions=compares_captions, samples=()
        )
    if lost := pictures.filter(pl.col("fine_hash").is_null()).height:
        raise InvalidInput(
            f"{lost:,} pictures of clean_images have no image_signatures: make their shards again, from raw_images on."
        )
    by_caption = pictures.with_columns(text_keys_of(pl.col("caption")).alias("key"))
    captions = _on_both_sides(by_caption) if compares_captions else []
    alike = pl.Series("key", look_alikes(pictures, corpus.duplicates or ImageDuplicates()))
    looks = _on_both_sides(pictures.with_columns(alike))
    return ImageLeaks(
        num_images=pictures.height,
        num_heldout=pictures.filter(pl.col("split") == "heldout").height,
        num_captions=len(captions),
        num_looks=len(looks),
        compares_captions=compares_captions,
        samples=(*captions[:3], *looks[:3]),
    )


def _on_both_sides(pictures: pl.DataFrame) -> list[str]:
    """A caption, or else the id, of the first picture of each such key."""
    sides = (
        pictures.drop_nulls("key")
        .group_by("key", maintain_order=True)
        .agg(pl.col("split").n_unique().alias("sides"), pl.coalesce("caption", "image_id").first().alias("shown"))
    )
    return sides.filter(pl.col("sides") > 1).get_column("shown").to_list()
