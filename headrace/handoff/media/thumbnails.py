"""Small pictures of a version's first items, for people who inspect a run: images, waveforms of sounds, first frames.

Items that cannot be drawn (films without PyAV, formats unknown to Pillow, very large items) become a labelled box: a
picture for the UI must never fail the run that made the items. Without Pillow a sentence replaces the pictures.
"""

import base64
import io
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from headrace.errors import InvalidInput
from headrace.handoff.media.pictures import enlarged, first_frame, opened_picture
from headrace.handoff.media.reading import MediaSet, StoredItem
from headrace.handoff.media.waveform import wav_peaks
from headrace.text import markdown

if TYPE_CHECKING:
    from PIL.Image import Image

# Decoding takes memory by bytes, too; larger items become a labelled box.
_ITEM_BYTES_MAX = 32 * 1024 * 1024
_GAP = 4
_GROUND, _BOX, _INK, _WAVE = (255, 255, 255), (233, 236, 240), (70, 78, 90), (37, 99, 180)
# Items, pixels, WebP quality: few recognisable pictures are better than many unrecognisable ones.
_SMALLER_AND_SMALLER = ((4, 64, 40), (4, 64, 20), (4, 48, 20), (4, 40, 15), (4, 32, 10), (2, 32, 10), (1, 32, 5))
_NO_PILLOW = "No thumbnails: Pillow is not installed. Run pip install pillow."


def contact_sheet(media: MediaSet, num_items: int = 8, *, thumbnail_pixels: int = 160) -> bytes:
    """The first items side by side, up to four in a row, as PNG.

    Raises:
        InvalidInput: Pillow is not installed.
    """
    sheet = _sheet(_thumbnails(media, num_items, thumbnail_pixels), columns=4, pixels=thumbnail_pixels)
    return _encoded(sheet, "PNG", optimize=True)


def contact_sheet_markdown(media: MediaSet, num_items: int = 8) -> str:
    """The sheet as Markdown with the picture embedded; Dagster's UI shows Markdown of this size behind a button."""
    try:
        return _markdown(contact_sheet(media, num_items), "png", media)
    except InvalidInput:
        return _NO_PILLOW


def thumbnail_markdown(media: MediaSet) -> str:
    """As many of the first four items as fit into the Markdown that Dagster's UI shows in place: smaller or coarser.

    If nothing fits, or there are no items, a sentence with their number.
    """
    try:
        for number, pixels, quality in _SMALLER_AND_SMALLER:
            pictures = _thumbnails(media, number, pixels)
            if not pictures:
                break
            sheet = _sheet(pictures, columns=len(pictures), pixels=pixels)
            texts = [_markdown(_encoded(sheet.quantize(8), "PNG", optimize=True), "png", media)]
            if _has_webp():
                texts.insert(0, _markdown(_encoded(sheet, "WEBP", quality=quality, method=6), "webp", media))
            for text in texts:
                if len(text) <= markdown.CHARS_MAX:
                    return text
    except InvalidInput:
        return _NO_PILLOW
    return f"{len(media)} items"


def _markdown(picture: bytes, form: str, media: MediaSet) -> str:
    return f"![{len(media)} items](data:image/{form};base64,{base64.b64encode(picture).decode()})"


def _has_webp() -> bool:
    from PIL import features

    return bool(features.check("webp"))


def _encoded(picture: "Image", form: str, **options: int | bool) -> bytes:
    body = io.BytesIO()
    picture.save(body, form, **options)
    return body.getvalue()


def _thumbnails(media: MediaSet, num_items: int, pixels: int) -> "list[Image]":
    """Pictures of the first items, at most `pixels` wide and high."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise InvalidInput(_NO_PILLOW) from error
    return [_thumbnail(media, item, pixels) for item in islice(media, num_items)]


def _thumbnail(media: MediaSet, item: StoredItem, pixels: int) -> "Image":
    kind = item.media_type.partition("/")[0]
    if item.num_bytes <= _ITEM_BYTES_MAX:
        if kind == "image" and (picture := _scaled(media.read(item.item_id), pixels)):
            return picture
        if kind == "video" and (picture := _first_frame(media.read(item.item_id), pixels)):
            return picture
        if kind == "audio" and (peaks := wav_peaks(media.read(item.item_id), pixels)):
            return _drawn_wave(peaks, pixels)
    return _labelled(item, pixels)


def _scaled(body: bytes, pixels: int) -> "Image | None":
    """At most `pixels` wide and high; a picture of half that or less is enlarged, its pixels staying sharp."""
    picture = opened_picture(body, draft_pixels=pixels)
    if picture is None:
        return None
    factor = pixels // max(picture.size)
    if factor > 1:
        return enlarged(picture, factor * min(picture.size))
    picture.thumbnail((pixels, pixels))
    return picture


def _first_frame(body: bytes, pixels: int) -> "Image | None":
    picture = first_frame(body)
    if picture is not None:
        picture.thumbnail((pixels, pixels))
    return picture


def _drawn_wave(peaks: Sequence[float], pixels: int) -> "Image":
    from PIL import Image, ImageDraw

    box = Image.new("RGB", (pixels, pixels), _BOX)
    draw = ImageDraw.Draw(box)
    middle = pixels / 2
    for x, peak in enumerate(peaks):
        height = max(0.5, peak * (middle - 2))
        draw.line((x, middle - height, x, middle + height), fill=_WAVE)
    return box


def _labelled(item: StoredItem, pixels: int) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    box = Image.new("RGB", (pixels, pixels), _BOX)
    font = ImageFont.load_default(max(8, pixels // 10))
    label = f"{item.media_type.partition('/')[2]}\n{_size(item.num_bytes)}"
    ImageDraw.Draw(box).multiline_text(
        (pixels / 2, pixels / 2), label, fill=_INK, font=font, anchor="mm", align="center"
    )
    return box


def _sheet(pictures: "list[Image]", *, columns: int, pixels: int) -> "Image":
    from PIL import Image

    columns = max(1, min(columns, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    width, height = pixels + _GAP, max((picture.height for picture in pictures), default=pixels) + _GAP
    sheet = Image.new("RGB", (columns * width - _GAP, rows * height - _GAP), _GROUND)
    for index, picture in enumerate(pictures):
        left, top = index % columns * width, index // columns * height
        sheet.paste(picture, (left + (pixels - picture.width) // 2, top + (height - _GAP - picture.height) // 2))
    return sheet


def _size(num_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} B"
