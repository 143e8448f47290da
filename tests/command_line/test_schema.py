"""The JSON Schemas of users' files: kept as printed, right about our own files, and as strict as the readers."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.command_line.bodies.kinds import KINDS
from headrace.engines.registry import engine_names
from headrace.errors import InvalidInput
from headrace.generation.campaign import Campaign
from headrace.prep.corpus import Corpus
from headrace.serving.service import Service
from headrace.training.recipe import Recipe
from headrace.user_files.shapes import from_mapping
from headrace.user_files.yaml_file import read_yaml
from tests.command_line.builders import CHECKOUT, run

_KEPT = CHECKOUT / "docs/schemas"
_KINDS = {"campaign": Campaign, "recipe": Recipe, "corpus": Corpus, "service": Service}
_OURS = sorted(
    [*(CHECKOUT / "resources").glob("*/*.yaml"), *(CHECKOUT / "resources").glob("*.yaml")], key=lambda path: path.name
)
_TABLE = yaml.safe_load((CHECKOUT / "tests/mistaken_files/whole_reports.yaml").read_text())
# What a schema sees. Numbers out of range aside: JSON has no NaN, and takes 3.0 for a whole number.
_SEEN = re.compile(
    r"unknown key|lacks the key '\w+'\.|must be (a (?!day)|true|one of|null|at|between)\b(?!.*(±| got \d+\.0\.))"
)


def kept(kind: str) -> dict[str, Any]:
    return json.loads((_KEPT / f"{kind}.schema.json").read_text())


_SCHEMAS = {kind: kept(kind) for kind in _KINDS}
_BODIES = {kind: yaml.safe_load(_TABLE[kind]["file"]) for kind in _KINDS}


def content(directory: Path, text: str) -> Any:
    file = directory / "some.yaml"
    file.write_text(text)
    return read_yaml(file, "Some file").content


@pytest.mark.parametrize("kind", [*_KINDS, *KINDS])
def test_the_kept_schema_is_what_the_command_prints(kind: str) -> None:
    printed = run("schema", kind).stdout
    renew = "`make schemas` renews it, where no other package's engine is installed"
    assert (_KEPT / f"{kind}.schema.json").read_text() == printed, renew
    jsonschema.Draft202012Validator.check_schema(json.loads(printed))


@pytest.mark.parametrize("file", _OURS, ids=lambda path: path.name)
def test_our_own_files_name_their_schema_and_keep_to_it(file: Path) -> None:
    [named] = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", file.read_text().splitlines()[0])
    schema = (file.parent / named).resolve()
    assert schema.parent == _KEPT
    jsonschema.validate(read_yaml(file, "Our file").content, json.loads(schema.read_text()))


@pytest.mark.parametrize("kind", _KINDS)
def test_a_schema_refuses_the_unknown_keys_and_wrong_types_that_the_reader_refuses(tmp_path: Path, kind: str) -> None:
    body, validator = _TABLE[kind]["file"], jsonschema.Draft202012Validator(_SCHEMAS[kind])
    assert validator.is_valid(content(tmp_path, body))
    refused = {
        mistake: validator.is_valid(content(tmp_path, body.replace(case["instead of"], case["stands"])))
        for mistake, case in _TABLE[kind]["mistakes"].items()
        if any(map(_SEEN.search, case["told"])) and case["instead of"] != "all"
    }
    assert len(refused) >= 10
    assert [mistake for mistake, is_valid in refused.items() if is_valid] == []


_VALUES = st.sampled_from(
    [
        *(None, True, 0, 1, -1, 7, 0.5, 3.0, float("nan"), 2**70, "", "x", "echo", "1"),
        *([], ["x"], [0.5, {"weight": 1}], {}, {"x": "y"}, {"x": 1}),
        *({"name": "echo"}, {"name": "openai_http", "dtype": "float32"}, {"min_rows": 20}),
    ]
)


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, part in parts for place in [(*above, key), *places(part, (*above, key))]]


@pytest.mark.parametrize("kind", _KINDS)
@given(data=st.data())
def test_an_editor_underlines_nothing_that_the_reader_takes(kind: str, data: st.DataObject) -> None:
    content = copy.deepcopy(_BODIES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        known = [(key,) for key in _SCHEMAS[kind]["properties"]]
        *above, key = data.draw(st.sampled_from([*known, *places(content)]))
        part = content
        for step in above:
            part = part[step]
        if data.draw(st.booleans()) or not isinstance(part, dict) or key not in part:
            part[key] = copy.deepcopy(data.draw(_VALUES))
        else:
            del part[key]
    try:
        from_mapping(_KINDS[kind], content, "It")
    except InvalidInput:
        return
    jsonschema.validate(content, _SCHEMAS[kind])


def test_an_engine_has_the_options_of_its_name_alone() -> None:
    branches = {one["title"]: one for one in kept("campaign")["$defs"]["EngineSettings"]["anyOf"]}
    assert sorted(branches) == engine_names()
    assert all(one["properties"]["name"]["const"] == name for name, one in branches.items())
    assert branches["transformers"].get("required", []) == [], "it is the engine of a file that names none"
    assert branches["echo"]["required"] == ["name"]


def test_a_description_is_the_text_below_the_field_in_the_class_that_has_it_first() -> None:
    gate = kept("service")["$defs"]["LiveGateSettings"]["properties"]
    assert gate["min_rows"]["description"].startswith("How many rows or units the candidate must make")
    assert (gate["min_rows"]["default"], gate["method"]["default"]) == (100, "confidence_sequence")
    echo = kept("campaign")["$defs"]["EngineSettings"]["anyOf"][2]["properties"]
    assert "\n" not in echo["special_tokens"]["description"]
