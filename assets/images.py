"""Captioned pictures: read shard by shard, judged all together, packed shard by shard, and made training examples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from assets.partitions import image_shards, refuse_unknown_image_shards
from headrace.errors import QuarantineExceeded
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.picture_examples import CAPTION_ENCODER
from headrace.handoff.versions import Handoff
from headrace.placement.demand import stage_tags
from headrace.prep.images.judging import judge
from headrace.prep.images.picture_examples import CaptionEncoder, build_picture_examples
from headrace.prep.images.reading import ImageReading
from headrace.prep.images.sealing import RAW_IMAGES, kept_items, own_verdicts
from headrace.prep.shard_verdicts import CORPUS
from headrace.store.sealed_directory import open_directory, seal_directory
from headrace_dagster.assets.media_metadata import media_metadata
from headrace_dagster.assets.stages import Stage
from headrace_dagster.failures import RETRIES, translated_errors
from headrace_dagster.handoff_inputs import RecordBatches
from headrace_dagster.handoff_io import ATTRIBUTES, StoreResource
from headrace_dagster.handoff_lineage import lineage_of, sealed_already
from resources.images_resource import ImagesResource

_STAGE = Stage("images")
_TAGS = stage_tags(_STAGE.name)
# With another version of the code, a picture may have other bytes.
_READING_VERSION = _SEALING_VERSION = "2"


def _read(description: str, *attributes: str) -> dg.AssetOut:
    return dg.AssetOut(
        description=description,
        tags=_TAGS,
        code_version=_READING_VERSION,
        is_required=False,
        metadata={ATTRIBUTES: attributes},
    )


@dg.multi_asset(
    name="read_image_shard",
    outs={
        "image_quarantine": _read(
            "What one shard of pictures holds and nobody could read or decode: file, line, reason. For their owner. "
            "Sealed also when there is so much of it that raw_images fails."
        ),
        "raw_images": _read(
            "Every picture of one shard that could be decoded, upright, in sRGB, at the size that training gets. "
            "Packed; this table is the index. Read by clean_images. As old as its last run: no changed file is noticed."
        ),
        "image_signatures": _read(
            "What one shard's pictures are judged by: caption, size in the file, perceptual hashes, colours, contrast, "
            "and where each stood. Names the raw_images that it was read with. Read by image_verdicts and "
            "clean_images.",
            RAW_IMAGES,
        ),
    },
    partitions_def=image_shards,
    group_name=_STAGE.name,
    op_tags=_TAGS,
    retry_policy=RETRIES,
)
def read_image_shard(
    context: dg.AssetExecutionContext, images: ImagesResource, store: StoreResource
) -> Iterator[dg.Output[Any]]:
    """Reads and decodes the pictures of one shard."""
    with translated_errors():
        corpus = images.images()
        reading = ImageReading(corpus, context.partition_key, Path(images.home))
        try:
            raw = publish_media(
                store.handoffs(),
                "raw_images",
                context.partition_key,
                reading.items(),
                code_version=_READING_VERSION,
                run_id=context.run.run_id,
                attributes={"encoder": corpus.resize.encoder_version()},
            )
        except QuarantineExceeded:
            read = reading.read()
            yield dg.Output(read.quarantine, "image_quarantine", metadata=read.counts())
            raise
        read = reading.read()
        yield dg.Output(read.quarantine, "image_quarantine", metadata=read.counts())
        yield dg.Output(raw, "raw_images", metadata=read.counts() | media_metadata(MediaSet.open(raw)))
        # A run that is killed before this leaves signatures of other pictures, which clean_images refuses.
        read_with = {RAW_IMAGES: raw.content_digest}
        yield dg.Output(read.documents, "image_signatures", metadata=read.counts() | read_with)


@_STAGE.asset(
    None,
    code_version="2",
    ins={"image_signatures": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())},
    metadata={ATTRIBUTES: (CORPUS,)},
)
def image_verdicts(
    context: dg.AssetExecutionContext,
    images: ImagesResource,
    store: StoreResource,
    image_signatures: dict[str, pa.Table],
) -> dg.MaterializeResult[Any]:
    """All pictures of all shards, judged together: the first rule that drops each, whose copy it is, and its side of
    the split.

    Made once for the same pictures and rules, in one run: signatures are small. Read by clean_images.
    """
    refuse_unknown_image_shards()
    corpus = images.images()
    made_by = {CORPUS: corpus.judging_digest}
    if sealed := sealed_already(context, store.handoffs(), **made_by):
        return dg.MaterializeResult(value=sealed, metadata=made_by)
    judged = judge(corpus, image_signatures)
    return dg.MaterializeResult(
        value=judged.verdicts,
        metadata={
            **made_by,
            "num_rows_in": judged.num_images,
            "num_rows_dropped": sum(judged.drops.values()),
            "num_kept": judged.num_images - sum(judged.drops.values()),
            "num_heldout": judged.num_heldout,
            **{f"dropped/{rule}": num_rows for rule, num_rows in judged.drops.items()},
        },
    )


@_STAGE.asset(image_shards, code_version=_SEALING_VERSION)
def clean_images(
    context: dg.AssetExecutionContext,
    images: ImagesResource,
    store: StoreResource,
    raw_images: Handoff,
    image_signatures: Handoff,
    image_verdicts: Handoff,
) -> dg.MaterializeResult[Handoff]:
    """One shard's pictures that no rule dropped, packed for training: caption, size, and in `attributes` the side of
    the split and the place where each stood.

    Copied from raw_images; follows the newest image_verdicts, and refuses those of other pictures or of another images
    file. Read by picture_examples, and by whoever trains elsewhere (`headrace handoff export`).
    """
    verdicts = own_verdicts(images.images(), store.handoffs(), raw_images, image_signatures, image_verdicts)
    handoff = publish_media(
        store.handoffs(),
        "clean_images",
        context.partition_key,
        kept_items(MediaSet.open(raw_images), verdicts),
        code_version=_SEALING_VERSION,
        run_id=context.run.run_id,
        input_versions=lineage_of(context.get_step_execution_context()).input_versions(),
        attributes=raw_images.manifest.attributes,
    )
    counts = {"num_rows_in": raw_images.num_rows, "num_rows_dropped": raw_images.num_rows - handoff.num_rows}
    return dg.MaterializeResult(value=handoff, metadata=counts | media_metadata(MediaSet.open(handoff)))


@_STAGE.asset(
    image_shards,
    code_version="1",
    # The caption encoder; it runs on a CPU, too.
    gpus=1,
    metadata={ATTRIBUTES: (CAPTION_ENCODER,)},
)
def picture_examples(
    context: dg.AssetExecutionContext, images: ImagesResource, store: StoreResource, clean_images: Handoff
) -> dg.MaterializeResult[Any]:
    """One shard's clean pictures as pixels, and their captions as the states and mask of the caption encoder.

    Each row is one picture, of train or held-out; one row more is no caption at all. Made once for the same pictures,
    encoder and length of captions. Read by trained_model and evaluation of recipes with `objective: flow_matching`.
    """
    settings = images.examples()
    weights = seal_directory(store.objects(), images.caption_encoder_directory())
    encoder_digest = {CAPTION_ENCODER: weights.digest}
    made_by = {**encoder_digest, "caption_tokens": str(settings.caption_tokens)}
    if sealed := sealed_already(context, store.handoffs(), **made_by):
        return dg.MaterializeResult(value=sealed, metadata=encoder_digest)
    encoder = CaptionEncoder(open_directory(store.objects(), weights.digest), tokens=settings.caption_tokens)
    examples = build_picture_examples(MediaSet.open(clean_images), encoder, tokens=settings.caption_tokens)
    return dg.MaterializeResult(
        value=RecordBatches(examples.schema, examples.batches),
        metadata={**encoder_digest, "num_train": examples.num_train, "num_heldout": examples.num_heldout},
    )
