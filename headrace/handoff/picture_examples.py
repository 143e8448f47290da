"""The columns of picture_examples, in a file of their own: their types hold the sizes of pictures and captions."""

import pyarrow as pa

# An attribute of its versions: the digest of the files of the model that read the captions, as base_model has it.
CAPTION_ENCODER = "caption_encoder"


def picture_examples_schema(side: int, tokens: int, width: int) -> pa.Schema:
    """Squares of `side` pixels, captions of `tokens` tokens with states of `width` numbers."""
    columns = {
        "item_id": pa.string(),  # of clean_images; "" with the split "empty"
        "split": pa.string(),  # "train" | "heldout" | "empty": the one row of no caption
        "caption": pa.string(),
        "pixels": _lists(pa.uint8(), 3, side, side),
        "caption_states": _lists(pa.float16(), tokens, width),
        "caption_mask": _lists(pa.uint8(), tokens),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def picture_sizes(schema: pa.Schema) -> tuple[int, int, int]:
    """Side, tokens and width of a `picture_examples_schema`."""
    states = schema.field("caption_states").type
    return schema.field("pixels").type.value_type.list_size, states.list_size, states.value_type.list_size


def _lists(kind: pa.DataType, *shape: int) -> pa.DataType:
    for length in reversed(shape):
        kind = pa.list_(kind, length)
    return kind
