"""What is packed for training reads back as torch reads it: batches of equal size, each picture with its caption."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.prep.images.judging import judge
from headrace.prep.images.reading import ImageReading
from headrace.prep.images.resizing import Resize
from headrace.prep.images.sealing import kept_items
from headrace.store.local import LocalStore
from tests.prep.images.pictures import body_of, make_images, put, random_pictures


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[MediaSet, MediaSet]:
    """`raw_images` and `clean_images` of seven pictures, of which one has no caption."""
    home = tmp_path_factory.mktemp("home")
    for number, picture in enumerate(random_pictures(7)):
        put(home / f"in/{number}.png", body_of(picture))
        if number != 3:
            put(home / f"in/{number}.txt", f"  a picture with\nthe number {number} ")
    corpus = make_images(resize=Resize(form="crop", pixels=64, encode="png"), heldout_share=0.5)
    handoffs = HandoffStore(LocalStore(home / "store"))
    reading = ImageReading(corpus, "shard-00", home)
    raw = publish_media(handoffs, "raw_images", "shard-00", reading.items(), code_version="1", run_id="r")
    verdicts = judge(corpus, {"shard-00": reading.read().documents}).verdicts
    items = kept_items(MediaSet.open(raw), pl.DataFrame(verdicts))
    clean = publish_media(handoffs, "clean_images", "shard-00", items, code_version="1", run_id="r")
    return MediaSet.open(raw), MediaSet.open(clean)


def test_a_torch_loader_reads_batches_of_pictures_with_their_captions(sealed: tuple[MediaSet, MediaSet]) -> None:
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Pictures(Dataset[tuple[torch.Tensor, str]]):
        def __init__(self, media: MediaSet, split: str) -> None:
            self.media = media
            self.items = [item for item in media if item.attributes["split"] == split]

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, place: int) -> tuple[torch.Tensor, str]:
            item = self.items[place]
            with Image.open(io.BytesIO(self.media.read(item.item_id))) as picture:
                return torch.from_numpy(np.array(picture)), item.caption or ""

    _, clean = sealed
    captions: list[str] = []
    for split in ("train", "heldout"):
        for pictures_BYXC, of_batch in DataLoader(Pictures(clean, split), batch_size=2):  # noqa: N806 (shape letters)
            assert pictures_BYXC.shape[1:] == (64, 64, 3)
            captions += of_batch
    assert sorted(captions) == [f"a picture with the number {number}" for number in range(7) if number != 3]


def test_a_kept_picture_has_the_bytes_that_were_read_and_its_source(sealed: tuple[MediaSet, MediaSet]) -> None:
    raw, clean = sealed
    assert (len(raw), len(clean)) == (7, 6)
    for item in clean:
        assert clean.read(item.item_id) == raw.read(item.item_id)
        assert (item.width, item.height, item.media_type) == (64, 64, "image/png")
        assert item.attributes["source_file"].startswith("in/")
        assert (item.attributes["source_width"], item.attributes["source_height"]) == (480, 320)


def test_reading_the_same_files_again_seals_nothing_new(tmp_path: Path) -> None:
    put(tmp_path / "in/a.png", body_of(random_pictures(1)[0]))
    handoffs = HandoffStore(LocalStore(tmp_path / "store"))
    versions = [
        publish_media(
            handoffs,
            "raw_images",
            "shard-00",
            ImageReading(make_images(), "shard-00", tmp_path).items(),
            code_version="1",
            run_id="r",
        ).version
        for _ in range(2)
    ]
    assert versions == [1, 1]
