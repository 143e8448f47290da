"""Captioned pictures at the command line: `headrace check` on their file, `headrace dropped --images`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import Result

from headrace.handoff.media.publishing import publish_media
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.prep.images.corpus import load_images
from headrace.prep.images.judging import judge
from headrace.prep.images.reading import ImageReading
from headrace.prep.images.sealing import kept_items
from headrace.store.local import LocalStore
from simulation.pictures import jpeg, shapes
from tests.command_line.builders import checked_json, run

IMAGES = """\
name: pictures
files: ["in/{shard}/*"]
num_shards: 3
resize: {form: crop, pixels: 128}
"""


class Project:
    """Two of three shards are read, one of them is clean; `shard-01` has a copy of a picture of `shard-00`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "resources").mkdir(parents=True)
        (root / "pyproject.toml").write_text("[tool.dg]\ndirectory_type = 'project'\n")
        self.file = root / "resources/images.yaml"
        self.file.write_text(IMAGES)
        self.home = root / ".headrace"
        random = np.random.default_rng(1)
        first, second = shapes(random), shapes(random)
        for name, picture, caption in (
            ("shard-00/a", first, "shapes on a ground"),
            ("shard-00/b", second, "shapes"),
            ("shard-01/c", jpeg(60)(first, random).resize((240, 160)), "shapes on a ground, smaller"),
        ):
            place = self.home / "in" / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            picture.save(place)
            place.with_suffix(".txt").write_text(caption)
        self._seal()

    def _seal(self) -> None:
        handoffs, corpus = HandoffStore(LocalStore(self.home / "store")), load_images(self.file)
        stated: Any = {"code_version": "1", "run_id": "r"}
        tables = {}
        for shard in ("shard-00", "shard-01"):
            reading = ImageReading(corpus, shard, self.home)
            publish_media(handoffs, "raw_images", shard, reading.items(), **stated)
            tables[shard] = reading.read().documents
            handoffs.publish("image_signatures", shard, tables[shard], **stated)
        verdicts = pl.DataFrame(judge(corpus, tables).verdicts)
        items = kept_items(MediaSet.open(handoffs.open("raw_images", "shard-00")), verdicts)
        publish_media(handoffs, "clean_images", "shard-00", items, **stated)

    def call(self, *arguments: str) -> Result:
        return run(*arguments, store=self.home / "store", env={"HEADRACE_IMAGES": None})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(made: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(made.root)
    return made


def test_dropped_pictures_are_counted_then_listed_with_what_was_measured(project: Project) -> None:
    lines = project.call("dropped", "--images").output.splitlines()
    assert lines[:3] == [
        "shard-00: 1 of 2 pictures dropped, as clean_images v1 holds it.",
        "shard-01: 1 of 1 picture dropped, clean_images is not made yet.",
        "shard-02: raw_images is not sealed yet.",
    ]
    assert ["near_duplicate", "1"] in [line.split() for line in lines]
    (few,) = [line.split() for line in lines if "in/shard-00/b.png:0" in line]
    assert (few[:4], few[-1]) == (["shard-00", "caption_too_few_words", "1", "2"], "shapes")
    (copy,) = [line.split() for line in lines if "in/shard-01/c.png:0" in line]
    assert copy[1] == "near_duplicate"
    assert copy[3] == "like"


def test_programs_get_dropped_pictures_in_the_same_form(project: Project) -> None:
    body = checked_json(project.call("dropped", "--images", "--rule", "near_duplicate", "--json"), "dropped")
    (row,) = body["documents"]
    assert (row["shard"], row["file"], row["limit"]) == ("shard-01", "in/shard-01/c.png", "44")
    assert row["copy_of"]
    assert body["unread_shards"] == ["shard-02"]
    assert not body["looked_at_length"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shard", "shard-9"], "The corpus has no shard 'shard-9', but shard-00, shard-01, shard-02."),
        (["--rule", "boring"], "The corpus has no rule 'boring', but too_narrow, too_low, "),
    ],
)
def test_a_question_about_what_is_not_there_is_refused(project: Project, arguments: list[str], sentence: str) -> None:
    result = project.call("dropped", "--images", *arguments)
    assert result.exit_code == 2
    assert sentence in result.output


def test_a_project_without_pictures_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.dg]\n")
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path)
    result = run("dropped", "--images", store=tmp_path / "store", env={"HEADRACE_IMAGES": None})
    assert result.exit_code == 2
    assert "images.yaml does not exist; HEADRACE_IMAGES names the file to use." in result.output


def test_the_first_picture_is_shown_as_it_will_be_sealed(project: Project) -> None:
    found = project.call("check", "--json")
    # No file of one shard is there.
    assert found.exit_code == 1
    body = json.loads(found.stdout)
    (images,) = [one for one in body["files"] if one["kind"] == "images"]
    sentences = [one["sentence"] for one in images["findings"]]
    assert images["example"] == (
        f"{project.home}/in/shard-00/a.png: PNG, 480 x 320, sealed as jpeg of 128 x 128\n'shapes on a ground'"
    )
    assert "files[0] matches no file for 1 of 3 shards" in sentences[0]
    assert sentences[1:] == ["3 files with pictures for 3 shards.", "the first 3 pictures can be decoded."]
