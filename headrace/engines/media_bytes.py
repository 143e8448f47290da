"""What a picture or a recording is, found in its bytes: the one door through which media of engines and servers come.

A type is told by the bytes alone, since servers say `image/png` of a JPEG. A picture's size is compared with what was
asked for before its pixels are decoded, so a small file cannot become gigabytes. It must look the same in every viewer
and table: no animation, no colours of printers, no orientation that only some viewers obey. A recording is a WAV whose
length follows from the bytes that came, since servers that stream write sizes of 0 or 0xFFFFFFFF into its header.
"""

import io
import struct
from dataclasses import dataclass

from headrace.engines.base import EngineFailed
from headrace.errors import InvalidInput
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import Member

# What one item may have: a picture of 4096 × 4096 as PNG, or three minutes of speech.
ITEM_BYTES_MAX = 32 * 1024 * 1024
# The largest pixel, RGBA of 16 bits, and what may stand beside pixels: a colour profile, a graph of ComfyUI.
_PIXEL_BYTES_MAX, _BYTES_BESIDE = 8, 1024 * 1024
# The largest frame of a recording: two channels of 32 bits.
_FRAME_BYTES = 8

_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
# Grey, palette and RGB with or without transparency, of 8 bits or fewer a channel.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_ORIENTATION = 0x0112
# Chunks of a WAV before its data; writers put fewer than ten there.
_NUM_CHUNKS_MAX = 1000
_AUDIO = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\xff\xfb": "MP3", b"\xff\xf3": "MP3", b"\xff\xf1": "AAC"}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaFacts:
    """Width and height in pixels; the duration in seconds, and samples a second."""

    media_type: str
    width: int | None = None
    height: int | None = None
    duration_seconds: float | None = None
    sample_rate: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """The samples of a WAV, still as its bytes. `data`: whole frames alone."""

    sample_rate: int
    num_channels: int
    bits: int
    is_float: bool
    data: memoryview

    @property
    def num_frames(self) -> int:
        return len(self.data) // (self.num_channels * self.bits // 8)

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.sample_rate


def item_bytes_max(member: Member) -> int:
    """Most bytes that what a member makes can have, so that no more is read of any server."""
    if member.picture:
        needed = member.picture.width * member.picture.height * _PIXEL_BYTES_MAX
    elif member.speech and member.speech.sample_rate:
        needed = int(member.speech.duration_seconds_max * member.speech.sample_rate * _FRAME_BYTES)
    else:
        return ITEM_BYTES_MAX
    return min(needed + _BYTES_BESIDE, ITEM_BYTES_MAX)


def examined(content: bytes, member: Member) -> MediaFacts:
    """The facts of what a member made.

    Raises:
        EngineFailed: it is not what the member makes, or larger than an item may be.
        InvalidInput: Pillow is not installed.
    """
    if not content:
        raise EngineFailed(f"{member.role} made nothing: 0 bytes.")
    if len(content) > (most := item_bytes_max(member)):
        raise EngineFailed(f"{member.role} made {len(content):,} bytes, more than the {most:,} of an item.")
    if member.picture:
        return _picture(content, member.role, member.picture)
    assert member.speech, "a member that writes makes no media"
    return _recording(content, member.role, member.speech)


def sound_of(content: bytes) -> Sound:
    """The samples of a WAV: PCM of 8 to 32 bits, or float.

    Raises: EngineFailed: it is none.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        found = next((name for magic, name in _AUDIO.items() if content.startswith(magic)), None)
        raise EngineFailed(f"A recording must be a WAV, got {found or f'bytes that begin with {content[:4]!r}'}.")
    view, place, form = memoryview(content), 12, None
    for _ in range(_NUM_CHUNKS_MAX):
        if place + 8 > len(content):
            break
        name, size = content[place : place + 4], struct.unpack_from("<I", content, place + 4)[0]
        start = place + 8
        if name == b"fmt ":
            form = _form(view[start : start + size])
        elif name == b"data":
            if form is None:
                raise EngineFailed(
                    "A recording must say how its samples are written before they come, got a WAV whose "
                    "data come first."
                )
            encoding, num_channels, sample_rate, bits = form
            frame = num_channels * bits // 8
            # A stream's header has no true size, but 0 or one that no item can have: all that came are samples.
            data = view[start:] if size == 0 or size > ITEM_BYTES_MAX else view[start : start + size]
            if 0 < size <= ITEM_BYTES_MAX and len(data) < size:
                raise EngineFailed(f"A WAV must be whole, got {len(data):,} of the {size:,} bytes that it says it has.")
            return Sound(
                sample_rate=sample_rate,
                num_channels=num_channels,
                bits=bits,
                is_float=encoding == _FLOAT,
                data=data[: len(data) // frame * frame],
            )
        place = start + size + size % 2
    raise EngineFailed("A recording must have samples, got a WAV without data.")


def _form(chunk: memoryview) -> tuple[int, int, int, int]:
    """Encoding, channels, samples a second and bits of a sample."""
    if len(chunk) < 16:
        raise EngineFailed(f"A WAV's format takes 16 bytes, got {len(chunk)}.")
    encoding, num_channels, sample_rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if encoding == _EXTENSIBLE and len(chunk) >= 26:
        encoding = struct.unpack_from("<H", chunk, 24)[0]
    is_known = (encoding == _PCM and bits in (8, 16, 24, 32)) or (encoding == _FLOAT and bits in (32, 64))
    if not is_known or not 1 <= num_channels <= 8 or not 8000 <= sample_rate <= 192_000:
        raise EngineFailed(
            "A recording must be PCM of 8 to 32 bits or float, of 1 to 8 channels and 8,000 to 192,000 samples a "
            f"second, got encoding {encoding}, {bits} bits, {num_channels} channels, {sample_rate} samples a second."
        )
    if frame_bytes != num_channels * bits // 8:
        # Players go by this number: they would play it at another speed.
        raise EngineFailed(
            f"A WAV of {num_channels} channels and {bits} bits has frames of {num_channels * bits // 8} bytes, got one "
            f"that says {frame_bytes}."
        )
    return encoding, num_channels, sample_rate, bits


def prepare(asked: Picture | Speech | None) -> None:
    """Imports what examines pictures. Called as a model is loaded: with the first picture a GPU would wait for it.

    Raises: InvalidInput: it is not installed.
    """
    if not isinstance(asked, Picture):
        return
    try:
        from PIL import Image
    except ImportError as error:
        raise InvalidInput("Pictures need Pillow, which is not installed. Run pip install pillow.") from error
    Image.preinit()


def _picture(content: bytes, role: str, asked: Picture) -> MediaFacts:
    prepare(asked)
    from PIL import Image

    try:
        # A JPEG of several pictures is opened as MPO.
        with Image.open(io.BytesIO(content), formats=list(_FORMATS)) as picture:
            found, size, num_frames = picture.format or "", picture.size, getattr(picture, "n_frames", 1)
            is_asked = size == (asked.width, asked.height) and num_frames == 1
            if is_asked and found == "PNG":
                # Its checksums, to the end: the decoder itself stops at the last pixel.
                picture.verify()
        mode, orientation = "", 1
        if is_asked:
            with Image.open(io.BytesIO(content), formats=list(_FORMATS)) as picture:
                picture.load()
                mode, orientation = picture.mode, picture.getexif().get(_ORIENTATION, 1)
    except Exception as error:
        raise EngineFailed(
            f"{role} made no PNG, JPEG or WebP that can be decoded: {type(error).__name__}, {len(content):,} bytes "
            f"that begin with {content[:8]!r}."
        ) from error
    if size != (asked.width, asked.height):
        raise EngineFailed(
            f"{role} must paint {asked.width} × {asked.height} pixels, got a {found} of {size[0]} × {size[1]}."
        )
    if num_frames != 1:
        raise EngineFailed(f"{role} must paint one picture, got a {found} of {num_frames}: an animation or a pair.")
    if mode not in _MODES:
        raise EngineFailed(
            f"{role} must paint in grey, a palette or RGB of 8 bits, got a {found} of {mode}, which viewers show in "
            "different colours."
        )
    if orientation != 1:
        raise EngineFailed(
            f"{role} must paint the picture as it is seen, got a {found} whose EXIF says to turn it (orientation "
            f"{orientation!r}), which only some viewers do."
        )
    return MediaFacts(media_type=_FORMATS[found], width=asked.width, height=asked.height)


def _recording(content: bytes, role: str, asked: Speech) -> MediaFacts:
    sound = sound_of(content)
    seconds = sound.duration_seconds
    if asked.sample_rate not in (None, sound.sample_rate):
        raise EngineFailed(
            f"{role} must speak at {asked.sample_rate} samples a second, got a WAV of {sound.sample_rate}."
        )
    if not sound.num_frames:
        raise EngineFailed(f"{role} made a WAV without a sample.")
    if sound.is_float and not _is_finite(sound):
        raise EngineFailed(f"{role} made a WAV with a sample that is no number.")
    if seconds > asked.duration_seconds_max:
        raise EngineFailed(
            f"{role} must speak for at most {asked.duration_seconds_max:g} s (duration_seconds_max), got "
            f"{seconds:.1f} s."
        )
    return MediaFacts(media_type="audio/wav", duration_seconds=seconds, sample_rate=sound.sample_rate)


def _is_finite(sound: Sound) -> bool:
    # Imported here: pictures do without it.
    import numpy as np

    return bool(np.isfinite(np.frombuffer(sound.data, f"<f{sound.bits // 8}")).all())
