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

_REFUSED: dict[str, tuple[bytes, str, str]] = {
    "a number that is none": (b"x: !!int foo\n", ":1:4", "'foo' is not what its tag '!!int' says"),
    "an empty number": (b'x: !!int ""\n', ":1:4", "'' is not what its tag '!!int' says"),
    "a truth that is none": (b"x: !!bool foo\n", ":1:4", "'foo' is not what its tag '!!bool' says"),
    "a time, which the core schema has not": (b"x: !!timestamp foo\n", ":1:4", "the tag '!!timestamp' has no meaning"),
    "a set, which is a mapping to nothing": (b"x: !!set {a, b}\n", ":1:4", "the tag '!!set' has no meaning here"),
    "a number of 6,000 digits": (b"x: " + b"9" * 6000, ":1:4", "4300 digits"),
    "lists in lists": (b"[" * 5000, "", "nested too deeply"),
    "lists in lists, by their names": (
        b"".join(b"a%d: &a%d [%s]\n" % (one, one, b"*a%d" % (one - 1) if one else b"") for one in range(200)),
        ":101:7",
        "it is nested too deeply",
    ),
    "a Python object": (b"!!python/object/apply:os.system [true]\n", ":1:1", "has no meaning here"),
    "a tab": (b"a:\n\tb: 1\n", ":2:1", "found character '\\t' that cannot start any token; use spaces"),
    "a list as a key": (b"? [a]\n: 1\n", ":1:3", "a key must be a text, not a list or a mapping"),
    "a text that is merged": (b"a: b\n<<: c\n", ":2:5", "<< must name a mapping, or a list of them"),
    "a key that stands twice": (b"a: 1\nb: 2\na: 3\n", ":3:1", "the key 'a' stands twice, at line 1 and at line 3"),
    "a key that stands twice, further in": (
        b"a: {b: 1, b: 2}\n",
        ":1:11",
        "the key 'b' stands twice, at line 1 and at line 1",
    ),
    "one key in two spellings": (b"a: {1: x, '1': y}\n", ":1:11", "the key '1' stands twice"),
    "anchors that multiply": (
        _MULTIPLIED.encode(),
        ":6:5",
        "its anchors multiply to more than 1,000,000 values at line 6",
    ),
    "anchors that are merged": (_MERGED.encode(), ":7:14", "its anchors multiply to more than 1,000,000 values"),
    "an anchor inside itself": (b"a: &a\n  b: [*a]\n", ":1:4", "an anchor stands inside itself at line "),
    "half a character": (b'a: "\\ud800"\n', ":1:4", "half of a surrogate pair, which is no character, at line 1"),
    "another encoding": ("name: é\n".encode("latin-1"), ":1", "byte 0xe9 is no UTF-8; save the file as UTF-8"),
    "UTF-16": ("name: é\n".encode("utf-16"), ":1", "byte 0xff is no UTF-8"),
    "a NUL": (b"a: 1\nb: c\0\n", ":2", "it holds the character U+0000"),
    "two documents": (b"a: 1\n---\na: 2\n", ":2:1", "expected a single document"),
    "more than a person writes": (b"# long\n" * 700_000, "", "it has more than 4,194,304 bytes"),
}


@pytest.mark.parametrize("phrase", _REFUSED)
def test_a_file_that_says_nothing_is_refused_in_one_sentence_with_its_place(tmp_path: Path, phrase: str):
    body, place, reason = _REFUSED[phrase]
    file = tmp_path / "some.yaml"
    file.write_bytes(body)
    with pytest.raises(InvalidInput) as caught:
        read_yaml(file, "Corpus file")
    text = str(caught.value)
    assert text.startswith(f"Corpus file {file}{place} is not readable as YAML: ")
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
    assert read_yaml(file, "Corpus file").content == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": [{"x": 1, "y": 2}, {"x": 1, "y": 2}],
    }


# https://yaml.org/spec/1.2.2/#1032-tag-resolution, row by row, and what YAML 1.1 took for something else.
_SCALARS: dict[str, object] = {
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    "0": 0,
    "-19": -19,
    "+12": 12,
    "0o17": 15,
    "0x3A": 58,
    "3e-4": 0.0003,
    "1e3": 1000.0,
    ".5": 0.5,
    "-0.0": -0.0,
    "5.": 5.0,
    "+12e03": 12000.0,
    "-2E+05": -200000.0,
    ".inf": float("inf"),
    "-.Inf": -float("inf"),
    "+.INF": float("inf"),
    **{
        text: text
        for text in (
            *("nULL", "tRUE", "yes", "no", "on", "off", "y", "N", "Yes", "OFF"),
            *(
                "1:30",
                "190:20:30.15",
                "1_000",
                "0b101",
                "017_",
                "0o8",
                "0xg",
                "-0x1",
                "+0o7",
                "1e",
                "e3",
                ".",
                "+",
                "1.2.3",
            ),
            *("2026-01-01", "2001-12-14t21:59:43.10-05:00", "=", "inf", "nan", "-.nan", "1,5", "١٢"),
        )
    },
}


@pytest.mark.parametrize("text", _SCALARS)
def test_a_plain_word_is_what_the_core_schema_of_yaml_1_2_takes_it_for(tmp_path: Path, text: str):
    file = tmp_path / "some.yaml"
    file.write_text(f"plain: {text}\nquoted: '{text}'\n{text or '~'}: key\n")
    read, quoted, *_ = (content := read_yaml(file, "Corpus file").content).values()
    assert (type(read), str(read)) == (type(_SCALARS[text]), str(_SCALARS[text]))
    assert quoted == text
    assert content[text or "~"] == "key"


def test_what_is_no_number_is_read_as_such(tmp_path: Path):
    file = tmp_path / "some.yaml"
    file.write_text("[.nan, .NaN, .NAN]")
    assert all(isinstance(one, float) and one != one for one in read_yaml(file, "Corpus file").content)


def test_every_value_and_every_key_has_its_place(tmp_path: Path):
    file = tmp_path / "some.yaml"
    file.write_text("a: &a {x: 1}\nb:\n  - c:  two\n    <<: *a\n  - [3, 'é',  4]\n")
    document = read_yaml(file, "Corpus file")
    assert document.content == {"a": {"x": 1}, "b": [{"x": 1, "c": "two"}, [3, "é", 4]]}
    places = {
        ("a",): (1, 4),
        ("a", "x"): (1, 11),
        ("b",): (3, 3),
        ("b", 0, "c"): (3, 9),
        ("b", 0, "x"): (1, 11),  # where it was written
        ("b", 1, 2): (5, 15),
        ("b", 0, "d"): (3, 5),  # of what is not there, the place of what should have it
        ("b", 7): (3, 3),
        (): (1, 1),
    }
    assert {keys: document.place(keys) for keys in places} == places
    assert document.place(("b", 0, "c"), of_key=True) == (3, 5)
    file.write_text("# nothing\n")
    assert read_yaml(file, "Corpus file").place(("a",)) == (1, 1)


@pytest.mark.parametrize("load", [load_campaign, load_corpus, read_fleet_file, load_recipe, load_service])
def test_every_kind_of_file_is_read_by_the_one_reader(tmp_path: Path, load):
    file = tmp_path / "some.yaml"
    file.write_bytes(b"name: one\nname: two\n")
    with pytest.raises(InvalidInput, match="the key 'name' stands twice, at line 1 and at line 2"):
        load(file)


def test_what_is_read_twice_is_the_files_content_at_that_time_and_each_readers_own(tmp_path: Path):
    file = tmp_path / "some.yaml"
    file.write_text("a: [1]\n")
    first = read_yaml(file, "Corpus file")
    first.content["a"].append(2)
    assert read_yaml(file, "Corpus file").content == {"a": [1]}
    file.write_text("a: [3]\n")
    assert read_yaml(file, "Corpus file").content == {"a": [3]}
    file.write_text("a: 1\na: 2\n")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="stands twice"):
            read_yaml(file, "Corpus file")
