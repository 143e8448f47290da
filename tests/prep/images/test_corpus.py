"""The file of captioned pictures, as its reader takes it; what it refuses is in tests/mistaken_files."""

from pathlib import Path

import pytest

from headrace.errors import InvalidInput
from headrace.prep.images.corpus import ImageCorpus, image_shard_keys_in, load_images
from tests.prep.images.pictures import make_images

SMALLEST = "name: birds\nfiles: [in/*]\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_two_keys_are_enough_and_captions_are_judged_as_captions(tmp_path: Path) -> None:
    images = load_images(written(tmp_path / "images.yaml", SMALLEST))
    assert images == ImageCorpus(name="birds", files=("in/*",))
    assert (images.captions.set, images.captions.words_min, images.captions.words_max) == ("short", 2, 400)


def test_limits_of_ones_own_leave_the_others_as_the_set_has_them(tmp_path: Path) -> None:
    for section, words_max in (("{words_min: 3}", 400), ("{set: web, words_min: 3}", 100_000)):
        images = load_images(written(tmp_path / "images.yaml", f"{SMALLEST}captions: {section}\n"))
        assert (images.captions.words_min, images.captions.words_max) == (3, words_max)


def test_only_what_judges_is_in_the_digest_of_judging() -> None:
    images = make_images()
    for same in ({"num_shards": 3}, {"files": ("other/*",)}, {"dropped_share_max": 0.2}, {"quarantine_share_max": 0.3}):
        assert make_images(**same).judging_digest == images.judging_digest
    for other in ({"heldout_share": 0.1}, {"duplicates": None}, {"split_by": "picture"}):
        assert make_images(**other).judging_digest != images.judging_digest


def test_a_broken_file_still_tells_its_shards_and_a_missing_one_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    assert image_shard_keys_in(path) == (("shard-00",), None)
    with pytest.raises(InvalidInput, match=r"images.yaml does not exist; HEADRACE_IMAGES names the file to use\."):
        load_images(path)
    keys, faults = image_shard_keys_in(written(path, SMALLEST + "num_shards: 2\nresize: {pixels: 1}\n"))
    assert keys == ("shard-00", "shard-01")
    assert "pixels must be between 16 and 4,096, got 1" in (faults or "")
    for shards in ("0", "two", "[1]"):
        keys, faults = image_shard_keys_in(written(path, f"{SMALLEST}num_shards: {shards}\n"))
        assert keys == ("shard-00",)
        assert faults
    assert image_shard_keys_in(written(path, "name: ["))[0] == ("shard-00",)
