"""The size at which pictures are sealed."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headrace.errors import InvalidInput
from headrace.prep.images.resizing import Resize
from tests.prep.images.pictures import corners, quadrants

SIDES = st.integers(1, 20_000)


@given(width=SIDES, height=SIDES, pixels=st.sampled_from([16, 64, 512]))
def test_a_fitted_picture_keeps_its_shape_and_is_never_enlarged(width: int, height: int, pixels: int) -> None:
    sealed = Resize(pixels=pixels).sealed_size(width, height)
    assert max(sealed) <= max(1, min(pixels, max(width, height)))
    assert all(1 <= side <= own for side, own in zip(sealed, (width, height), strict=True))
    # To within the rounding of the shorter side.
    assert abs(sealed[0] * height - sealed[1] * width) <= max(width, height)


@given(width=SIDES, height=SIDES, form=st.sampled_from(["crop", "buckets"]))
def test_what_is_cut_out_is_covered_by_the_scaled_picture(width: int, height: int, form: str) -> None:
    resize = Resize(pixels=256, form=form)  # pyright: ignore[reportArgumentType]
    sealed, scaled = resize.sealed_size(width, height), resize.scaled_size(width, height)
    assert all(covering >= side for covering, side in zip(scaled, sealed, strict=True))
    assert min(covering - side for covering, side in zip(scaled, sealed, strict=True)) == 0


def test_buckets_are_multiples_of_the_step_with_no_more_pixels_than_a_square() -> None:
    buckets = Resize(form="buckets", pixels=512).buckets
    assert (512, 512) in buckets
    assert (256, 1024) in buckets
    assert (1024, 256) in buckets
    for width, height in buckets:
        assert width % 64 == height % 64 == 0
        assert 512 * 512 * 0.75 <= width * height <= 512 * 512


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((1000, 1000), (512, 512)), ((1920, 1080), (640, 384)), ((1080, 1920), (384, 640)), ((100, 4000), (256, 1024))],
)
def test_a_picture_goes_to_the_bucket_whose_shape_is_nearest(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert Resize(form="buckets", pixels=512).sealed_size(*size) == bucket


def test_a_crop_takes_the_middle() -> None:
    resize = Resize(form="crop", pixels=60)
    wide = quadrants((120, 60))
    cut = resize.cut(wide.resize(resize.scaled_size(120, 60)), 120, 60)
    assert cut.size == (60, 60)
    assert corners(cut) == corners(quadrants((60, 60)))


@pytest.mark.parametrize(("encode", "form"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_the_same_pixels_are_the_same_bytes_in_the_chosen_form(encode: str, form: str) -> None:
    resize = Resize(encode=encode)  # pyright: ignore[reportArgumentType]
    picture = quadrants((64, 48))
    body = resize.encoded(picture)
    assert body == resize.encoded(picture.copy())
    back = Image.open(io.BytesIO(body))
    assert (back.format, back.size) == (form, picture.size)
    assert np.abs(np.asarray(back, np.int16) - np.asarray(picture)).mean() <= (0 if encode == "png" else 3)
    assert resize.media_type == f"image/{encode}"
    assert resize.encoder_version().startswith("Pillow ")


def test_buckets_need_a_side_that_is_a_multiple_of_their_step() -> None:
    with pytest.raises(InvalidInput, match="pixels must be a multiple of step with form: buckets, got 500 and 64"):
        Resize(form="buckets", pixels=500)
