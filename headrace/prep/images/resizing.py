"""The size at which pictures are sealed, and their encoding.

Sizes are decided before a picture is decoded, so that a JPEG is decoded at a reduced size. Knows nothing of what is in
a picture: a crop takes the middle, and cuts off heads.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from headrace.errors import InvalidInput
from headrace.user_files.ranges import check_ranges

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # width, height

_MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
# The longest side of a bucket, in shares of a square's: SDXL's buckets reach from 512x2048 to 2048x512.
_BUCKET_SIDES_MAX = 2


@dataclass(frozen=True, kw_only=True)
class Resize:
    """The size and encoding of sealed pictures."""

    form: Literal["fit", "crop", "buckets"] = "fit"
    """`fit`: whole, at most `pixels` wide and high, never enlarged. `crop`: a square of `pixels`, out of the middle.
    `buckets`: the one of a few sizes, each with about `pixels` x `pixels` pixels, that loses least, out of the middle.
    """
    pixels: Annotated[int, Ge(16), Le(4096)] = 512
    """The length of a side."""
    step: Annotated[int, Ge(1), Le(512)] = 64
    """Sides of `buckets` are multiples of it."""
    encode: Literal["jpeg", "png", "webp"] = "jpeg"
    """JPEG and WebP lose detail that no one sees; PNG loses nothing and takes about eight times the bytes."""
    quality: Annotated[int, Ge(1), Le(100)] = 92
    """Of JPEG and WebP."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.form == "buckets" and self.pixels % self.step:
            raise InvalidInput(
                f"pixels must be a multiple of step with form: buckets, got {self.pixels} and {self.step}."
            )

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPES[self.encode]

    @cached_property
    def buckets(self) -> tuple[Size, ...]:
        """All sizes of `buckets`, from the narrowest: at each width the highest that has no more pixels than a square.

        Up to twice as long as the square is wide.
        """
        widths = range(self.step, _BUCKET_SIDES_MAX * self.pixels + 1, self.step)
        sizes = [(width, self.pixels**2 // width // self.step * self.step) for width in widths]
        return tuple(size for size in sizes if 0 < size[1] <= _BUCKET_SIDES_MAX * self.pixels)

    def sealed_size(self, width: int, height: int) -> Size:
        """The size at which a picture of this size is sealed."""
        if self.form == "crop":
            return self.pixels, self.pixels
        if self.form == "buckets":
            # Least is lost where the ratio of aspects is nearest to 1; of two such, the smaller width.
            aspect = width / height
            return min(self.buckets, key=lambda size: max(size[0] / size[1] / aspect, aspect / (size[0] / size[1])))
        shrunk = min(1.0, self.pixels / max(width, height))
        return max(1, round(width * shrunk)), max(1, round(height * shrunk))

    def scaled_size(self, width: int, height: int) -> Size:
        """The whole picture's size from which the sealed one is cut: it covers it."""
        sealed_width, sealed_height = self.sealed_size(width, height)
        if self.form == "fit":
            return sealed_width, sealed_height
        scale = max(sealed_width / width, sealed_height / height)
        return max(sealed_width, round(width * scale)), max(sealed_height, round(height * scale))

    def cut(self, scaled: "Image", width: int, height: int) -> "Image":
        """The sealed picture, out of the middle of a picture of `scaled_size(width, height)`."""
        sealed_width, sealed_height = self.sealed_size(width, height)
        left, top = (scaled.width - sealed_width) // 2, (scaled.height - sealed_height) // 2
        if (scaled.width, scaled.height) == (sealed_width, sealed_height):
            return scaled
        return scaled.crop((left, top, left + sealed_width, top + sealed_height))

    def encoded(self, picture: "Image") -> bytes:
        """The same bytes for the same pixels, under one version of Pillow and its codecs (`encoder_version`)."""
        body = io.BytesIO()
        if self.encode == "png":
            picture.save(body, "PNG", compress_level=6)
        elif self.encode == "webp":
            picture.save(body, "WEBP", quality=self.quality, method=4)
        else:
            # Colour at full resolution: at half of it, thin red and blue lines wash out at these sizes.
            picture.save(body, "JPEG", quality=self.quality, subsampling=0)
        return body.getvalue()

    def encoder_version(self) -> str:
        """Such as `Pillow 13.0.0, libjpeg-turbo 3.2.0`: other versions may give other bytes for the same pixels."""
        import PIL
        from PIL import features

        feature = {"jpeg": "libjpeg_turbo", "png": "zlib", "webp": "webp"}[self.encode]
        return f"Pillow {PIL.__version__}, {feature.replace('_', '-')} {features.version(feature)}"
