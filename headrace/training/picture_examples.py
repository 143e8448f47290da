"""Captioned pictures as tensors, directly from sealed handoffs: views of memory-mapped pages, copied a pass at a time.

Shapes: B pictures of a pass, C colours, H and W their side, T tokens of a caption, D numbers of a token's state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from headrace.errors import InvalidTrainingRun
from headrace.handoff.picture_examples import CAPTION_ENCODER, picture_sizes
from headrace.handoff.tensors import tensors
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.training.examples import ExamplesInput
from headrace.training.recipe import PICTURES

_COLUMNS = ("pixels", "caption_states", "caption_mask")


@dataclass(frozen=True, kw_only=True)
class PictureShape:
    """What the examples decide of the model and the pipeline."""

    side: int
    tokens: int
    width: int


@dataclass(frozen=True)
class PicturePass:
    """The rows of one forward pass: pixels from -1 to 1, float32, as the captions' states; the mask holds bools."""

    pixels_BCHW: Any  # noqa: N815 (shape letters)
    states_BTD: Any  # noqa: N815
    mask_BT: Any  # noqa: N815


class PictureSplit:
    """One split of `picture_examples`, numbered 0, 1, … in the order of the inputs."""

    def __init__(self, handoffs: Sequence[Handoff], split: Literal["train", "heldout", "empty"]) -> None:
        self.shape = shape_of(handoffs[0].schema)
        self.captions: list[str] = []
        self.item_ids: list[str] = []
        self._chunks: list[tuple[Any, ...]] = []
        self._places: list[tuple[int, int]] = []
        for handoff in handoffs:
            if shape_of(handoff.schema) != self.shape:
                raise InvalidTrainingRun(
                    f"{handoff.label} has pictures and captions of {shape_of(handoff.schema)}, {handoffs[0].label} of "
                    f"{self.shape}. Materialize {PICTURES} of all shards with one images file."
                )
            columns = (tensors(handoff, name) for name in _COLUMNS)
            told = handoff.batches(["split", "caption", "item_id"])
            for batch, chunk in zip(told, zip(*columns, strict=True), strict=True):
                if not batch.num_rows:
                    continue
                chosen = np.flatnonzero(batch.column("split").to_numpy(zero_copy_only=False) == split)
                self._places += [(len(self._chunks), int(row)) for row in chosen]
                # Arrow takes no rows of the spelling that text has in a file.
                captions, item_ids = batch.column("caption"), batch.column("item_id")
                self.captions += [captions[row].as_py() for row in chosen.tolist()]
                self.item_ids += [item_ids[row].as_py() for row in chosen.tolist()]
                self._chunks.append(chunk)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, numbers: Sequence[int] | np.ndarray) -> PicturePass:
        import torch

        places = [self._places[number] for number in numbers]
        pixels, states, mask = (
            torch.stack([self._chunks[chunk][column][row] for chunk, row in places]) for column in range(len(_COLUMNS))
        )
        return PicturePass(pixels.float() / 127.5 - 1, states.float(), mask.bool())


def shape_of(schema: pa.Schema) -> PictureShape:
    side, tokens, width = picture_sizes(schema)
    return PictureShape(side=side, tokens=tokens, width=width)


def open_pictures(
    handoffs: HandoffStore, inputs: Sequence[ExamplesInput], split: Literal["train", "heldout", "empty"]
) -> PictureSplit:
    """Reads exactly the pinned versions.

    Raises:
        HandoffMissing, HandoffCorrupt: a pinned version is gone or damaged.
        InvalidTrainingRun: sizes differ between versions, or there is no picture to learn.
    """
    opened = PictureSplit([handoffs.open(PICTURES, item.partition, item.version) for item in inputs], split)
    if split == "train" and not len(opened):
        raise InvalidTrainingRun(
            f"The {len(inputs)} given partitions of {PICTURES} hold no picture of split 'train'; check heldout_share "
            "and the rules of the images file."
        )
    return opened


def check_caption_encoder(handoffs: HandoffStore, inputs: Sequence[ExamplesInput], base_weights_digest: str) -> None:
    """Raises: InvalidTrainingRun: the captions were read by another model than the recipe's base."""
    for item in inputs:
        handoff = handoffs.open(PICTURES, item.partition, item.version)
        found = handoff.attributes.get(CAPTION_ENCODER, "")
        if found != base_weights_digest:
            raise InvalidTrainingRun(
                f"{handoff.label} has captions as the model {found[:12]} reads them, and the recipe's base_model is "
                f"{base_weights_digest[:12]}: what is exported with it would read captions otherwise. Name the images "
                f"file's caption_encoder as base_model, or materialize {PICTURES} again."
            )
