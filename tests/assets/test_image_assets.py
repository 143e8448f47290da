"""Captioned pictures through their assets and checks, on a real store and instance: folder in, packed media out."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from assets.image_checks import IMAGE_CHECKS
from assets.images import clean_images, image_verdicts, picture_examples, read_image_shard
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.picture_examples import CAPTION_ENCODER
from headrace.prep.images.corpus import load_images
from headrace.prep.images.reading import ImageReading
from headrace.prep.images.resizing import Resize
from headrace.store.sealed_directory import digest_of_directory
from headrace.training.picture_examples import PictureShape, shape_of
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from resources.images_resource import ImagesResource
from simulation.pictures import KINDS, SAME, hue_turned, shapes
from tests.picture_builders import build_caption_encoder

SHARD = "shard-00"
FILE = """
name: pictures
files: [in/*]
heldout_share: 0.3
quarantine_share_max: {quarantine}
resize: {{pixels: 256}}
"""


class Project:
    def __init__(self, home: Path, *, quarantine: float = 0.2) -> None:
        self.home = home
        (home / "in").mkdir()
        self.store = StoreResource(url=str(home / "store"))
        self.file = home / "images.yaml"
        self.file.write_text(FILE.format(quarantine=quarantine))

    def put(self, name: str, picture: Image.Image | bytes, caption: str) -> None:
        path = self.home / "in" / name
        if isinstance(picture, bytes):
            path.write_bytes(picture)
        else:
            picture.save(path)
        path.with_suffix(".txt").write_text(caption)

    def materialize(self, *assets: dg.AssetsDefinition, key: str | None, **stated: Any) -> dg.ExecuteInProcessResult:
        every = [read_image_shard, image_verdicts, clean_images, picture_examples]
        return dg.materialize(
            [*every, *IMAGE_CHECKS],
            selection=dg.AssetSelection.assets(*assets),
            partition_key=key,
            resources={
                "io_manager": ArrowHandoffIOManager(url=self.store.url),
                "store": self.store,
                "images": ImagesResource(images_file=str(self.file), home=str(self.home)),
            },
            **stated,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_a_folder_of_pictures_becomes_packed_media_whose_checks_pass(
    project: Project, instance: dg.DagsterInstance
) -> None:
    random = np.random.default_rng(3)
    for number in range(12):
        kind = list(KINDS)[number % 3]
        project.put(f"{kind}-{number:02d}.png", KINDS[kind](random), f"picture number {number} of the {kind} kind")
    original = Image.open(project.home / "in/shapes-01.png")
    project.put("copy.jpg", SAME["half as large"](original, random), "the same shapes, smaller")
    project.put("other.png", hue_turned(120)(original, random), "the same shapes in another colour")
    project.put("plain.png", Image.new("RGB", (200, 200), "white"), "an empty sheet of paper")
    project.put("page.jpg", b"<html><body>404</body></html>", "a page that says not found")

    read = project.materialize(read_image_shard, key=SHARD, instance=instance)
    judged = project.materialize(image_verdicts, key=None, instance=instance)
    packed = project.materialize(clean_images, key=SHARD, instance=instance)

    for result in (read, judged, packed):
        evaluations = result.get_asset_check_evaluations()
        assert evaluations
        assert [one.check_name for one in evaluations if not one.passed] == []
    (event,) = judged.asset_materializations_for_node("image_verdicts")
    counts = {name: value.value for name, value in event.metadata.items()}
    assert counts["num_rows_in"] == 15
    assert counts["num_kept"] == 13
    assert (counts["dropped/near_duplicate"], counts["dropped/blank"]) == (1, 1)
    handoffs = project.store.handoffs()
    (row,) = handoffs.open("image_quarantine", SHARD).table().to_pylist()
    assert row["source_file"] == "in/page.jpg"
    assert row["reason"].startswith("is HTML and no picture")
    media = MediaSet.open(handoffs.open("clean_images", SHARD))
    items = {item.attributes["source_file"]: item for item in media}
    assert len(items) == 13
    assert items.keys().isdisjoint({"in/copy.jpg", "in/plain.png", "in/page.jpg"})
    assert {item.attributes["split"] for item in items.values()} == {"train", "heldout"}
    item = items["in/other.png"]
    assert item.caption == "the same shapes in another colour"
    picture = Image.open(io.BytesIO(media.read(item.item_id)))
    assert (picture.format, picture.size) == ("JPEG", (256, 171))
    assert (item.width, item.height) == picture.size
    assert media.handoff.manifest.attributes["encoder"].startswith("Pillow ")
    (event,) = packed.asset_materializations_for_node("clean_images")
    assert event.metadata["num_items"].value == 13
    assert str(event.metadata["thumbnails"].value).startswith("![13 items](data:image/")


def test_a_changed_rule_decodes_nothing_again(project: Project, instance: dg.DagsterInstance) -> None:
    random = np.random.default_rng(3)
    for number in range(4):
        project.put(f"{number}.png", shapes(random, 200 + number, 200), f"some shapes, number {number}")
    project.materialize(read_image_shard, key=SHARD, instance=instance)
    project.materialize(image_verdicts, key=None, instance=instance)
    for path in (project.home / "in").iterdir():
        path.unlink()
    project.file.write_text(project.file.read_text() + "rules: {width_min: 202}\n")
    project.materialize(image_verdicts, key=None, instance=instance)
    project.materialize(clean_images, key=SHARD, instance=instance)
    media = MediaSet.open(project.store.handoffs().open("clean_images", SHARD))
    assert sorted(item.attributes["source_width"] for item in media) == [202, 203]


def test_too_many_unreadable_pictures_are_quarantined_and_seal_nothing_else(tmp_path: Path) -> None:
    project = Project(tmp_path, quarantine=0.4)
    project.put("good.png", KINDS["shapes"](np.random.default_rng(0)), "some coloured shapes")
    project.put("bad.png", b"\x89PNG\r\n\x1a\n", "nothing but a signature")
    with dg.DagsterInstance.ephemeral() as instance:
        result = project.materialize(read_image_shard, key=SHARD, instance=instance, raise_on_error=False)
    assert not result.success
    handoffs = project.store.handoffs()
    assert handoffs.newest("raw_images", SHARD) is None
    assert handoffs.open("image_quarantine", SHARD).num_rows == 1


def refusal(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    said = failed.step_failure_data.user_failure_data
    assert said
    return str(said.description)


def test_verdicts_on_other_pictures_captions_or_rules_are_refused(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """A picture's id is its place: else a file that was written anew would swap captions."""
    seen = ["red", "green"]

    def read(names: list[str]) -> None:
        sheets = [np.full((100, 100, 3), Image.new("RGB", (1, 1), name).getpixel((0, 0)), np.uint8) for name in names]
        for sheet in sheets:
            sheet[20:40, 20:60] = 255
        bodies = [png(Image.fromarray(sheet)) for sheet in sheets]
        table = pa.table({"image": bodies, "caption": [f"a sheet of {name} paper" for name in names]})
        pq.write_table(table, project.home / "in/all.parquet")
        project.materialize(read_image_shard, key=SHARD, instance=instance)

    def packed() -> str:
        result = project.materialize(clean_images, key=SHARD, instance=instance, raise_on_error=False)
        return "" if result.success else refusal(result)

    read(seen)
    project.materialize(image_verdicts, key=None, instance=instance)
    assert packed() == ""
    for names in (seen[::-1], ["red", "blue"], [*seen, "navy"]):
        read(names)
        assert "image_verdicts[all] v1 was not made of the newest image_signatures[shard-00], v" in packed()
    read(seen)
    assert packed() == ""

    stated = project.file.read_text()
    for other in ("rules: {width_min: 10}", "split_by: picture", "heldout_share: 0.4"):
        project.file.write_text(stated.replace("heldout_share: 0.3", other))
        assert "image_verdicts[all] v1 was made by another corpus file than the present one of pictures" in packed()
    project.file.write_text(stated)

    # Killed between sealing the pictures and what they are judged by.
    handoffs, corpus = project.store.handoffs(), load_images(project.file)
    changed = dataclasses.replace(corpus, resize=Resize(pixels=64))
    reading = ImageReading(changed, SHARD, project.home)
    publish_media(handoffs, "raw_images", SHARD, reading.items(), code_version="2", run_id="killed")
    assert "were not read together: a run that read shard-00 ended between the two" in packed()
    read(seen)
    assert packed() == ""
    items = MediaSet.open(handoffs.open("clean_images", SHARD))
    assert {item.caption: Image.open(io.BytesIO(items.read(item.item_id))).getpixel((90, 90)) for item in items} == {
        "a sheet of red paper": (254, 0, 0),
        "a sheet of green paper": (0, 128, 1),
    }


def png(picture: Image.Image) -> bytes:
    body = io.BytesIO()
    picture.save(body, "PNG")
    return body.getvalue()


def test_clean_pictures_become_examples_once_for_the_same_pictures_and_caption_encoder(
    project: Project, instance: dg.DagsterInstance
) -> None:
    random = np.random.default_rng(3)
    for number in range(4):
        project.put(f"{number}.png", shapes(random, 200, 200), f"some shapes, number {number}")
    project.file.write_text(project.file.read_text().replace("{pixels: 256}", "{form: crop, pixels: 32}"))
    for assets in (read_image_shard, image_verdicts, clean_images):
        project.materialize(assets, key=None if assets is image_verdicts else SHARD, instance=instance)
    with pytest.raises(dg.Failure, match="pictures has no examples, so nobody knows which model reads its captions"):
        project.materialize(picture_examples, key=SHARD, instance=instance)
    build_caption_encoder(project.home)
    project.file.write_text(project.file.read_text() + "examples: {caption_encoder: encoder, caption_tokens: 8}\n")
    made, again = (project.materialize(picture_examples, key=SHARD, instance=instance) for _ in range(2))
    events = [run.asset_materializations_for_node("picture_examples")[0].metadata for run in (made, again)]
    assert [event["num_rows"].value for event in events] == [5, 5]
    assert [event["reused"].value for event in events] == [False, True]
    handoff = project.store.handoffs().open("picture_examples", SHARD)
    assert shape_of(handoff.schema) == PictureShape(side=32, tokens=8, width=32)
    assert handoff.attributes[CAPTION_ENCODER] == digest_of_directory(project.home / "encoder")
    assert set(handoff.manifest.input_versions) == {f"clean_images[{SHARD}]"}
