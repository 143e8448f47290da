"""What people see of a media version in the UI."""

import io
import random
import sys
from base64 import b64decode

import pytest
from PIL import Image

from headrace.errors import InvalidInput
from headrace.generation.clip_settings import ClipSettings
from headrace.generation.clips import film
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.media.thumbnails import contact_sheet, contact_sheet_markdown, thumbnail_markdown
from headrace.handoff.media.waveform import wav_peaks
from headrace.handoff.versions import HandoffStore
from headrace.text.markdown import CHARS_MAX
from tests.handoff.media.builders import make_item, make_png, make_wav, publish

RED, BLUE = (200, 10, 10), (10, 10, 200)


@pytest.fixture
def media(handoffs: HandoffStore) -> MediaSet:
    items = [
        make_item("red", make_png(RED)),
        make_item("blue", make_png(BLUE)),
        make_item("sound", make_wav(), "audio/wav"),
        make_item("film", b"no film", "video/mp4"),
        make_item("broken", b"\x89PNG\r\n\x1a\nnothing"),
        make_item("mp3", b"no sound", "audio/mpeg"),
    ]
    return MediaSet.open(publish(handoffs, items))


def picture_in(markdown: str) -> Image.Image:
    _, _, data = markdown.partition(";base64,")
    return Image.open(io.BytesIO(b64decode(data.rstrip(")"))))


def near(pixel: object, color: tuple[int, int, int]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(one - other) < 40 for one, other in zip(pixel, color, strict=True))


def test_a_contact_sheet_shows_images_sounds_and_boxes_in_their_order(media: MediaSet) -> None:
    sheet = Image.open(io.BytesIO(contact_sheet(media, thumbnail_pixels=100)))
    assert (sheet.format, sheet.size) == ("PNG", (4 * 104 - 4, 2 * 104 - 4))
    # A 64 pixel image is not blown up: its middle has its colour.
    assert near(sheet.getpixel((50, 50)), RED)
    assert near(sheet.getpixel((154, 50)), BLUE)
    shown = sheet.crop((208, 0, 308, 100))
    assert len(shown.getcolors(100_000) or []) > 1
    assert contact_sheet(media) == contact_sheet(media)


def test_a_small_sheet_fits_into_the_ui(media: MediaSet) -> None:
    text = thumbnail_markdown(media)
    assert text.startswith("![6 items](data:image/")
    assert len(text) <= CHARS_MAX
    assert near(picture_in(text).convert("RGB").getpixel((20, 20)), RED)
    assert picture_in(contact_sheet_markdown(media)).format == "PNG"


def test_a_noisy_picture_still_fits_or_is_a_sentence(handoffs: HandoffStore) -> None:
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    body = io.BytesIO()
    noise.save(body, "PNG")
    media = MediaSet.open(publish(handoffs, [make_item(f"noise-{n}", body.getvalue()) for n in range(9)]))
    text = thumbnail_markdown(media)
    assert len(text) <= CHARS_MAX
    assert text.startswith("![9 items]") or text == "9 items"


def test_no_items_are_a_sentence_and_an_empty_sheet(handoffs: HandoffStore) -> None:
    media = MediaSet.open(publish(handoffs, []))
    assert thumbnail_markdown(media) == "0 items"
    assert Image.open(io.BytesIO(contact_sheet(media))).getcolors() == [(160 * 160, (255, 255, 255))]


def test_without_pillow_there_is_a_sentence(media: MediaSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert thumbnail_markdown(media) == contact_sheet_markdown(media)
    assert "Pillow is not installed" in thumbnail_markdown(media)
    with pytest.raises(InvalidInput, match="pip install pillow"):
        contact_sheet(media)


def test_a_waveform_follows_the_loudness() -> None:
    peaks = wav_peaks(make_wav(num_frames=370), 10)
    assert len(peaks) == 10
    assert peaks == sorted(peaks)
    assert 0.8 < peaks[-1] <= 1


@pytest.mark.parametrize(
    "body", [b"", b"RIFF", make_wav(0), make_wav()[:20]], ids=["empty", "torn", "silent", "header"]
)
def test_what_is_no_sound_has_no_waveform(body: bytes) -> None:
    assert wav_peaks(body, 10) == []


def test_a_small_picture_is_enlarged_and_its_pixels_stay_sharp(handoffs: HandoffStore) -> None:
    checked = Image.new("RGB", (32, 16), RED)
    checked.paste(BLUE, (16, 0, 32, 16))
    body = io.BytesIO()
    checked.save(body, "PNG")
    media = MediaSet.open(publish(handoffs, [make_item("checked", body.getvalue())]))
    sheet = Image.open(io.BytesIO(contact_sheet(media, thumbnail_pixels=160))).convert("RGB")
    # Five times as large; no colour between the two.
    assert {color for _, color in sheet.getcolors(100) or []} == {RED, BLUE}
    assert (sheet.getpixel((79, 40)), sheet.getpixel((80, 40))) == (RED, BLUE)


def test_a_film_is_shown_by_its_beginning(handoffs: HandoffStore) -> None:
    body, *_ = film(make_png(RED), make_wav(), "red", ClipSettings(pixels_min=64))
    media = MediaSet.open(publish(handoffs, [make_item("film", body, "video/webm")]))
    sheet = Image.open(io.BytesIO(contact_sheet(media, thumbnail_pixels=64)))
    assert near(sheet.getpixel((32, 32)), RED)
