"""A store with captioned pictures as picture_examples, and a tiny model that reads their captions."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.picture_examples import CAPTION_ENCODER
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep.images.picture_examples import CaptionEncoder, build_picture_examples
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.examples import ExamplesInput
from headrace.training.flow_matching_settings import FlowMatching
from headrace.training.recipe import PICTURES
from tests.training_builders import Bench

SIDE, TOKENS = 16, 8
TINY = FlowMatching(patch_pixels=4, hidden_size=32, heads=2, depth=2, mlp_ratio=2.0, ema_decay=0.8)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
FORMS = ("wheel", "mill", "gate", "channel")


def picture_recipe(**changes: Any) -> dict[str, Any]:
    """A recipe's fields for `make_recipe`, of a picture model that takes milliseconds a step."""
    return {
        "model": "painter",
        "objective": "flow_matching",
        "flow_matching": TINY,
        "base_model": "encoder",
        "batch": 4,
        "precision": "fp32",
        "zero_stage": 1,
    } | changes


def picture(colour: str, form: str, *, side: int = SIDE) -> Image.Image:
    pixels = np.full((side, side, 3), 255, np.uint8)
    at = FORMS.index(form) * side // 8
    pixels[at : at + side // 2, at : at + side // 2] = COLOURS[colour]
    return Image.fromarray(pixels)


def captioned(*, side: int = SIDE, heldout: tuple[str, ...] = ("blue mill",)) -> list[MediaItem]:
    items = []
    for colour in COLOURS:
        for form in FORMS:
            body = io.BytesIO()
            picture(colour, form, side=side).save(body, "PNG")
            caption = f"{colour} {form}"
            items.append(
                MediaItem(
                    item_id=caption.replace(" ", "-"),
                    media_type="image/png",
                    content=body.getvalue(),
                    num_bytes=len(body.getvalue()),
                    width=side,
                    height=side,
                    caption=caption,
                    attributes={"split": "heldout" if caption in heldout else "train"},
                )
            )
    return items


def seal_pictures(handoffs: HandoffStore, items: list[MediaItem]) -> MediaSet:
    return MediaSet.open(
        publish_media(handoffs, "clean_images", "shard-00", iter(items), code_version="1", run_id="test")
    )


def seal_examples(handoffs: HandoffStore, media: MediaSet, encoder: Path) -> Handoff:
    made = build_picture_examples(media, CaptionEncoder(encoder, tokens=TOKENS), tokens=TOKENS)
    return handoffs.publish(
        PICTURES,
        "shard-00",
        made.batches,
        schema=made.schema,
        code_version="1",
        run_id="test",
        attributes={CAPTION_ENCODER: seal_directory(handoffs.objects, encoder).digest},
    )


def make_picture_bench(directory: Path, encoder: Path) -> Bench:
    store = LocalStore(directory / "store")
    handoffs = HandoffStore(store)
    handoff = seal_examples(handoffs, seal_pictures(handoffs, captioned()), encoder)
    given = ExamplesInput(partition="shard-00", version=handoff.version, content_digest=handoff.content_digest)
    return Bench(store, directory / "work", seal_directory(store, encoder).digest, (given,))


def build_caption_encoder(directory: Path) -> Path:
    """A BERT of two layers and its tokenizer, out of the tiny pipeline that tests of the engine paint with."""
    from simulation.tiny_pipelines import build_pixel_pipeline

    pipeline = build_pixel_pipeline(directory / "pipeline")
    whole = directory / "encoder"
    whole.mkdir()
    for part in ("text_encoder", "tokenizer"):
        for path in (pipeline / part).iterdir():
            (whole / path.name).write_bytes(path.read_bytes())
    return whole
