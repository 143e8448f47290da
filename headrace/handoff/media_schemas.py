"""Columns of pictures and recordings, of a corpus and generated; `headrace.handoff.schemas` has every edge by name."""

import pyarrow as pa

from headrace.handoff.columns import MADE, NAME, STRING, columns, nullable

MEDIA_INDEX = columns(
    item_id=STRING,
    id_xxh3_64=pa.uint64(),  # of item_id's UTF-8: look-ups use it
    media_type=STRING,  # "image/png", "audio/wav", …
    num_bytes=pa.int64(),
    xxh3_128=pa.binary(16),  # of the item's bytes
    width=nullable(pa.int32()),  # pixels
    height=nullable(pa.int32()),  # pixels
    duration_seconds=nullable(pa.float64()),
    caption=nullable(STRING),
    row_id=nullable(STRING),  # the generated row that the item was made from
    version_set=nullable(STRING),
    attributes=STRING,  # a JSON object
)

# What is compared and judged of one picture of a corpus; its bytes are the item `image_id` of raw_images.
IMAGE_SIGNATURES = columns(
    image_id=STRING,
    caption=nullable(STRING),
    source_file=STRING,
    source_line=pa.int64(),  # of a table or tar; 0: the file is the picture
    member=nullable(STRING),  # its name in a tar or list
    width=pa.int32(),  # pixels as the file has it, upright
    height=pa.int32(),
    format=NAME,  # "JPEG", "PNG", …
    animated=pa.bool_(),
    pixels=pa.binary(16),  # digest of what training sees, and of the size in the file
    coarse_hash=pa.uint64(),
    fine_hash=pa.binary(32),
    colours=pa.binary(27),  # mean RGB of each ninth
    contrast=pa.float64(),
)

IMAGE_VERDICTS = columns(
    image_id=STRING,
    shard=NAME,
    caption=nullable(STRING),  # in its normal form
    split=nullable(STRING),  # "train" | "heldout"; null: dropped
    rule=nullable(STRING),  # the first rule that drops it; null: kept
    measured=nullable(STRING),
    limit=nullable(STRING),
    copy_of=nullable(STRING),  # of a duplicate, the id of the picture that is kept
    copy_of_shard=nullable(STRING),
)

# How each picture or recording was made, or why there is none; a row for each row of content and role.
MEDIA_EXECUTION = columns(
    row_id=STRING,
    role=STRING,
    asked=STRING,  # what its template gave
    seed=pa.int64(),
    finish_reason=STRING,  # "stop" | "error" | "refused" | "skipped"
    error=nullable(STRING),
    **MADE,
    taken_from=nullable(STRING),  # the version that has the same of another version set; null: it was made
)

# Pictures and recordings of a row, in the order of the chain; only where a campaign has any. Their bytes are the items
# `item_id` of generated_images and generated_speech.
MEDIA = pa.field(
    "media",
    pa.list_(
        pa.struct(
            [
                ("role", STRING),
                ("item_id", STRING),
                ("media_type", STRING),
                ("num_bytes", pa.int64()),
                ("xxh3_128", pa.binary(16)),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("duration_seconds", pa.float64()),
                ("figures", STRING),  # a JSON object: what its review measured, by name
            ]
        )
    ),
    nullable=False,
)
