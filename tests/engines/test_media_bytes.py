"""What bytes are: the facts of true pictures and recordings, and why others are refused, within bounded memory."""

import io
import json
import struct
import subprocess
import sys
import wave
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.engines.base import EngineFailed
from headrace.engines.media_bytes import ITEM_BYTES_MAX, examined, item_bytes_max, sound_of
from headrace.version_sets.media_settings import Picture, Speech
from simulation.servers.media import png_bomb, png_chunk
from tests.engines.openai.media_askers import make_member

PAINTER = make_member(Picture(width=32, height=24))
SPEAKER = make_member(Speech(duration_seconds_max=2))


def saved(mode: str, form: str, size: tuple[int, int] = (32, 24), **saving: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
    found = io.BytesIO()
    picture.save(found, form, **saving)
    return found.getvalue()


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
    found = io.BytesIO()
    frames[0].save(found, form, save_all=True, append_images=frames[1:])
    return found.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved("RGB", "JPEG", exif=exif)


WELL: dict[str, tuple[bytes, str]] = {
    **{f"PNG of {mode}": (saved(mode, "PNG"), "image/png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{f"JPEG of {mode}": (saved(mode, "JPEG"), "image/jpeg") for mode in ("L", "RGB")},
    "WebP": (saved("RGB", "WEBP"), "image/webp"),
    "WebP without loss and with transparency": (saved("RGBA", "WEBP", lossless=True), "image/webp"),
    "a JPEG that says it is upright": (turned(1), "image/jpeg"),
    "an interlaced JPEG": (saved("RGB", "JPEG", progressive=True), "image/jpeg"),
}


@pytest.mark.parametrize("name", WELL)
def test_a_picture_is_told_by_its_bytes(name: str) -> None:
    content, media_type = WELL[name]
    facts = examined(content, PAINTER)
    assert (facts.media_type, facts.width, facts.height) == (media_type, 32, 24)


PNG = saved("RGB", "PNG")
JPEG = saved("RGB", "JPEG")
BROKEN = "no PNG, JPEG or WebP that can be decoded"
ILL: dict[str, tuple[bytes, str]] = {
    "a GIF": (saved("P", "GIF"), BROKEN),
    "a BMP": (saved("RGB", "BMP"), BROKEN),
    "a TIFF": (saved("RGB", "TIFF"), BROKEN),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', BROKEN),
    "the first bytes of a PNG": (PNG[:8], BROKEN),
    "a PNG without its end": (PNG[:-12], BROKEN),
    "a PNG without its last row": (PNG[:-400], BROKEN),
    "a PNG with a wrong byte": (PNG[:300] + bytes([PNG[300] ^ 1]) + PNG[301:], BROKEN),
    "half a JPEG": (JPEG[: len(JPEG) // 2], BROKEN),
    "half a WebP": (saved("RGB", "WEBP", lossless=True)[:200], BROKEN),
    "other pixels than the header says": (PNG[:16] + struct.pack(">II", 64, 64) + PNG[24:], BROKEN + "|64 × 64"),
    "the right size, lying on its side": (saved("RGB", "PNG", (24, 32)), "got a PNG of 24 × 32"),
    "a picture of printers": (saved("CMYK", "JPEG"), "got a JPEG of CMYK"),
    "16 bits of grey": (saved("I;16", "PNG"), "got a PNG of I;16"),
    "an animated PNG": (animation("PNG"), "got a PNG of 2: an animation"),
    "an animated WebP": (animation("WEBP"), "got a WEBP of 2: an animation"),
    "two JPEGs in one": (animation("MPO"), "got a MPO of 2"),
    "a JPEG to be turned": (turned(6), "whose EXIF says to turn it (orientation 6)"),
    "nothing": (b"", "0 bytes"),
    "too many bytes": (PNG + bytes(2_000_000), "of an item"),
}


@pytest.mark.parametrize("name", ILL)
def test_what_is_no_picture_as_asked_is_refused_with_a_sentence(name: str) -> None:
    content, why = ILL[name]
    with pytest.raises(EngineFailed) as caught:
        examined(content, PAINTER)
    assert any(one in str(caught.value) for one in why.split("|")), caught.value


def jpeg_header(width: int, height: int) -> bytes:
    return JPEG.replace(struct.pack(">HH", 24, 32), struct.pack(">HH", height, width), 1)


def webp_header(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little") + saved("RGB", "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def test_no_bomb_of_any_form_takes_memory(tmp_path: Any) -> None:
    """In a process of its own, whose peak shows what was taken."""
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    data = png_bomb(32, 100_000)
    bombs = {
        "pixels": png_bomb(5000, 5000),
        "pixels of JPEG": jpeg_header(65_000, 65_000),
        "pixels of WebP": webp_header(16_000, 16_000),
        "a text in a picture of the right size": PNG[:33] + text + PNG[33:],
        "more rows than the header says": data[:16] + struct.pack(">II", 32, 24) + data[24:29] + data[29:],
    }
    for number, bomb in enumerate(bombs.values()):
        (tmp_path / f"{number}").write_bytes(bomb)
    script = """
import json, resource, sys
from pathlib import Path
from headrace.engines.base import EngineFailed
from headrace.engines.media_bytes import examined
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import Member
PAINTER = Member(role="painter", model_name="a", model_version="1", weights_digest="", weights_uri="", system_prompt="",
                 user_template="{text}", picture=Picture(width=32, height=24))
files = sorted(Path(sys.argv[1]).iterdir())
contents = [file.read_bytes() for file in files]
examined(Path(sys.argv[2]).read_bytes(), PAINTER)
before, told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
for content in contents:
    try:
        told.append(str(examined(content, PAINTER)))
    except EngineFailed as error:
        told.append(str(error))
print(json.dumps([told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""
    well = tmp_path.parent / "well.png"
    well.write_bytes(PNG)
    command = [sys.executable, "-c", script, str(tmp_path), str(well)]
    told, grown_kb = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert "5000 × 5000" in told[0]
    assert all("must paint" in one or BROKEN in one for one in told), told
    assert grown_kb < 60_000, told


def wav(num_frames: int = 1600, *, form: bytes | None = None, size: int | None = None, cut: int = 0) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16) if form is None else form
    data = bytes(range(256)) * (num_frames * 2 // 256 + 1)
    data = data[: num_frames * 2]
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    head += struct.pack("<I", len(data) if size is None else size)
    return b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data[: len(data) - cut]


@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 44])
def test_a_streams_size_is_what_came(size: int | None) -> None:
    assert examined(wav(size=size), SPEAKER).duration_seconds == 0.1


def test_a_recordings_length_is_what_another_reader_says() -> None:
    content = wav(1234)
    with wave.open(io.BytesIO(content)) as file:
        assert sound_of(content).num_frames == file.getnframes() == 1234


RECORDINGS: dict[str, tuple[bytes, str]] = {
    "cut off": (wav(cut=100), "must be whole, got 3,100 of the 3,200 bytes"),
    "no data": (wav()[:36], "got a WAV without data"),
    "no sample": (wav(0), "without a sample"),
    "too long": (wav(40_000), "at most 2 s (duration_seconds_max), got 2.5 s"),
    "no format": (b"RIFF\x00\x00\x00\x00WAVEdata" + bytes(40), "whose data come first"),
    "a short format": (wav(form=b"\x01\x00"), "format takes 16 bytes, got 2"),
    "frames of another length": (
        wav(form=struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 4, 16)),
        "frames of 2 bytes, got one that says 4",
    ),
    "no channel": (wav(form=struct.pack("<HHIIHH", 1, 0, 16_000, 0, 0, 16)), "0 channels"),
    "a rate of one": (wav(form=struct.pack("<HHIIHH", 1, 1, 1, 2, 2, 16)), "1 samples a second"),
    "µ-law": (wav(form=struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8)), "got encoding 7"),
    "float that is no number": (
        wav(form=struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32), num_frames=0).replace(
            b"data\x00\x00\x00\x00", b"data\x08\x00\x00\x00" + struct.pack("<ff", 0.5, float("nan"))
        ),
        "a sample that is no number",
    ),
    "a million chunks": (b"RIFF\x00\x00\x00\x00WAVE" + (b"junk" + bytes(4)) * 100_000, "got a WAV without data"),
    "too many bytes": (bytes(ITEM_BYTES_MAX + 1), "of an item"),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_is_no_recording_as_asked_is_refused_with_a_sentence(name: str) -> None:
    content, why = RECORDINGS[name]
    with pytest.raises(EngineFailed) as caught:
        examined(content, SPEAKER)
    assert why in str(caught.value)


def test_no_more_is_read_than_an_item_can_have() -> None:
    assert item_bytes_max(PAINTER) == 32 * 24 * 8 + 2**20
    assert item_bytes_max(SPEAKER) == ITEM_BYTES_MAX
    assert item_bytes_max(make_member(Speech(sample_rate=8000, duration_seconds_max=1))) == 64_000 + 2**20
    assert item_bytes_max(make_member(Picture(width=8192, height=8192))) == ITEM_BYTES_MAX
