"""The demo's captioned pictures, as their packages have them."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from headrace.errors import InvalidInput
from headrace.prep.images.corpus import load_images
from headrace.prep.twemoji import GROUPS, copy_caption_encoder, read_emoji, write_pictures

DEMO = Path(__file__).parents[2] / "resources/images.yaml"


def test_every_caption_has_one_picture_and_there_are_enough_to_tell_them_apart(tmp_path: Path) -> None:
    assert write_pictures(tmp_path / "twemoji")
    assert not write_pictures(tmp_path / "twemoji"), "exactly these exist already"
    table = pq.read_table(tmp_path / "twemoji/twemoji.parquet")
    captions = table["caption"].to_pylist()
    assert len(captions) == len(set(captions)) == 289
    assert {"fox face", "hot pepper", "strawberry"} <= set(captions)
    sizes = {Image.open(io.BytesIO(body)).size for body in table["image"].to_pylist()}
    assert sizes == {(72, 72)}
    prompts = [json.loads(line) for line in (tmp_path / "twemoji/prompts.jsonl").read_text().splitlines()]
    assert [prompt["term"] for prompt in prompts] == captions
    assert {prompt["group"] for prompt in prompts} == set(GROUPS)
    assert "CC-BY 4.0" in (tmp_path / "twemoji/ATTRIBUTION").read_text()


def test_a_group_that_is_unknown_is_named() -> None:
    with pytest.raises(InvalidInput, match="There is no group 'Dragons' of emoji; there are sky, "):
        list(read_emoji(["Dragons"]))


def test_the_demos_images_file_names_the_encoder_that_set_up_puts_in_place(tmp_path: Path) -> None:
    examples = load_images(DEMO).examples
    assert examples
    assert copy_caption_encoder(tmp_path / examples.caption_encoder)
    assert not copy_caption_encoder(tmp_path / examples.caption_encoder)
    assert (tmp_path / examples.caption_encoder / "config.json").is_file()
