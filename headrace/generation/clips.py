"""Films of rows: the picture for as long as the recording lasts, with what is spoken as a text track. WebM, VP9, Opus.

The text is a track and is not drawn into the picture: it stays text in every script, can be turned off, and the picture
stays as it was painted. The price: browsers do not show a WebM's own text track, VLC and mpv do. The same parts give
the same bytes with the same PyAV, in any process: one thread, and a container without dates and random numbers.
"""

import io
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from headrace.engines.media_bytes import sound_of
from headrace.errors import InvalidInput
from headrace.generation.clip_settings import ClipSettings
from headrace.generation.opus import BITEXACT, add_opus, av_module, make_bitexact, mux_opus
from headrace.generation.review_content import RowParts, parts_of
from headrace.generation.sealed_tables import CLIPS
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.pictures import enlarged, opened_picture
from headrace.handoff.media.publishing import media_versions, publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import digest_text
from headrace.store.objects import canonical_json

if TYPE_CHECKING:
    from av.container import OutputContainer
    from PIL.Image import Image

# Raise it to change how a row's film looks: sealed films are then made again.
CLIPS_CODE_VERSION = "1"
ROLE = "clip"
_MADE_OF = "made_of"

# A still picture costs nothing after its first frame; ten a second end within 0.1 s of the recording.
_FRAMES_PER_SECOND = 10
# Constant quality: a picture without motion gets what it needs, once.
_VP9 = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "threads": "1", "row-mt": "0"}
_MILLISECOND = Fraction(1, 1000)
# Pixels; a VP9 frame has up to 65,535, and a film of so many takes gigabytes.
_SIDE_MAX = 8192
# Two lines of a subtitle.
_CUE_CHARS = 84


def clips_of(parts: RowParts, settings: ClipSettings, version_set: str) -> Iterator[MediaItem]:
    """A film for each row that has a picture and a recording, in the order of the pictures; made on demand.

    Where several roles paint, the picture is the last one's; so with recordings. What is spoken is the subtitle.

    Raises: as `film`; HandoffCorrupt: a part's bytes are not those that were published.
    """
    # Of the set that made the rows, whatever the campaign's file says by now; the last one of a kind stays.
    role_of = {kind: role for role, kind in parts.kinds.items()}
    if not {"image", "speech"} <= parts.sets.keys():
        return
    pictures, recordings = parts.sets["image"], parts.sets["speech"]
    for row_id, items in parts.items.items():
        picture, recording = items.get(role_of["image"]), items.get(role_of["speech"])
        if picture and recording:
            yield _clip(row_id, picture, recording, pictures, recordings, settings, version_set)


def seal_clips(content: Handoff, handoffs: HandoffStore, settings: ClipSettings, *, run_id: str) -> Handoff:
    """Publishes the films of a sealed generated_content.

    Returns the newest version where it was made of the same parts in the same way: nothing is encoded again.

    Raises: as `clips_of`; HandoffMissing: the rows' pictures or recordings are gone.
    """
    parts = parts_of(content, handoffs)
    version_set = content.attributes.get("version_set", "")
    made_from = [content, *(one.handoff for one in parts.sets.values())] if parts else [content]
    made_of = digest_text(
        "clips",
        CLIPS_CODE_VERSION,
        canonical_json(asdict(settings)).decode(),
        *(one.content_digest for one in made_from),
    )
    versions = media_versions(handoffs)
    newest = versions.newest(CLIPS, content.partition)
    if newest is not None and newest.attributes.get(_MADE_OF) == made_of and versions.is_intact(newest):
        return replace(newest, reused=True)
    return publish_media(
        handoffs,
        CLIPS,
        content.partition,
        clips_of(parts, settings, version_set) if parts else (),
        code_version=CLIPS_CODE_VERSION,
        run_id=run_id,
        input_versions={f"{one.asset}[{one.partition}]": f"v{one.version} {one.content_digest}" for one in made_from},
        attributes={"version_set": version_set, _MADE_OF: made_of},
    )


def film(picture: bytes, wav: bytes, text: str, settings: ClipSettings) -> tuple[bytes, tuple[int, int], float]:
    """A WebM, its width and height in pixels, and its length in seconds.

    Raises:
        InvalidInput: PyAV or Pillow is not installed, or the picture cannot be decoded. EngineFailed: it is no WAV.
    """
    still, sound = _still(picture, settings.pixels_min), sound_of(wav)
    seconds = sound.duration_seconds
    body = io.BytesIO()
    with av_module().open(body, "w", format="webm", container_options=BITEXACT) as container:
        video = container.add_stream("libvpx-vp9", rate=_FRAMES_PER_SECOND, options=_VP9)
        video.width, video.height = still.size
        video.pix_fmt = "yuv420p"
        make_bitexact(video)
        audio = add_opus(container, sound.num_channels)
        track = container.add_mux_stream("webvtt") if settings.subtitles and text.strip() else None
        container.start_encoding()
        if track is not None:
            _mux_cues(container, track, text, seconds)
        num_frames = max(1, math.ceil(seconds * _FRAMES_PER_SECOND))
        frame = _frame(still)
        for number in range(num_frames):
            frame.pts, frame.time_base = number, Fraction(1, _FRAMES_PER_SECOND)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        mux_opus(container, audio, wav)
    return body.getvalue(), still.size, num_frames / _FRAMES_PER_SECOND


def cues_of(text: str, seconds: float) -> Iterator[tuple[int, int, str]]:
    """Subtitles of at most two lines: when each begins and how long it stays, in milliseconds, and its WebVTT text.

    Each stays for its share of the characters, since nobody says when a word is spoken.
    """
    pieces = textwrap.wrap(" ".join(text.split()), _CUE_CHARS)
    num_chars, length, done = sum(map(len, pieces)), round(seconds * 1000), 0
    for piece in pieces:
        start, done = length * done // num_chars, done + len(piece)
        # Foreign text must end no cue and open no tag.
        escaped = piece.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield start, length * done // num_chars - start, escaped


def _clip(
    row_id: str,
    picture: Mapping[str, Any],
    recording: Mapping[str, Any],
    pictures: MediaSet,
    recordings: MediaSet,
    settings: ClipSettings,
    version_set: str,
) -> MediaItem:
    text = recording["caption"] or ""
    painted, spoken = pictures.read(picture["item_id"]), recordings.read(recording["item_id"])
    body, (width, height), seconds = film(painted, spoken, text, settings)
    return MediaItem(
        item_id=f"{row_id}/{ROLE}",
        media_type="video/webm",
        content=body,
        width=width,
        height=height,
        duration_seconds=seconds,
        caption=text,
        row_id=row_id,
        version_set=version_set,
        # By their bytes, whatever version holds them.
        attributes={
            "role": ROLE,
            "picture": picture["item_id"],
            "picture_xxh3_128": picture["xxh3_128"].hex(),
            "recording": recording["item_id"],
            "recording_xxh3_128": recording["xxh3_128"].hex(),
        },
    )


def _still(picture: bytes, pixels_min: int) -> "Image":
    opened = opened_picture(picture)
    if opened is None:
        raise InvalidInput(f"A picture of {len(picture):,} bytes cannot be decoded, or has too many pixels.")
    # A line of pixels is not made a film of millions: no side becomes longer than one that a role may paint.
    factor_max = max(1, _SIDE_MAX // max(opened.size))
    return enlarged(opened, min(pixels_min, min(opened.size) * factor_max))


def _frame(still: "Image") -> Any:
    av = av_module()
    from av.video.reformatter import ColorRange, Colorspace

    drawn = av.VideoFrame.from_image(still)
    return drawn.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)


def _mux_cues(container: "OutputContainer", track: Any, text: str, seconds: float) -> None:
    av = av_module()
    for start, length, cue in cues_of(text, seconds):
        packet = av.Packet(cue.encode())
        packet.stream, packet.time_base = track, _MILLISECOND
        packet.pts = packet.dts = start
        packet.duration = length
        container.mux(packet)
