"""Checks of captioned pictures: columns and bytes, row counts that add up, nothing on both sides of the split.

`no_leak` always covers all sealed shards, since a leak between two shards shows in neither alone: it reads every
signature, about 150 bytes a picture, and no picture.
"""

import dagster as dg

from assets.partitions import image_shards
from assets.prep_checks import newest_handoffs, rows_check, schema_check
from headrace.handoff.media.reading import MediaSet
from headrace.prep.images.leaks import find_image_leaks
from headrace.text.markdown import inline
from headrace_dagster.assets.stages import asset_check
from headrace_dagster.handoff_io import StoreResource
from resources.images_resource import ImagesResource

# As in prep_checks: the outcomes of an incoming picture, by asset.
_ACCOUNTS = {
    "raw_images": ("num_rows", "num_rows_quarantined"),
    "image_signatures": ("num_rows", "num_rows_quarantined"),
    "image_verdicts": ("num_kept", "num_rows_dropped"),
    "clean_images": ("num_rows", "num_rows_dropped"),
}


@asset_check(asset="clean_images", name="no_leak")
def no_image_leak(images: ImagesResource, store: StoreResource) -> dg.AssetCheckResult:
    """Over all sealed shards together, no caption, and no two pictures that look alike, are in both train and
    held-out."""
    handoffs = store.handoffs()
    clean = list(newest_handoffs(handoffs, "clean_images", image_shards.get_partition_keys()))
    signatures = newest_handoffs(handoffs, "image_signatures", [one.partition for one in clean])
    leaks = find_image_leaks(images.images(), map(MediaSet.open, clean), [one.table() for one in signatures])
    counts = {
        "num_shards": len(clean),
        "num_rows": leaks.num_images,
        "num_captions_on_both_sides": leaks.num_captions,
        "num_looks_on_both_sides": leaks.num_looks,
        "num_heldout": leaks.num_heldout,
    }
    return dg.AssetCheckResult(passed=not leaks.found, description=inline(leaks.told(len(clean))), metadata=counts)


IMAGE_CHECKS = [
    *(
        schema_check(asset, image_shards)
        for asset in ("raw_images", "image_quarantine", "image_signatures", "clean_images")
    ),
    schema_check("image_verdicts", None),
    *(
        rows_check(asset, counts, None if asset == "image_verdicts" else image_shards)
        for asset, counts in _ACCOUNTS.items()
    ),
    no_image_leak,
]
