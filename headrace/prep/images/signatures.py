"""By what two pictures are compared: a digest of pixels, perceptual hashes of their grey values, and their colours.

Everything is taken of the whole picture as decoded for sealing, before it is cut. A signature does not say how far
apart is too far; `duplicates` decides. It is blind to what 64 x 64 pixels do not show, and to a change of place of
what has the same brightness.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from PIL.Image import Image

_HASHED_PIXELS = 64
_COARSE_SIDE, _FINE_SIDE = 8, 16
_COLOUR_SIDE = 3


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Of one picture. Hashes are perceptual ones (Zauner 2010): which of its lowest frequencies exceed their median.

    Attributes:
        pixels: 16 bytes: digest of its pixels at the size that training sees, and of its size in the file.
        coarse_hash: 64 bits: `imagehash.phash(picture, hash_size=8, highfreq_factor=8)`.
        fine_hash: 32 bytes: `imagehash.phash(picture, hash_size=16)`, which tells two texts on one template apart.
        colours: 27 bytes: the mean red, green and blue of each ninth.
        contrast: the largest standard deviation of a channel.
    """

    pixels: bytes
    coarse_hash: int
    fine_hash: bytes
    colours: bytes
    contrast: float


def signature_of(picture: "Image", *, width: int, height: int) -> Signature:
    """Args:
    picture: RGB.
    width, height: as the file has it.
    """
    from PIL.Image import Resampling

    digest = xxhash.xxh3_128(f"{width}x{height}:{picture.width}x{picture.height}".encode())
    digest.update(picture.tobytes())
    grey = picture.convert("L").resize((_HASHED_PIXELS, _HASHED_PIXELS), Resampling.LANCZOS)
    coarse, fine = perceptual_hashes(np.asarray(grey))
    return Signature(
        pixels=digest.digest(),
        coarse_hash=int.from_bytes(coarse, "big"),
        fine_hash=fine,
        colours=picture.resize((_COLOUR_SIDE, _COLOUR_SIDE), Resampling.BOX).tobytes(),
        contrast=_contrast(picture),
    )


def perceptual_hashes(grey_YX: np.ndarray) -> tuple[bytes, bytes]:  # noqa: N803 (shape letters)
    """Of a picture's grey values at 64 x 64: 8 and 32 bytes, the lowest frequency first."""
    # Its import costs 40 ms, which code that only opens a corpus should not pay.
    from scipy.fft import dctn

    frequencies: Any = dctn(grey_YX.astype(np.float64), type=2)
    corners = (frequencies[:side, :side] for side in (_COARSE_SIDE, _FINE_SIDE))
    coarse, fine = (np.packbits((corner > np.median(corner)).ravel()).tobytes() for corner in corners)
    return coarse, fine


def _contrast(picture: "Image") -> float:
    from PIL import ImageStat

    return float(max(ImageStat.Stat(picture).stddev))
