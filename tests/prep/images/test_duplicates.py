"""Pictures that look alike are found, all of them, and what only has the same shapes or colours is none of them."""

import itertools

import imagehash
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headrace.handoff.schemas import IMAGE_SIGNATURES
from headrace.prep.images.corpus import ImageDuplicates
from headrace.prep.images.duplicates import best_first, copies, look_alikes
from headrace.prep.images.signatures import signature_of
from simulation.pictures import KINDS, OTHER, SAME, slide
from tests.prep.images.pictures import random_pictures, signatures


def found(table: pl.DataFrame, **limits: object) -> dict[str, tuple[str, str]]:
    """Id of each copy → the rule, and the id of the picture that is kept."""
    pictures = best_first(table.with_columns(caption_key="caption"))
    ids = pictures.get_column("image_id").to_list()
    said = copies(pictures, ImageDuplicates(**limits))  # pyright: ignore[reportArgumentType]
    return {
        ids[place]: (rule, ids[original])
        for place, (rule, original, _) in enumerate(said.iter_rows())
        if rule is not None
    }


@pytest.mark.parametrize("size", [(64, 64), (480, 320), (333, 777)])
def test_hashes_are_those_of_the_library_imagehash(size: tuple[int, int]) -> None:
    for picture in random_pictures(6, seed=size[0]):
        scaled = picture.resize(size)
        ours = signature_of(scaled, width=1, height=1)
        assert f"{ours.coarse_hash:016x}" == str(imagehash.phash(scaled, hash_size=8, highfreq_factor=8))
        assert ours.fine_hash.hex() == str(imagehash.phash(scaled, hash_size=16))


@pytest.mark.parametrize("change", SAME)
def test_a_picture_is_the_same_after(change: str) -> None:
    random = np.random.default_rng(11)
    for kind in ("shapes", "slide"):
        for _ in range(4):
            original = KINDS[kind](random)
            table = pl.DataFrame(signatures(original, SAME[change](original, random)))
            assert len(found(table)) == 1, (kind, change)


@pytest.mark.parametrize("change", [change for change in OTHER if change != "one more shape"])
def test_a_picture_is_another_one_after(change: str) -> None:
    random = np.random.default_rng(12)
    for _ in range(4):
        original = KINDS["shapes"](random)
        table = pl.DataFrame(signatures(original, OTHER[change](original, random)))
        assert found(table) == {}, change


def test_two_texts_on_one_template_are_two_pictures() -> None:
    random = np.random.default_rng(13)
    slides = [slide(random, template=7) for _ in range(12)]
    assert found(pl.DataFrame(signatures(*slides))) == {}


def test_a_much_darker_picture_is_another_one() -> None:
    ramp = np.tile(np.linspace(0, 255, 128), (128, 1))
    table = pl.DataFrame(
        signatures(*(Image.fromarray((ramp / part).astype(np.uint8)).convert("RGB") for part in (1, 8)))
    )
    assert found(table) == {}


def test_the_largest_is_kept_whatever_the_order_of_reading() -> None:
    (original,) = random_pictures(1)
    half, third = original.resize((240, 160)), original.resize((160, 107))
    table = pl.DataFrame(signatures(third, original, half, original.copy()))
    wanted = {
        "image-0": ("near_duplicate", "image-1"),
        "image-2": ("near_duplicate", "image-1"),
        "image-3": ("exact_duplicate", "image-1"),
    }
    for order in itertools.permutations(range(4)):
        assert found(table[list(order)]) == wanted


def test_a_copy_of_a_copy_that_is_unlike_the_original_is_kept() -> None:
    """No chain: what is dropped was compared with what is kept."""
    (original,) = random_pictures(1)
    base = signatures(original, original, original).to_pylist()
    words = [0, 0b1111, 0b1111_1111]
    for row, word in zip(base, words, strict=True):
        row["fine_hash"], row["pixels"] = word.to_bytes(32, "big"), word.to_bytes(16, "big")
    table = pl.DataFrame(pa.Table.from_pylist(base, schema=IMAGE_SIGNATURES))
    said = found(table, hash_distance_max=4)
    assert said == {"image-1": ("near_duplicate", "image-0")}
    joined = look_alikes(table, ImageDuplicates(hash_distance_max=4))
    assert len(set(joined.tolist())) == 1


def test_captions_may_make_copies_two_pictures() -> None:
    (one,) = random_pictures(1)
    table = pl.DataFrame(signatures(one, one, one.resize((240, 160)), captions=["a cat", "a dog", "a cat"]))
    assert found(table).keys() == {"image-1", "image-2"}
    assert found(table, captions="compared") == {"image-2": ("near_duplicate", "image-0")}


@given(seed=st.integers(0, 2**32 - 1), distance=st.integers(0, 12))
def test_what_is_found_is_what_comparing_all_pairs_finds(seed: int, distance: int) -> None:
    random = np.random.default_rng(seed)
    num = 60
    # Few distinct hashes with few changed bits, so that many pairs are near the limits.
    coarse = random.integers(0, 2**63, 3, np.uint64)[random.integers(0, 3, num)]
    for _ in range(8):
        coarse ^= np.uint64(1) << random.integers(0, 64, num, np.uint64)
    fine = random.integers(0, 256, (2, 32), np.uint8)[random.integers(0, 2, num)]
    flipped = random.integers(0, 256, (num, 4))
    for place, bits in enumerate(flipped):
        for bit in bits:
            fine[place, bit // 8] ^= np.uint8(1 << (bit % 8))
    table = pl.DataFrame(
        {
            "pixels": [bytes([number] * 16) for number in range(num)],
            "colours": [b"c" * 27] * num,
            "coarse_hash": coarse,
            "caption_key": ["a caption"] * num,
            "fine_hash": [row.tobytes() for row in fine],
        }
    )
    near = [
        [
            (int(coarse[one]) ^ int(coarse[other])).bit_count() <= 11
            and int(np.bitwise_count(fine[one] ^ fine[other]).sum()) <= distance
            for other in range(num)
        ]
        for one in range(num)
    ]
    kept: list[int] = []
    wanted = []
    for one in range(num):
        original = next((other for other in kept if near[one][other]), None)
        wanted.append(original)
        if original is None:
            kept.append(one)
    said = copies(table, ImageDuplicates(hash_distance_max=distance))
    assert said.get_column("copy_of").to_list() == wanted
    joined = look_alikes(table, ImageDuplicates(hash_distance_max=distance))
    parts = {one: {one} for one in range(num)}
    for one, other in itertools.combinations(range(num), 2):
        if near[one][other] and parts[one] is not parts[other]:
            parts[one] |= parts[other]
            for member in parts[one]:
                parts[member] = parts[one]
    assert [min(parts[one]) for one in range(num)] == joined.tolist()


def test_equal_pictures_in_two_files_are_exact_copies_whatever_their_container() -> None:
    picture = Image.new("RGB", (100, 80), "navy")
    assert signature_of(picture, width=100, height=80) == signature_of(picture.copy(), width=100, height=80)
    assert signature_of(picture, width=100, height=80).pixels != signature_of(picture, width=200, height=160).pixels
