"""Pictures of foreign bytes, opened within bounds, for who draws them again: thumbnails, pages, films."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

# Decoding takes memory by pixels.
PIXELS_MAX = 32 * 1024 * 1024
_GROUND = (255, 255, 255)


def opened_picture(body: bytes, *, draft_pixels: int | None = None) -> "Image | None":
    """A picture as RGB on white; None: it cannot be decoded, or has more than PIXELS_MAX.

    Args:
        draft_pixels: no side will be drawn larger; a JPEG is then decoded at a reduced size.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(body)) as picture:
            if draft_pixels:
                picture.draft("RGB", (draft_pixels, draft_pixels))
            if picture.width * picture.height > PIXELS_MAX:
                return None
            # Colours can be averaged, palette numbers cannot.
            opened = picture.convert("RGBA")
    # Any error of a decoder over foreign bytes.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
    ground = Image.new("RGB", opened.size, _GROUND)
    ground.paste(opened, (0, 0), opened)
    return ground


def first_frame(film: bytes) -> "Image | None":
    """A film's first picture; None: it cannot be decoded, has more than PIXELS_MAX, or PyAV is not installed."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        return None
    try:
        with av.open(io.BytesIO(film), "r") as read:
            video = read.streams.video[0]
            if video.width * video.height > PIXELS_MAX:
                return None
            return next(read.decode(video)).to_image()
    # Any error of a decoder over foreign bytes.
    except (FFmpegError, OSError, ValueError, IndexError, StopIteration):
        return None


def enlarged(picture: "Image", pixels_min: int) -> "Image":
    """The picture, its shorter side at least `pixels_min`: by a whole factor, so that every pixel stays sharp."""
    from PIL import Image

    factor = -(-pixels_min // min(picture.size))
    if factor <= 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
