"""Foreign bytes as a picture: upright, in sRGB, at the size that is wanted; or the reason why there is none.

Decoders run under limits of bytes and pixels that are checked before a pixel is decoded, and for the formats of
photographs and drawings alone: none of those runs another program. A fault of a decoder written in C ends the process:
`processes` runs them in others. What a picture becomes is stated here, rule by rule:

| a file's pixels | become |
|---|---|
| turned by EXIF | upright |
| of another colour space, by its ICC profile | sRGB; a profile that cannot be read counts as none |
| CMYK without a profile | as Pillow converts it, without colour management |
| transparent | laid on the corpus's background |
| 16 bits of grey | their upper 8 bits |
| a palette, 1 bit, grey | full colours |
| 32-bit or floating-point values, Lab, HSV | set aside: no range or white is stated |
"""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from headrace.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

    from headrace.prep.images.resizing import Size

IMAGE_BYTES_MAX = 64 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# A JPEG is decoded at a half, quarter or eighth that is still this many times as large as wanted: what is lost by
# decoding is then too small to be seen after resizing. So is what Pillow's `reducing_gap` averages beforehand.
_DRAFT_GAP = 2
_REDUCING_GAP = 3.0
# A picture thinner than this that is enlarged to cover a square would fill gigabytes; buckets have at most 6.
_ENLARGED_ASPECT_MAX = 8
_ORIENTATION = 0x0112
# The header always comes first.
_PNG_BITS_AT = 24
_LYING = range(5, 9)
# Profiles of one camera or program recur, and building a transform costs more than using it.
_PROFILES_KEPT = 64
_KEPT_PROFILE_BYTES_MAX = 2**20
# Of 255, between two profiles that describe sRGB by other means.
_ROUNDING_MAX = 2
_BEGINNING = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(<!doctype html|<html|<svg|<\?xml|[{\[]|%pdf)", re.IGNORECASE)
_NAMES = {b"<!doctype html": "HTML", b"<html": "HTML", b"<svg": "SVG", b"<?xml": "XML", b"%pdf": "PDF"}


class Undecodable(Exception):
    """The bytes are no picture that can be used; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """`picture`: RGB, upright, of the size that was asked for; whole, or the middle of a very thin one.

    `width`, `height`: of the file, upright.
    """

    picture: "Image"
    width: int
    height: int
    format: str
    is_animated: bool


def check_pillow() -> None:
    """Raises: InvalidInput: Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise InvalidInput("Pictures need Pillow, which is not installed: pip install 'headrace[media]'.") from error


def decode(
    body: bytes, scaled_size: "Callable[[int, int], Size]", *, pixels_max: int, background: tuple[int, int, int]
) -> Decoded:
    """Args:
        scaled_size: the size that is wanted of an upright picture of this width and height.

    Raises:
        Undecodable: it is no picture, is damaged, has too many pixels, or pixels without a stated meaning.
    """
    if len(body) > IMAGE_BYTES_MAX:
        raise Undecodable(f"has {len(body):,} bytes, the most that is read is {IMAGE_BYTES_MAX:,}")
    if not body:
        raise Undecodable("is empty")
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Large pictures and odd metadata: our own limit decides, before anything is decoded.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(body), formats=FORMATS) as opened:
                if opened.format == "PNG":
                    _scale_transparency(opened, num_bits=body[_PNG_BITS_AT])
                return _decoded(opened, scaled_size, pixels_max, background)
    except UnidentifiedImageError:
        raise Undecodable(_what_it_is(body)) from None
    except Image.DecompressionBombError:
        raise Undecodable(f"has more than {pixels_max:,} pixels, the most that are decoded") from None
    except (Undecodable, MemoryError):
        raise
    # Decoders of foreign bytes raise what they like, and no list of it is complete.
    except Exception as error:
        raise Undecodable(f"cannot be decoded: {error or type(error).__name__}") from error


def _decoded(
    opened: Any, scaled_size: "Callable[[int, int], Size]", pixels_max: int, background: tuple[int, int, int]
) -> Decoded:
    from PIL import Image

    if opened.width * opened.height > pixels_max:
        raise Undecodable(
            f"has {opened.width:,} x {opened.height:,} pixels, more than the {pixels_max:,} that are decoded"
        )
    is_jpeg = opened.format in ("JPEG", "MPO")
    if not is_jpeg:
        # Some formats know how they are turned only now, and some of these are turned by it.
        opened.load()
    orientation = opened.getexif().get(_ORIENTATION, 1)
    stored = opened.size
    upright = stored[::-1] if orientation in _LYING else stored
    part, wanted = _part(upright, scaled_size)
    if orientation in _LYING:
        part, wanted = part[::-1], wanted[::-1]
    if is_jpeg:
        opened.draft(None, (wanted[0] * _DRAFT_GAP, wanted[1] * _DRAFT_GAP))
        opened.load()
    picture = _in_full_colours(opened)
    if part != stored:
        left, top = (stored[0] - part[0]) // 2, (stored[1] - part[1]) // 2
        picture = picture.crop((left, top, left + part[0], top + part[1]))
    if picture.size != wanted:
        picture = picture.resize(wanted, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    picture = _in_srgb(picture, opened.info.get("icc_profile"))
    return Decoded(
        picture=_turned(_on_ground(picture, background), orientation),
        width=upright[0],
        height=upright[1],
        format="JPEG" if is_jpeg else opened.format,
        # The further pictures of an MPO are the same scene for the other eye, those of a TIFF are pages.
        is_animated=not is_jpeg and opened.format != "TIFF" and bool(getattr(opened, "is_animated", False)),
    )


def _scale_transparency(opened: Any, *, num_bits: int) -> None:
    """Pillow scales a PNG's samples to 8 bits, and of 2, 4 and 16 bits leaves the one for transparent as it is stored.

    Of 16 bits of red, green and blue it keeps the upper 8, so a colour that differs below them is transparent too.
    """
    stated = opened.info.get("transparency")
    if isinstance(stated, tuple) and num_bits == 16:
        opened.info["transparency"] = tuple(sample >> 8 for sample in stated)
    elif isinstance(stated, int) and num_bits in (2, 4):
        opened.info["transparency"] = stated * 255 // (2**num_bits - 1)


def _part(upright: "Size", scaled_size: "Callable[[int, int], Size]") -> "tuple[Size, Size]":
    """How much of a picture's middle is scaled, and to which size."""
    width, height = upright
    wanted = scaled_size(width, height)
    if wanted[0] * wanted[1] <= width * height:
        return upright, wanted
    part = min(width, _ENLARGED_ASPECT_MAX * height), min(height, _ENLARGED_ASPECT_MAX * width)
    return part, scaled_size(*part)


def _in_full_colours(picture: Any) -> Any:
    """Of a mode whose values can be averaged: L, LA, RGB, RGBA or CMYK."""
    mode = picture.mode
    if mode in ("1", "L", "RGB") and "transparency" in picture.info:
        return picture.convert("RGBA")
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return picture
    if mode in ("P", "PA"):
        return picture.convert("RGBA" if mode == "PA" or "transparency" in picture.info else "RGB")
    if mode.startswith("I;16"):
        import numpy as np
        from PIL import Image

        samples = np.asarray(picture)
        grey = Image.fromarray((samples >> 8).astype(np.uint8))
        if "transparency" in picture.info:
            grey.putalpha(Image.fromarray(np.where(samples == picture.info["transparency"], 0, 255).astype(np.uint8)))
        return grey
    plain = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}
    if mode in plain:
        return picture.convert(plain[mode])
    raise Undecodable(f"has pixels of the kind {mode}, whose range or white is not stated")


def _in_srgb(picture: Any, profile: bytes | None) -> Any:
    if not profile:
        return picture
    # A profile describes colours; what is transparent stays so.
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    opaque = picture if alpha is None else picture.convert(picture.mode.removesuffix("A"))
    to_srgb = _to_srgb if len(profile) <= _KEPT_PROFILE_BYTES_MAX else _to_srgb.__wrapped__
    transform = to_srgb(profile, opaque.mode)
    if transform is None:
        return picture
    converted = transform.apply(opaque)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@lru_cache(_PROFILES_KEPT)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """None: it is sRGB already, or cannot be read, or is for other kinds of pixels."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.PERCEPTUAL
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        return None if mode == "RGB" and _changes_nothing(transform) else transform
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_nothing(transform: Any) -> bool:
    """Whether it moves no colour by more than rounding does. A profile's name tells nothing: linear ones say sRGB."""
    import numpy as np
    from PIL import Image

    levels = np.arange(0, 256, 15).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    changed = np.asarray(transform.apply(Image.fromarray(colours)), np.int16)
    return int(np.abs(changed - colours).max()) <= _ROUNDING_MAX


def _on_ground(picture: Any, background: tuple[int, int, int]) -> Any:
    if picture.mode in ("LA", "RGBA"):
        from PIL import Image

        ground = Image.new("RGBA", picture.size, (*background, 255))
        return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _turned(picture: Any, orientation: int) -> Any:
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    way = ways.get(orientation)
    return picture if way is None else picture.transpose(way)


def _what_it_is(body: bytes) -> str:
    """Why no decoder takes the bytes: what they are, where their beginning tells."""
    known = ", ".join(FORMATS)
    found = _BEGINNING.match(body[:512])
    if found:
        name = _NAMES.get(found[1].lower(), "JSON")
        return f"is {name} and no picture, wanted {known}"
    return f"is no picture of a known kind, wanted {known}"
