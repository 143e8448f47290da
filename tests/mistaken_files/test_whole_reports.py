"""The four formats of users' files, each with the mistakes that people make: one report, each line with its place."""

from pathlib import Path

import pytest
import yaml

from headrace.errors import InvalidInput
from headrace.generation.campaign import load_campaign
from headrace.prep.corpus import load_corpus
from headrace.serving.service import load_service
from headrace.training.recipe import load_recipe

_LOAD = {"campaign": load_campaign, "service": load_service, "corpus": load_corpus, "recipe": load_recipe}
_TABLE = yaml.safe_load(Path(__file__).with_name("whole_reports.yaml").read_text())


@pytest.mark.parametrize(("kind", "mistake"), [(kind, one) for kind in _LOAD for one in _TABLE[kind]["mistakes"]])
def test_every_mistake_of_a_file_is_told_with_its_line_and_column(tmp_path: Path, kind: str, mistake: str):
    body, case = _TABLE[kind]["file"], _TABLE[kind]["mistakes"][mistake]
    old = case["instead of"] if case["instead of"] != "all" else body
    assert body.count(old) == 1
    file = tmp_path / "some.yaml"
    file.write_text(body.replace(old, case["stands"]))
    with pytest.raises(InvalidInput) as caught:
        _LOAD[kind](file)
    first, *lines = str(caught.value).split("\n  ")
    start = f"Recipe {file}" if kind == "recipe" else f"{kind.capitalize()} file {file}"
    assert ([line.removeprefix(f"{file}:") for line in lines] or [first.removeprefix(f"{start}:")]) == case["told"]
    assert not lines or first == f"{start} has {len(lines)} faults:"


@pytest.mark.parametrize("kind", _LOAD)
def test_the_same_file_without_the_mistake_is_read(tmp_path: Path, kind: str):
    assert len(_TABLE[kind]["mistakes"]) >= 15
    file = tmp_path / "some.yaml"
    file.write_text(_TABLE[kind]["file"])
    _LOAD[kind](file)
