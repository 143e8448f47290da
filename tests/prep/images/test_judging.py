"""Which rule drops a picture, on which side it falls, and whether anything is on both."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.schemas import IMAGE_SIGNATURES
from headrace.handoff.versions import HandoffStore
from headrace.prep.drops import TooMuchDropped
from headrace.prep.images.corpus import ImageCorpus, ImageDuplicates, ImageRules
from headrace.prep.images.judging import judge, judged, rule_names
from headrace.prep.images.leaks import ImageLeaks, find_image_leaks
from headrace.prep.images.split import sides
from headrace.prep.rule_sets import QualityRules
from headrace.store.local import LocalStore
from simulation.pictures import jpeg, shapes
from tests.prep.images.pictures import make_images, no_rules, random_pictures, random_signatures, signatures


def rules_of(corpus: ImageCorpus, table: pa.Table) -> list[str | None]:
    return judged(corpus, {"shard-00": table}).sort("image_id").get_column("rule").to_list()


PICTURES = {
    "too_narrow": {"width": 63},
    "too_low": {"height": 10, "width": 20_000},
    "too_many_pixels": {"width": 20_000, "height": 20_000},
    "too_elongated": {"width": 301, "height": 100},
    "blank": {"contrast": 3.9},
    "animated": {"animated": True},
    None: {"width": 300, "height": 100, "contrast": 4.0},
}


@pytest.mark.parametrize("rule", PICTURES)
def test_a_picture_is_dropped_by(rule: str | None) -> None:
    (picture,) = random_pictures(1)
    corpus = make_images(rules=ImageRules(pixels_max=10**8))
    table = signatures({"picture": picture, **PICTURES[rule]})
    assert rules_of(corpus, table) == [rule]
    assert rules_of(make_images(rules=no_rules()), table) == [None]


CAPTIONS = {
    "caption_empty": ["", " \n", None, "​"],
    "caption_is_file_name": [
        "IMG_2041.JPG",
        "DSC01234",
        "photo 3",
        "Screenshot 2024-01-05",
        "cute-cat.webp",
        "IMG-20240105",
    ],
    "caption_too_few_words": ["cat"],
    "caption_too_few_letters": ["12 34 56"],
    "caption_broken_characters": ["a cafÃ© by the river"],
    None: ["a red car", "two photos of a dog", "图片里有一只猫", "image of 3 cats", "Bild 12 zeigt ein Haus"],
}


@pytest.mark.parametrize("rule", CAPTIONS)
def test_a_caption_is_dropped_by(rule: str | None) -> None:
    pictures = random_pictures(len(CAPTIONS[rule]))
    table = signatures(*pictures, captions=CAPTIONS[rule])  # pyright: ignore[reportArgumentType]
    assert rules_of(make_images(), table) == [rule] * len(pictures)


def test_broken_captions_are_repaired_where_the_file_says_so() -> None:
    (picture,) = random_pictures(1)
    corpus = make_images(captions=QualityRules.of("short", broken_characters="repair"))
    (row,) = judged(corpus, {"s": signatures(picture, captions=["  a cafÃ©\nby the river"])}).to_dicts()
    assert (row["rule"], row["caption"]) == (None, "a café by the river")


def test_a_caption_that_too_many_pictures_have_takes_all_of_them() -> None:
    captions: list[str | None] = ["stock photo", "Stock  Photo", "stock photo", "a red barn"]
    table = signatures(*random_pictures(4), captions=captions)
    corpus = make_images(rules=ImageRules(caption_repeats_max=2))
    assert rules_of(corpus, table) == ["caption_repeated"] * 3 + [None]
    assert "caption_repeated" not in rule_names(make_images())


def test_a_picture_counts_once_and_says_what_was_measured() -> None:
    plain = Image.new("RGB", (30, 200), "white")
    first, second = random_pictures(2)
    table = signatures(plain, first, jpeg(60)(first, np.random.default_rng(0)), second)
    corpus = make_images()
    found = judge(corpus, {"shard-00": table})
    assert {rule: num for rule, num in found.drops.items() if num} == {"too_narrow": 1, "near_duplicate": 1}
    assert list(found.drops) == rule_names(corpus)
    rows = found.verdicts.to_pylist()
    assert (rows[0]["rule"], rows[0]["measured"], rows[0]["limit"], rows[0]["split"]) == (
        "too_narrow",
        "30",
        "64",
        None,
    )
    near = rows[2]
    assert (near["rule"], near["limit"], near["copy_of"]) == ("near_duplicate", "44", "image-1")
    assert int(near["measured"]) <= 44
    assert rows[1]["rule"] is None
    assert rows[1]["split"] in ("train", "heldout")


def test_what_was_measured_is_of_the_rule_that_drops() -> None:
    (picture,) = random_pictures(1)
    table = signatures({"picture": picture, "animated": True, "contrast": 0.0}, captions=[None])
    corpus = make_images(rules=no_rules(animated="drop"))
    (row,) = judge(corpus, {"s": table}).verdicts.to_pylist()
    assert (row["rule"], row["measured"], row["limit"]) == ("animated", "PNG", None)


def test_copies_in_two_shards_are_found() -> None:
    first, second = random_pictures(2)
    tables = {
        "shard-00": signatures({"picture": first, "image_id": "a"}, {"picture": second, "image_id": "b"}),
        "shard-01": signatures({"picture": first.resize((240, 160)), "image_id": "c"}),
    }
    rows = {row["image_id"]: row for row in judge(make_images(), tables).verdicts.to_pylist()}
    assert (rows["c"]["shard"], rows["c"]["rule"], rows["c"]["copy_of"]) == ("shard-01", "near_duplicate", "a")


def test_too_much_that_is_dropped_fails_and_names_the_rule() -> None:
    table = signatures(*[Image.new("RGB", (100, 100), colour) for colour in ("red", "green", "blue")])
    with pytest.raises(TooMuchDropped, match="3 of 3 pictures are dropped, most of them \\(3\\) by blank, where"):
        judge(make_images(dropped_share_max=0.5), {"shard-00": table})


def test_an_empty_corpus_has_no_verdicts() -> None:
    found = judge(make_images(), {"shard-00": signatures().slice(0, 0)})
    assert (found.verdicts.num_rows, found.num_heldout) == (0, 0)


@given(order=st.permutations(range(9)), cut=st.integers(0, 9))
def test_verdicts_do_not_depend_on_shards_or_order(order: list[int], cut: int) -> None:
    wanted = judge(CORPUS, {"shard-00": TABLE}).verdicts.drop_columns(["shard", "copy_of_shard"])
    shuffled = TABLE.take(order)
    shards = {"shard-00": shuffled.slice(0, cut), "shard-01": shuffled.slice(cut)}
    found = judge(CORPUS, shards).verdicts
    assert found.drop_columns(["shard", "copy_of_shard"]).to_pylist() == wanted.to_pylist()
    shard_of = {row["image_id"]: row["shard"] for row in found.to_pylist()}
    assert all(row["copy_of_shard"] == shard_of.get(row["copy_of"]) for row in found.to_pylist())


def _nine() -> pa.Table:
    first, second, third = random_pictures(3, seed=4)
    small = [one.resize((240, 160)) for one in (first, second)]
    return signatures(first, second, third, *small, first.copy(), shapes(np.random.default_rng(1)), third, second)


CORPUS, TABLE = make_images(heldout_share=0.5), _nine()


def _sides(corpus: ImageCorpus, table: pa.Table) -> list[str]:
    pictures = pl.DataFrame(table).with_columns(caption_key="caption")
    return sides(pictures, corpus).to_list()


def test_pictures_with_equal_captions_and_pictures_that_look_alike_are_on_one_side() -> None:
    captions: list[str | None] = [*["a"] * 3, *(f"b {number}" for number in range(27)), "c"]
    rows = random_signatures(31, captions=captions).to_pylist()
    for name in ("coarse_hash", "fine_hash", "colours"):
        rows[30][name] = rows[0][name]
    table = pa.Table.from_pylist(rows, schema=IMAGE_SIGNATURES)
    corpus = make_images(heldout_share=0.5)
    found = _sides(corpus, table)
    assert len({*found[:3], found[30]}) == 1
    assert set(found) == {"train", "heldout"}
    # By picture, captions decide nothing.
    by_picture = _sides(make_images(heldout_share=0.5, split_by="picture"), table)
    assert by_picture[0] == by_picture[30]
    assert by_picture != found


def test_a_larger_share_holds_out_the_same_pictures_and_more() -> None:
    table = random_signatures(200)
    few, many = (_sides(make_images(heldout_share=share), table) for share in (0.1, 0.4))
    assert {n for n, side in enumerate(few) if side == "heldout"} < {
        n for n, side in enumerate(many) if side == "heldout"
    }


def leaks(tmp_path: Path, table: pa.Table, splits: list[str], corpus: ImageCorpus) -> ImageLeaks:
    items = [
        MediaItem(
            item_id=row["image_id"],
            media_type="image/png",
            content=b"x",
            caption=row["caption"],
            attributes={"split": split},
        )
        for row, split in zip(table.to_pylist(), splits, strict=True)
    ]
    handoffs = HandoffStore(LocalStore(tmp_path))
    sealed = publish_media(handoffs, "clean_images", "shard-00", items, code_version="1", run_id="r")
    return find_image_leaks(corpus, [MediaSet.open(sealed)], [table])


def test_a_leak_of_a_caption_or_of_a_look_is_found(tmp_path: Path) -> None:
    first, second, third = random_pictures(3)
    table = signatures(
        first, second, third, jpeg(50)(third, np.random.default_rng(0)), captions=["A cat", "a  cat", "a dog", "a fox"]
    )
    corpus = make_images()
    clean = leaks(tmp_path, table, ["train", "train", "heldout", "heldout"], corpus)
    assert not clean.found
    assert clean.told(1) == (
        "2 held-out and 2 training pictures of 1 shard were compared: no caption and no look is on both sides."
    )
    both = leaks(tmp_path, table, ["train", "heldout", "heldout", "train"], corpus)
    assert (both.num_captions, both.num_looks, both.samples) == (1, 1, ("A cat", "a dog"))
    assert "on both sides are 1 caption and 1 look, for example: A cat; a dog" in both.told(1)
    by_picture = leaks(tmp_path, table, ["train", "heldout", "heldout", "train"], make_images(split_by="picture"))
    assert (by_picture.num_captions, by_picture.num_looks) == (0, 1)


def test_copies_that_are_kept_on_purpose_are_on_one_side(tmp_path: Path) -> None:
    originals = random_pictures(12)
    copies = [jpeg(50)(one, np.random.default_rng(0)) for one in originals]
    table = signatures(*originals, *copies)
    for duplicates in (None, ImageDuplicates(captions="compared")):
        corpus = make_images(heldout_share=0.5, duplicates=duplicates)
        rows = judge(corpus, {"shard-00": table}).verdicts.to_pylist()
        assert all(row["rule"] is None for row in rows)
        assert {row["split"] for row in rows} == {"train", "heldout"}
        assert not leaks(tmp_path, table, [row["split"] for row in rows], corpus).found
