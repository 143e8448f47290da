"""What a picture model is trained on: each clean picture as pixels, its caption as the caption encoder's states.

The encoder runs here once, not in every epoch of every training. Captions are cut and padded as diffusers' PRX pixel
pipeline does, so a trained model is asked in the same words. States are sealed in half precision: they take half the
room and differ by a thousandth. Each shard has one row more, of the split `empty`: the states of no caption, from which
a training's guidance comes.
"""

import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.handoff.media.reading import MediaSet, StoredItem
from headrace.handoff.picture_examples import picture_examples_schema

_BATCH_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class PictureExamples:
    """The rows of one shard, made as they are asked for, and how many there will be of each split."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    num_train: int
    num_heldout: int


class CaptionEncoder:
    """A model of transformers with a hidden state a token, and its tokenizer."""

    def __init__(self, directory: Path, *, tokens: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self._tokens = tokens
        self.width = int(model.config.hidden_size)

    def encode(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """float16 states [B, T, D] and uint8 mask [B, T] of these captions."""
        found = self._tokenizer(
            [_cleaned(caption) for caption in captions],
            padding="max_length",
            max_length=self._tokens,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self._device)
        with self._torch.inference_mode():
            # The mask as the pipeline passes it.
            states = self._model(
                input_ids=found["input_ids"], attention_mask=found["attention_mask"].bool()
            ).last_hidden_state
        mask = found["attention_mask"].to("cpu", self._torch.uint8).numpy()
        return states.to("cpu", self._torch.float16).numpy(), mask


def _cleaned(caption: str) -> str:
    """As the pipeline cleans a prompt, and as the training of its authors did."""
    return html.unescape(html.unescape(ftfy.fix_text(caption))).strip()


def build_picture_examples(media: MediaSet, encoder: CaptionEncoder, *, tokens: int) -> PictureExamples:
    """PICTURE_EXAMPLES of one shard of clean_images.

    Raises:
        InvalidInput: the pictures are not all squares of one size, or one has no caption.
    """
    items = list(media)
    side = _side(items, media.handoff.label)
    schema = picture_examples_schema(side, tokens, encoder.width)
    splits = [item.attributes["split"] for item in items]
    return PictureExamples(
        schema=schema,
        batches=_batches(media, encoder, schema, side),
        num_train=splits.count("train"),
        num_heldout=splits.count("heldout"),
    )


def _side(items: Sequence[StoredItem], label: str) -> int:
    sizes = {(item.width, item.height) for item in items}
    if len(sizes) == 1:
        [(width, height)] = sizes
        if width and width == height:
            return width
    some = ", ".join(f"{width}x{height}" for width, height in sorted(sizes, key=str)[:3]) or "none"
    raise InvalidInput(
        f"A picture model learns squares of one size, and {label} has pictures of {len(sizes)} sizes: {some}. Set "
        "resize: {form: crop, pixels: …} in the images file, and materialize raw_images and what follows again."
    )


def _batches(media: MediaSet, encoder: CaptionEncoder, schema: pa.Schema, side: int) -> Iterator[pa.RecordBatch]:
    blank = np.zeros((1, 3, side, side), np.uint8)
    yield _batch(schema, [("", "empty", "")], blank, *encoder.encode([""]))
    rows: list[tuple[str, str, str]] = []
    pixels: list[np.ndarray] = []
    for item, chunks in media.contents():
        if not item.caption:
            raise InvalidInput(f"Picture {item.item_id} of {media.handoff.label} has no caption to learn.")
        rows.append((item.item_id, item.attributes["split"], item.caption))
        pixels.append(_pixels(b"".join(chunks), side))
        if len(rows) == _BATCH_ROWS:
            yield _batch(schema, rows, np.stack(pixels), *encoder.encode([caption for *_, caption in rows]))
            rows, pixels = [], []
    if rows:
        yield _batch(schema, rows, np.stack(pixels), *encoder.encode([caption for *_, caption in rows]))


def _pixels(body: bytes, side: int) -> np.ndarray:
    """uint8 [3, side, side] of a sealed picture, whose size its index states."""
    from PIL import Image

    with Image.open(io.BytesIO(body)) as picture:
        pixels_HWC = np.asarray(picture.convert("RGB"))  # noqa: N806 (shape letters)
    assert pixels_HWC.shape == (side, side, 3), "raw_images seals what it states"
    return pixels_HWC.transpose(2, 0, 1)


def _batch(
    schema: pa.Schema,
    rows: Sequence[tuple[str, str, str]],
    pixels: np.ndarray,
    states: np.ndarray,
    mask: np.ndarray,
) -> pa.RecordBatch:
    ids, splits, captions = zip(*rows, strict=True)
    columns = [pa.array(ids), pa.array(splits), pa.array(captions), *(_nested(one) for one in (pixels, states, mask))]
    return pa.RecordBatch.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _nested(values: np.ndarray) -> pa.Array:
    """An array of fixed-size lists of the same shape."""
    found: pa.Array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for length in reversed(values.shape[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, length)
    return found
