"""Pictures that a seed determines, and what happens to pictures on their way through the web.

Photographs are not at hand: multi-octave noise has their spectrum, shapes and texts on templates are what drawings,
products and slides look like. `SAME` are changes that leave a picture the same to a person, `OTHER` those that make
another one; each takes a picture and a random generator.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

_WORDS = ("river", "stone", "yellow", "basket", "under", "seven", "lamps", "walking", "north", "apple", "engine")


def landscape(random: np.random.Generator, width: int = 480, height: int = 320) -> Image.Image:
    """Noise with the spectrum of a photograph, in two colours and their mixtures."""
    total = np.zeros((height, width))
    for octave in range(1, 7):
        cells = random.random((2**octave, 2**octave)).astype(np.float32)
        layer = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 1.7**octave
    level = (total - total.min()) / np.ptp(total)
    ends = random.integers(0, 256, (2, 3))
    mixed = ends[0] + level[..., None] * (ends[1] - ends[0])
    grain = random.normal(0, 4, mixed.shape)
    return Image.fromarray(np.clip(mixed + grain, 0, 255).astype(np.uint8))


def shapes(random: np.random.Generator, width: int = 480, height: int = 320) -> Image.Image:
    """Between three and nine shapes on a plain ground."""
    picture = Image.new("RGB", (width, height), _colour(random))
    draw = ImageDraw.Draw(picture)
    for _ in range(random.integers(3, 10)):
        left, top = random.integers(0, width * 3 // 4), random.integers(0, height * 3 // 4)
        box = (left, top, left + random.integers(40, width // 2), top + random.integers(40, height // 2))
        draw_one = (draw.ellipse, draw.rectangle)[random.integers(2)]
        draw_one(tuple(map(int, box)), fill=_colour(random))
    return picture


def slide(
    random: np.random.Generator, width: int = 480, height: int = 320, *, template: int | None = None
) -> Image.Image:
    """A few words on a template; the same number of a template is the same ground, bar and frame."""
    of_template = np.random.default_rng(random.integers(2**31) if template is None else template)
    ground, bar, ink = _colour(of_template), _colour(of_template), (20, 20, 20)
    picture = Image.new("RGB", (width, height), tuple(160 + one * 90 // 255 for one in ground))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width, height // 6), fill=bar)
    draw.rectangle((0, height - 12, width, height), fill=bar)
    font = ImageFont.load_default(height // 9)
    for line in range(3):
        words = " ".join(random.choice(_WORDS, 3))
        draw.text((width // 16, height // 4 + line * height // 5), words, fill=ink, font=font)
    return picture


KINDS: Mapping[str, Callable[[np.random.Generator], Image.Image]] = {
    "landscape": landscape,
    "shapes": shapes,
    "slide": slide,
}


def jpeg(quality: int) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    def changed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
        body = io.BytesIO()
        picture.save(body, "JPEG", quality=quality)
        return Image.open(body).convert("RGB")

    return changed


def scaled(factor: float) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    return lambda picture, random: picture.resize(
        (round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC
    )


def cropped(share: float) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """Without `share` of width and height, cut off at random sides."""

    def changed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
        width, height = round(picture.width * (1 - share)), round(picture.height * (1 - share))
        left = random.integers(0, picture.width - width + 1)
        top = random.integers(0, picture.height - height + 1)
        return picture.crop((int(left), int(top), int(left) + width, int(top) + height))

    return changed


def brightened(factor: float) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    return lambda picture, random: ImageEnhance.Brightness(picture).enhance(factor)


def hue_turned(degrees: int) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    def changed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        turned = hue.point([(level + degrees * 256 // 360) % 256 for level in range(256)])
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

    return changed


def one_more_shape(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    changed = picture.copy()
    left, top = random.integers(0, picture.width // 2), random.integers(0, picture.height // 2)
    box = (left, top, left + picture.width // 3, top + picture.height // 3)
    ImageDraw.Draw(changed).ellipse(tuple(map(int, box)), fill=_colour(random))
    return changed


SAME: Mapping[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "JPEG 75": jpeg(75),
    "JPEG 40": jpeg(40),
    "half as large": scaled(0.5),
    "1.5 times as large": scaled(1.5),
    "a third, JPEG 75": lambda picture, random: jpeg(75)(scaled(1 / 3)(picture, random), random),
    "2% cropped": cropped(0.02),
    "2% cropped, 0.7, JPEG 75": lambda picture, random: jpeg(75)(
        scaled(0.7)(cropped(0.02)(picture, random), random), random
    ),
    "10% brighter": brightened(1.1),
    "10% darker": brightened(0.9),
    "a little blurred": lambda picture, random: picture.filter(ImageFilter.GaussianBlur(1)),
}

OTHER: Mapping[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "hue + 60 degrees": hue_turned(60),
    "hue + 180 degrees": hue_turned(180),
    "grey": lambda picture, random: picture.convert("L").convert("RGB"),
    "mirrored": lambda picture, random: ImageOps.mirror(picture),
    "turned by 180 degrees": lambda picture, random: picture.rotate(180),
    "one more shape": one_more_shape,
}


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(one) for one in random.integers(0, 256, 3))
    return red, green, blue
