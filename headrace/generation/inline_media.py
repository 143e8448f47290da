"""Pictures and recordings within a page, as `data:` URLs: small enough that hundreds fit into one file.

A small picture is there as it is, a larger one as a thumbnail. A recording is there as Opus of 20 kbit/s if PyAV is
installed (2.5 kB and 3 ms of CPU time a second), else as the WAV that it is (30 to 50 kB a second). What does not fit
is counted, and what is damaged is told with the rest of the page whole.
"""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from headrace.engines.base import EngineFailed
from headrace.errors import HandoffCorrupt, HandoffMissing, InvalidInput
from headrace.generation.day_media import DayMedia, Part
from headrace.generation.opus import has_av, ogg_opus
from headrace.handoff.media.pictures import opened_picture
from headrace.text.shown_media import ShownMedia
from headrace.text.visible import shortened, visible_lines
from headrace.version_sets.media_settings import MemberKind

# A picture is shown at most so large, in CSS pixels.
PICTURE_PIXELS = 192
# A picture of such size and bytes is shown as it is.
_RAW_BYTES_MAX = 16_000
_FIGURES_CHARS = 400
_SOUND_BITS, _SOUND_EFFORT = 20_000, 0
# Every browser shows and plays these.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/webp"})
_PLAYED = frozenset({"audio/wav", "audio/ogg", "audio/mpeg"})
# Most of what pictures leave is the recordings', which are larger.
_PICTURES_SHARE = 0.5


@dataclass(kw_only=True)
class InlineMedia:
    """A row's campaign, by number, and id → its parts that a page has.

    Attributes:
        num_left_out: of each kind, how many of the wanted rows' did not fit.
        damaged: key of a stored object → what is wrong with it, and how many parts are not there for that.
    """

    shown: dict[tuple[int, str], list[ShownMedia]] = field(default_factory=dict)
    num_left_out: dict[MemberKind, int] = field(default_factory=dict)
    damaged: dict[str, tuple[str, int]] = field(default_factory=dict)


def inline_media(media: Sequence[DayMedia], rows: Iterable[tuple[int, str]], *, bytes_max: float) -> InlineMedia:
    """The parts of the first of `rows` that fit into `bytes_max` bytes, pictures before recordings.

    Args:
        media: of each campaign.
        rows: a row's campaign, by number, and id.
    """
    made = InlineMedia()
    parts = [(row, part) for row in rows for part in media[row[0]].get(row[1], ())]
    room = bytes_max
    for kind, share in (("image", _PICTURES_SHARE), ("speech", 1.0)):
        least = bytes_max * (1 - share)
        is_full = False
        for row, part in ((row, part) for row, part in parts if part.kind == kind):
            try:
                shown = None if is_full else shown_part(part)
            except (HandoffCorrupt, HandoffMissing) as error:
                place = str(error.culprits.get("key", part.media.handoff.label))
                told, num_parts = made.damaged.get(place, (str(error), 0))
                made.damaged[place] = (told, num_parts + 1)
                continue
            room -= shown.num_bytes if shown else 0
            if shown and room < least:
                room, shown, is_full = room + shown.num_bytes, None, True
            if shown is None:
                made.num_left_out[part.kind] = made.num_left_out.get(part.kind, 0) + 1
            else:
                made.shown.setdefault(row, []).append(shown)
    return made


def shown_part(part: Part) -> ShownMedia | None:
    """None: it cannot be shown. Raises: as `Part.read`."""
    body, figures = part.read(), _in_words(part.figures)
    if part.kind == "image":
        is_small = max(part.width or 0, part.height or 0) <= PICTURE_PIXELS // 2
        found = _picture(body, part)
        return found and ShownMedia(
            role=part.role, kind=part.kind, url=_url(*found), is_small=is_small, figures=figures
        )
    found = _sound(body, part)
    return found and ShownMedia(role=part.role, kind=part.kind, url=_url(*found), figures=figures)


def _in_words(figures: str) -> str:
    """`contrast 41.2, rank 1`; what is no JSON object says nothing."""
    try:
        measured = json.loads(figures or "{}")
    except ValueError:
        return ""
    if not isinstance(measured, dict):
        return ""
    named = ((str(name).replace("_", " "), value) for name, value in measured.items() if value is not None)
    said = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in named)
    return shortened(visible_lines(", ".join(said)), _FIGURES_CHARS)


def _picture(body: bytes, part: Part) -> tuple[str, bytes] | None:
    is_small = max(part.width or 0, part.height or 0) <= PICTURE_PIXELS
    if part.media_type in _SHOWN and is_small and len(body) <= _RAW_BYTES_MAX:
        return part.media_type, body
    try:
        drawn = opened_picture(body, draft_pixels=PICTURE_PIXELS)
    except ImportError:
        # Without Pillow there are no thumbnails.
        return None
    if drawn is None:
        return None
    drawn.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    made = io.BytesIO()
    drawn.save(made, "JPEG", quality=80, optimize=True)
    return "image/jpeg", made.getvalue()


def _sound(body: bytes, part: Part) -> tuple[str, bytes] | None:
    if has_av() and part.media_type == "audio/wav":
        try:
            made = ogg_opus(body, bits_a_channel=_SOUND_BITS, effort=_SOUND_EFFORT)
        except (EngineFailed, InvalidInput):
            return None
        # Of less than a few milliseconds nothing is left.
        return ("audio/ogg", made) if made else (part.media_type, body)
    return (part.media_type, body) if part.media_type in _PLAYED else None


def _url(media_type: str, body: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(body).decode()}"
