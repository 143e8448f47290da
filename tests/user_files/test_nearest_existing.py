"""A pattern that matches nothing is told with how far it exists, and with the most similar name there."""

from pathlib import Path

import pytest

from headrace.user_files.finding import nearest_existing


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for path in ("corpus/wordnet/shard-00.jsonl", "corpus/wordnet/shard-01.jsonl", "corpus/readme.md", "many/x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / ".git").mkdir()
    for number in range(20):
        (tmp_path / "many" / f"{number}").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (
            "corpus/wordnet/shard-1.jsonl",
            "In {home}/corpus/wordnet there is no shard-1.jsonl; the nearest name there is ",
        ),
        ("corpus/wordnte/*.jsonl", "In {home}/corpus there is no wordnte; the nearest name there is wordnet."),
        (
            "corpus/wordnet/*.csv",
            "In {home}/corpus/wordnet there is no *.csv; there is shard-00.jsonl, shard-01.jsonl.",
        ),
        ("corpus/readme.md/x", "{home}/corpus/readme.md is no directory that can be read."),
        ("corpus/wordnet", "{home}/corpus/wordnet is a directory; name the files in it, such as "),
        ("many/*.txt", "In {home}/many there is no *.txt; there is 0, 1, 10, 11, 12, 13, 14, 15 …."),
        ("zebra", "In {home} there is no zebra; there is corpus, many."),
        ("corpus/a\0b", "In {home}/corpus there is no a\0b; there is readme.md, wordnet."),
    ],
)
def test_the_sentence_says_what_is_there_instead(home: Path, pattern: str, told: str) -> None:
    assert nearest_existing(pattern, home).startswith(told.format(home=home))


def test_an_absolute_pattern_starts_at_the_root(home: Path) -> None:
    assert nearest_existing(f"{home}/korpus/*.jsonl", Path("/nowhere")) == (
        f"In {home} there is no korpus; the nearest name there is corpus."
    )
