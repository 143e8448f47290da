"""Foreign bytes become upright sRGB pictures of the wanted size, or a reason."""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from headrace.prep.images.decoding import Decoded, Undecodable, _to_srgb, decode
from headrace.prep.images.resizing import Resize
from tests.prep.images.pictures import body_of, corners, quadrants

WHITE = (255, 255, 255)


def decoded(body: bytes, *, pixels: int = 512, pixels_max: int = 10_000_000) -> Decoded:
    return decode(body, Resize(pixels=pixels).scaled_size, pixels_max=pixels_max, background=WHITE)


def reason(body: bytes, **limits: int) -> str:
    with pytest.raises(Undecodable) as raised:
        decoded(body, **limits)
    return str(raised.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_whichever_way_its_camera_was_held(form: str, orientation: int) -> None:
    upright = quadrants((160, 120))
    # Stored so that turning it as EXIF says makes it upright again.
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(body_of(stored, form, exif=exif), pixels=80)
    assert (found.width, found.height) == (160, 120)
    assert found.picture.size == (80, 60)
    assert corners(found.picture) == corners(upright)


MODES: dict[str, tuple[Callable[[], Image.Image], tuple[int, int, int]]] = {
    "1": (lambda: Image.new("1", (8, 8), 1), WHITE),
    "L": (lambda: Image.new("L", (8, 8), 90), (90, 90, 90)),
    "LA": (lambda: Image.new("LA", (8, 8), (0, 0)), WHITE),
    "P": (lambda: Image.new("RGB", (8, 8), (10, 20, 30)).quantize(4), (10, 20, 30)),
    "RGBA": (lambda: Image.new("RGBA", (8, 8), (255, 0, 0, 128)), (255, 127, 127)),
    "I;16": (lambda: Image.fromarray(np.full((8, 8), 0x7F80, np.uint16)), (127, 127, 127)),
}


@pytest.mark.parametrize("mode", MODES)
def test_pixels_of_every_kind_become_red_green_and_blue_by_the_stated_rule(mode: str) -> None:
    make, wanted = MODES[mode]
    picture = make()
    assert picture.mode == mode
    found = decoded(body_of(picture)).picture
    assert found.mode == "RGB"
    assert found.getpixel((4, 4)) == pytest.approx(wanted, abs=1)


def test_cmyk_becomes_colours_and_floating_points_are_set_aside() -> None:
    assert decoded(body_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")).picture.getpixel((4, 4)) == (255, 0, 0)
    floats = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert reason(body_of(floats, "TIFF")) == "has pixels of the kind F, whose range or white is not stated"


def test_a_palette_with_a_transparent_entry_shows_the_background() -> None:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([200, 0, 0, 0, 0, 200])
    assert decoded(body_of(picture, "PNG", transparency=0)).picture.getpixel((4, 4)) == WHITE


TRANSPARENT_SAMPLES = {
    "grey of 1 bit": (1, 0, b"\xff", ">H", [1]),
    "grey of 2 bits": (2, 0, b"\x55", ">H", [1]),
    "grey of 4 bits": (4, 0, b"\x55", ">H", [5]),
    "grey of 8 bits": (8, 0, b"\x55", ">H", [0x55]),
    "grey of 16 bits": (16, 0, b"\x12\x34", ">H", [0x1234]),
    "colours of 8 bits": (8, 2, b"\x12\x34\x56", ">HHH", [0x12, 0x34, 0x56]),
    "colours of 16 bits": (16, 2, b"\x12\x34\x56\x78\x9a\xbc", ">HHH", [0x1234, 0x5678, 0x9ABC]),
}


@pytest.mark.parametrize("kind", TRANSPARENT_SAMPLES)
def test_the_sample_of_a_png_that_stands_for_transparent_shows_the_background(kind: str) -> None:
    num_bits, colours, pixels, form, stated = TRANSPARENT_SAMPLES[kind]
    side = 8 * len(pixels) * 8 // (num_bits * (3 if colours else 1))

    def png(sample: list[int]) -> bytes:
        header = struct.pack(">IIBBBBB", side, 8, num_bits, colours, 0, 0, 0)
        rows = zlib.compress((b"\0" + pixels * 8) * 8)
        parts = (b"IHDR", header), (b"tRNS", struct.pack(form, *sample)), (b"IDAT", rows), (b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in parts)

    def shown(sample: list[int]) -> tuple[int, ...]:
        found = decode(png(sample), Resize().scaled_size, pixels_max=10**6, background=(9, 8, 7))
        return found.picture.getpixel((1, 1))  # pyright: ignore[reportReturnType]

    assert shown(stated) == (9, 8, 7)
    assert shown([0] * len(stated)) != (9, 8, 7)


def test_a_linear_profile_that_calls_itself_srgb_is_applied_and_srgb_changes_nothing() -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = bytearray(own)
    for number in range(struct.unpack(">I", own[128:132])[0]):
        name, start, _ = struct.unpack(">4sII", own[132 + 12 * number : 144 + 12 * number])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            # A curve of one parameter, its gamma: 1.
            linear[start + 8 : start + 10], linear[start + 12 : start + 16] = b"\0\0", struct.pack(">I", 1 << 16)
    grey = Image.new("RGB", (80, 80), (55, 55, 55))
    assert decoded(body_of(grey, icc_profile=bytes(linear))).picture.getpixel((4, 4)) == (128, 128, 128)
    assert decoded(body_of(grey, icc_profile=own)).picture.getpixel((4, 4)) == (55, 55, 55)
    assert _to_srgb(own, "RGB") is None


def swapped_profile() -> bytes:
    """A profile whose red and blue are swapped, as no converter could overlook."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # The tags' names stand in the table after the header: rXYZ is called bXYZ and the other way round.
    red, blue = profile.index(b"rXYZ", 128), profile.index(b"bXYZ", 128)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB built-in".encode("utf-16-be"), "a swapped one".encode("utf-16-be"))


def test_a_colour_profile_is_applied_and_a_broken_one_counts_as_none() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    level = decoded(body_of(red, icc_profile=swapped_profile())).picture.getpixel((4, 4))
    assert isinstance(level, tuple)
    assert level[2] > 240 > 60 > level[0]
    assert decoded(body_of(red, icc_profile=b"no profile" * 20)).picture.getpixel((4, 4)) == (255, 0, 0)


def test_what_is_no_picture_says_what_it_is() -> None:
    wanted = ", wanted JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF"
    assert reason(b"<!DOCTYPE html><title>404") == "is HTML and no picture" + wanted
    assert reason(b'  <svg xmlns="http://www.w3.org/2000/svg"/>') == "is SVG and no picture" + wanted
    assert reason(b'{"error": 403}') == "is JSON and no picture" + wanted
    assert reason(b"%PDF-1.7") == "is PDF and no picture" + wanted
    assert reason(b"\0\1\2\3") == "is no picture of a known kind" + wanted
    assert reason(b"") == "is empty"


def test_formats_that_run_other_programs_are_not_opened() -> None:
    assert "is no picture of a known kind" in reason(body_of(quadrants(), "EPS"))
    assert "is no picture of a known kind" in reason(body_of(quadrants(), "PDF").replace(b"%PDF", b"%xyz"))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_a_bomb_is_refused_by_its_header_before_a_pixel_is_decoded() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    assert reason(bomb) == "has more than 10,000,000 pixels, the most that are decoded"
    small = body_of(Image.new("L", (400, 300)))
    assert reason(small, pixels_max=119_999) == "has 400 x 300 pixels, more than the 119,999 that are decoded"
    assert decoded(small, pixels_max=120_000).width == 400


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_a_picture_that_is_cut_off_is_set_aside(form: str) -> None:
    random = np.random.default_rng(0)
    body = body_of(Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)), form)
    with pytest.raises(Undecodable):
        decoded(body[: len(body) // 2])


@given(data=st.data(), form=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
def test_any_damage_gives_a_picture_or_a_reason_and_never_another_error(data: st.DataObject, form: str) -> None:
    body = bytearray(body_of(quadrants((40, 30)), form))
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Undecodable):
        assert decoded(bytes(body)).picture.mode == "RGB"


def test_a_film_is_told_from_a_still() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        body = io.BytesIO()
        frames[0].save(body, form, save_all=True, append_images=frames[1:])
        assert decoded(body.getvalue()).is_animated, form
        assert not decoded(body_of(frames[0], form)).is_animated, form
    pages = body_of(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert not decoded(pages).is_animated


def test_a_large_jpeg_is_decoded_small_and_shows_the_same() -> None:
    from simulation.pictures import landscape

    large = landscape(np.random.default_rng(5), 1200, 800)
    found = decoded(body_of(large, "JPEG", quality=95), pixels=128)
    assert found.picture.size == (128, 85)
    assert (found.width, found.height) == (1200, 800)
    reference = np.asarray(large.resize((128, 85), Image.Resampling.LANCZOS), np.float64)
    assert np.abs(np.asarray(found.picture) - reference).mean() < 2


@pytest.mark.parametrize("form", ["crop", "buckets"])
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (2, 40)])
def test_of_a_very_thin_picture_only_the_middle_is_enlarged(form: str, size: tuple[int, int]) -> None:
    resize = Resize(form=form, pixels=256)  # pyright: ignore[reportArgumentType]
    picture = Image.new("RGB", size, "red")
    middle = Image.new("RGB", (min(size[0], 20), min(size[1], 20)), "blue")
    picture.paste(middle, ((size[0] - middle.width) // 2, (size[1] - middle.height) // 2))
    found = decode(body_of(picture), resize.scaled_size, pixels_max=10_000_000, background=WHITE)
    assert (found.width, found.height) == size
    # Without it, the first would have 330 million pixels.
    assert found.picture.width * found.picture.height <= 256 * 256 * 8
    sealed = resize.cut(found.picture, found.width, found.height)
    assert sealed.size == resize.sealed_size(*size)
    assert sealed.getpixel((sealed.width // 2, sealed.height // 2)) == (0, 0, 255)


def test_large_colour_profiles_are_not_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    before = _to_srgb.cache_info().currsize
    body = body_of(quadrants(), "WEBP", lossless=True, icc_profile=profile + bytes(2**20))
    assert corners(decoded(body).picture) == corners(quadrants())
    assert _to_srgb.cache_info().currsize == before
