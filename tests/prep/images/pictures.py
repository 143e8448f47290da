"""Corpora, files and signatures of pictures for the tests."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from headrace.handoff.schemas import IMAGE_SIGNATURES
from headrace.prep.images.corpus import ImageCorpus, ImageRules
from headrace.prep.images.signatures import signature_of


def make_images(**changes: Any) -> ImageCorpus:
    """A corpus of what lies under `in/`, of which everything may be dropped or unreadable."""
    corpus = ImageCorpus(name="pictures", files=("in/*",), dropped_share_max=1.0, quarantine_share_max=1.0)
    return dataclasses.replace(corpus, **changes)


def no_rules(**changes: Any) -> ImageRules:
    off = {"width_min": None, "height_min": None, "aspect_max": None, "contrast_min": None}
    return ImageRules(**{**off, "animated": "first_frame", "file_name_captions": "keep", **changes})


def body_of(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    body = io.BytesIO()
    picture.save(body, form, **options)
    return body.getvalue()


def put(path: Path, body: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    return path


def quadrants(size: tuple[int, int] = (80, 60)) -> Image.Image:
    """Red, green / blue, yellow: shows how it is turned."""
    width, height = size
    picture = Image.new("RGB", size, "red")
    picture.paste("lime", (width // 2, 0, width, height // 2))
    picture.paste("blue", (0, height // 2, width // 2, height))
    picture.paste("yellow", (width // 2, height // 2, width, height))
    return picture


def corners(picture: Image.Image) -> list[tuple[int, int, int]]:
    """The colours near the four corners, row by row, to within what JPEG changes."""
    width, height = picture.size
    places = [(x, y) for y in (height // 8, height - height // 8) for x in (width // 8, width - width // 8)]
    return [tuple(round(level / 32) * 32 for level in picture.getpixel(place)) for place in places]  # pyright: ignore


def signatures(*pictures: Image.Image | dict[str, Any], captions: list[str | None] | None = None) -> pa.Table:
    """IMAGE_SIGNATURES of pictures, or of a picture under `picture` with changed columns."""
    rows = []
    for number, one in enumerate(pictures):
        stated = one if isinstance(one, dict) else {"picture": one}
        changes = {name: value for name, value in stated.items() if name != "picture"}
        picture = stated["picture"]
        signature = signature_of(picture, width=picture.width, height=picture.height)
        rows.append(
            {
                **dataclasses.asdict(signature),
                "image_id": f"image-{number}",
                "caption": captions[number] if captions else f"a picture with the number {number}",
                "source_file": f"in/{number:03d}.png",
                "source_line": 0,
                "member": None,
                "width": picture.width,
                "height": picture.height,
                "format": "PNG",
                "animated": False,
                **changes,
            }
        )
    return pa.Table.from_pylist(rows, schema=IMAGE_SIGNATURES)


def random_signatures(num: int, *, captions: list[str | None] | None = None) -> pa.Table:
    """IMAGE_SIGNATURES of pictures of which no two look alike, without the pictures."""
    random = np.random.default_rng(num)
    rows = [
        {
            "image_id": f"image-{number}",
            "caption": captions[number] if captions else f"a picture with the number {number}",
            "source_file": f"in/{number:03d}.png",
            "source_line": 0,
            "width": 480,
            "height": 320,
            "format": "PNG",
            "animated": False,
            "pixels": random.bytes(16),
            "coarse_hash": int.from_bytes(random.bytes(8), "big"),
            "fine_hash": random.bytes(32),
            "colours": random.bytes(27),
            "contrast": 50.0,
        }
        for number in range(num)
    ]
    return pa.Table.from_pylist(rows, schema=IMAGE_SIGNATURES)


def random_pictures(num: int, seed: int = 0) -> list[Image.Image]:
    from simulation.pictures import KINDS

    random = np.random.default_rng(seed)
    kinds = list(KINDS.values())
    return [kinds[number % len(kinds)](random) for number in range(num)]
