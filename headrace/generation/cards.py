"""Flash cards: one picture for each reviewed row, the term above, its definition below.

The same row gives the same file, byte for byte, with the same Pillow: it uses Pillow's bundled font, laid out without
the machine's libraries. That font has Latin letters and few others; a missing glyph becomes an empty box.
"""

import io
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource
from headrace.handoff.media.index import MediaItem
from headrace.text.words import graphemes

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Raise it to change how a row looks: sealed cards are then made again.
CARDS_CODE_VERSION = "1"
COLUMNS = ("row_id", "prompt_id", "prompt", "output", "version_set", "kept")
WIDTH, HEIGHT = 640, 400

_MARGIN = 40
_PAPER, _INK, _SOFT, _ACCENT = (252, 251, 247), (28, 32, 38), (74, 82, 94), (37, 99, 180)
_TERM_PIXELS = (48, 40, 32, 24)
_TEXT_PIXELS = (30, 26, 22, 18, 15)
_TERM_TOP, _RULE_TOP, _TEXT_TOP = 44, 138, 162
_LINE_HEIGHT = 1.35


def flash_cards(batches: Iterable[pa.RecordBatch], prompts: PromptSource) -> Iterator[MediaItem]:
    """A card for each kept row of REVIEWED_CONTENT's COLUMNS, drawn on demand.

    Raises:
        InvalidInput: Pillow is not installed.
    """
    for batch in batches:
        for row in batch.to_pylist():
            if row["kept"]:
                yield _card(row, prompts)


def term_of(prompt: str, prompts: PromptSource) -> str:
    """The term of a prompt: the text at the template's term column, or else the whole prompt."""
    if prompts.template is None or prompts.term_column is None:
        return prompt
    pattern, found = "", False
    for text, column, _, _ in string.Formatter().parse(prompts.template):
        pattern += re.escape(text)
        if column == prompts.term_column and not found:
            pattern, found = pattern + "(?P<term>.+)", True
        elif column is not None:
            pattern += ".*?"
    match = re.fullmatch(pattern, prompt, re.DOTALL) if found else None
    return match["term"] if match else prompt


def draw_card(term: str, definition: str) -> bytes:
    """A PNG of WIDTH × HEIGHT pixels. Long texts get a smaller font, and finally an ellipsis.

    Raises:
        InvalidInput: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise InvalidInput("Cards need Pillow, which is not installed. Run pip install pillow.") from error
    card = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, 0, 11, HEIGHT), fill=_ACCENT)
    for text, sizes, top, bottom, ink in (
        (term, _TERM_PIXELS, _TERM_TOP, _RULE_TOP - 8, _INK),
        (definition, _TEXT_PIXELS, _TEXT_TOP, HEIGHT - _MARGIN // 2, _SOFT),
    ):
        font, lines = _set(text, sizes, bottom - top)
        for number, line in enumerate(lines):
            draw.text((_MARGIN, top + number * _line_height(font)), line, fill=ink, font=font)
    draw.line((_MARGIN, _RULE_TOP, WIDTH - _MARGIN, _RULE_TOP), fill=_ACCENT, width=2)
    body = io.BytesIO()
    # 32 colours are enough for smooth letters, in a quarter of the bytes.
    card.quantize(32, dither=Image.Dither.NONE).save(body, "PNG", optimize=True)
    return body.getvalue()


def _card(row: dict[str, Any], prompts: PromptSource) -> MediaItem:
    term, definition = term_of(row["prompt"], prompts), row["output"].strip()
    return MediaItem(
        item_id=row["row_id"],
        media_type="image/png",
        content=draw_card(term, definition),
        width=WIDTH,
        height=HEIGHT,
        caption=f"{term}: {definition}",
        row_id=row["row_id"],
        version_set=row["version_set"],
        attributes={"term": term, "prompt_id": row["prompt_id"]},
    )


def _set(text: str, sizes: Sequence[int], height: int) -> "tuple[FreeTypeFont, list[str]]":
    """The largest of `sizes` (pixels) at which the text fits into `height`, and its lines; the last size may cut it."""
    fitting = (_laid_out(text, pixels, height) for pixels in sizes)
    font, lines, num_lines = next((one for one in fitting if len(one[1]) <= one[2]), _laid_out(text, sizes[-1], height))
    if len(lines) > num_lines:
        lines = [*lines[: num_lines - 1], f"{lines[num_lines - 1][:-1].rstrip()}…"]
    return font, lines


def _laid_out(text: str, pixels: int, height: int) -> "tuple[FreeTypeFont, list[str], int]":
    """Font, lines, and the number of lines that fit."""
    font = _font(pixels)
    num_lines = max(1, height // _line_height(font))
    return font, _wrapped(text, font, WIDTH - 2 * _MARGIN, num_lines), num_lines


def _wrapped(text: str, font: "FreeTypeFont", width: int, num_lines: int) -> list[str]:
    """Lines of whole words; a word wider than a line is broken.

    Stops soon after `num_lines`, however long the text is.
    """
    lines = [""]
    for word in text.split():
        if len(lines) > num_lines:
            break
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in graphemes(word):
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _line_height(font: "FreeTypeFont") -> int:
    return round(font.size * _LINE_HEIGHT)


@cache
def _font(pixels: int) -> "FreeTypeFont":
    from PIL import ImageFont

    font = ImageFont.load_default(pixels)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise InvalidInput("Cards need a Pillow with FreeType; its wheels have it. Run pip install pillow.")
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)
