"""YAML files in every shape."""

import os
from pathlib import Path

import pytest

from headrace.errors import InvalidInput
from headrace.generation.campaign import load_campaign
from headrace.placement.discovery_file import read_fleet_file
from headrace.prep.corpus import load_corpus
from headrace.serving.service import load_service
from headrace.training.recipe import load_recipe
from headrace.user_files.yaml_file import read_yaml

_MULTIPLIED = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
_MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 10)
)

_REFUSED: dict[str, tuple[bytes, str]] = {
    "a day that no month has": (b"x: 2026-99-99\n", "month must be in 1..12"),
    "a number that is none": (b"x: !!int foo\n", "invalid literal for int"),
    "an empty number": (b'x: !!int ""\n', "index out of range"),
    "a truth that is none": (b"x: !!bool foo\n", "'foo'"),
    "a time that is none": (b"x: !!timestamp foo\n", "groupdict"),
    "a number of 6,000 digits": (b"x: " + b"9" * 6000, "4300 digits"),
    "lists in lists": (b"[" * 5000, "nested too deeply"),
    "a Python object": (b"!!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    "a key that stands twice": (b"a: 1\nb: 2\na: 3\n", "the key 'a' stands twice, at line 1 and at line 3"),
    "a key that stands twice, further in": (b"a: {b: 1, b: 2}\n", "the key 'b' stands twice, at line 1 and at line 1"),
    "one key in two spellings": (b"a: {1: x, '1': y}\n", "the key '1' stands twice"),
    "anchors that multiply": (_MULTIPLIED.encode(), "its anchors multiply to more than 1,000,000 values at line 6"),
    "anchors that are merged": (_MERGED.encode(), "its anchors multiply to more than 1,000,000 values"),
    "an anchor inside itself": (b"a: &a\n  b: [*a]\n", "an anchor stands inside itself at line "),
    "half a character": (b'a: "\\ud800"\n', "half of a surrogate pair, which is no character, at line 1"),
    "another encoding": ("name: é\n".encode("latin-1"), "codec can't decode"),
    "UTF-16": ("name: é\n".encode("utf-16"), "codec can't decode"),
    "a NUL": (b"a: b\0\n", "special characters are not allowed"),
    "two documents": (b"a: 1\n---\na: 2\n", "expected a single document"),
    "more than a person writes": (b"# long\n" * 700_000, "it has more than 4,194,304 bytes"),
}


@pytest.mark.parametrize("phrase", _REFUSED)
def test_a_file_that_says_nothing_is_refused_in_one_sentence(tmp_path: Path, phrase: str):
    body, reason = _REFUSED[phrase]
    file = tmp_path / "some.yaml"
    file.write_bytes(body)
    with pytest.raises(InvalidInput) as caught:
        read_yaml(file, "Corpus file")
    text = str(caught.value)
    assert text.startswith(f"Corpus file {file} is not readable as YAML: ")
    assert reason in text
    assert "\n" not in text


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(InvalidInput, match=rf"^Corpus file {tmp_path}/none\.yaml does not exist\.$") as caught:
        read_yaml(tmp_path / "none.yaml", "Corpus file")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path):
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(InvalidInput, match="it is no file"):
            read_yaml(path, "Corpus file")


def test_anchors_merges_and_byte_order_marks_are_read_as_yaml_means_them(tmp_path: Path):
    file = tmp_path / "some.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: &a {x: 1, y: 2}\r\nb: {<<: *a, y: 3}\r\nc: [*a, *a]\r\n")
    assert read_yaml(file, "Corpus file") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": [{"x": 1, "y": 2}, {"x": 1, "y": 2}],
    }


@pytest.mark.parametrize("load", [load_campaign, load_corpus, read_fleet_file, load_recipe, load_service])
def test_every_kind_of_file_is_read_by_the_one_reader(tmp_path: Path, load):
    file = tmp_path / "some.yaml"
    file.write_bytes(b"name: one\nname: two\n")
    with pytest.raises(InvalidInput, match="the key 'name' stands twice, at line 1 and at line 2"):
        load(file)
