import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.errors import InvalidInput
from headrace.prep.split import is_heldout
from headrace.prep.text_keys import text_key
from headrace.prep.wordnet import NUM_GLOSSES, Gloss, app, installed_database, parse_gloss, read_glosses, write_corpus

DEMO = Path(__file__).parents[2] / "resources/corpus.yaml"


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "wordnet"
    assert write_corpus(out, num_shards=8, heldout_share=0.02)
    return out


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


LINES = {
    "examples follow the definition": (
        '02870092 06 n 02 book 0 volume 1 001 @ 0 n 0 | pages bound together; "a large book"; "read a book"  ',
        Gloss(term="book", category="noun", gloss="pages bound together", examples=("a large book", "read a book")),
    ),
    "a definition of several parts, a word of several words": (
        "00001 03 n 01 living_thing 0 000 | a living entity; or once living  ",
        Gloss(term="living thing", category="noun", gloss="a living entity; or once living", examples=()),
    ),
    "an adjective's place is no part of it": (
        '00013887 00 s 02 galore(ip) 0 rife 0 000 | in great numbers; "roses galore"',
        Gloss(term="galore", category="noun", gloss="in great numbers", examples=("roses galore",)),
    ),
    "a quotation inside the definition stays there": (
        '00002 03 n 01 aye 0 000 | an affirmative; "the \\"ayes\\" have it"'.replace("\\", ""),
        Gloss(term="aye", category="noun", gloss="an affirmative", examples=("the ",)),
    ),
}


@pytest.mark.parametrize("phrase", LINES)
def test_a_line_of_the_database_is_a_term_a_definition_and_examples(phrase: str) -> None:
    line, gloss = LINES[phrase]

    assert parse_gloss(line, "noun") == gloss


def test_the_corpus_holds_every_gloss_once_in_shards_of_much_the_same_size(written: Path) -> None:
    shards = [rows(written / f"shard-{index:02d}.jsonl") for index in range(8)]

    assert sum(map(len, shards)) == NUM_GLOSSES == 117_659
    assert all(0.94 < len(shard) / (NUM_GLOSSES / 8) < 1.06 for shard in shards)
    categories = Counter(row["category"] for shard in shards for row in shard)
    assert categories == {"noun": 82_115, "verb": 13_767, "adjective": 18_156, "adverb": 3_621}
    assert all(row["term"] and row["gloss"] for shard in shards for row in shard)


def test_copies_of_a_gloss_are_in_one_shard(written: Path) -> None:
    shards_of: dict[str, set[int]] = {}
    for index in range(8):
        for row in rows(written / f"shard-{index:02d}.jsonl"):
            shards_of.setdefault(text_key(str(row["gloss"])), set()).add(index)

    assert all(len(shards) == 1 for shards in shards_of.values())


def test_prompts_are_the_held_out_terms_each_once(written: Path) -> None:
    prompts = [(row["term"], row["category"]) for row in rows(written / "prompts.jsonl")]

    assert len(prompts) == len(set(prompts)) > 1_000
    assert all(is_heldout(str(term), 0.02) for term, _ in prompts)
    expected = {
        (gloss.term, gloss.category) for gloss in read_glosses(installed_database()) if is_heldout(gloss.term, 0.02)
    }
    assert set(prompts) == expected


def make_database(directory: Path) -> Path:
    """Four glosses, one of each kind of word."""
    directory.mkdir()
    for suffix in ("noun", "verb", "adj", "adv"):
        (directory / f"data.{suffix}").write_text("  licence\n0001 03 n 01 weir 0 000 | a low dam\n")
    (directory / "LICENSE").write_text("do as you like")
    return directory


def test_writing_again_changes_nothing_unless_shards_or_share_change(tmp_path: Path) -> None:
    out = tmp_path / "glosses"
    database = make_database(tmp_path / "database")

    def write(num_shards: int, heldout_share: float) -> bool:
        return write_corpus(out, num_shards=num_shards, heldout_share=heldout_share, database=database, num_glosses=4)

    def files() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in out.iterdir()}

    assert write(2, 0.02)
    first = files()
    assert not write(2, 0.02)
    assert files() == first
    assert write(2, 0.1)
    assert write(1, 0.1)
    assert sorted(files()) == ["LICENSE", "complete.json", "prompts.jsonl", "shard-00.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["database", "glosses"]


@pytest.mark.process
def test_a_killed_writer_leaves_nothing_that_looks_like_a_corpus(tmp_path: Path) -> None:
    out = tmp_path / "glosses"
    database = make_database(tmp_path / "database")
    script = """
import os, pathlib, sys, headrace.prep.wordnet as wordnet
# Killed between the shards and the stamp: the last moment at which anything is missing.
wordnet.shutil.copyfile = lambda *_: os.kill(os.getpid(), 9)
out, database = map(pathlib.Path, sys.argv[1:])
wordnet.write_corpus(out, num_shards=2, heldout_share=0.02, database=database, num_glosses=4)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(out), str(database)], check=False)

    assert killed.returncode == -9
    assert not out.exists()
    assert write_corpus(out, num_shards=2, heldout_share=0.02, database=database, num_glosses=4)


def test_the_command_takes_shards_and_share_from_a_corpus_file(written: Path) -> None:
    result = CliRunner().invoke(app, ["--out", str(written), "--corpus", str(DEMO)])

    assert result.exit_code == 0, result.output
    assert "117,659 glosses in 8 shards, already there" in result.output


def test_a_database_of_another_size_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    database = make_database(tmp_path / "database")

    with pytest.raises(InvalidInput, match="has 4 glosses, wanted 117,659"):
        write_corpus(tmp_path / "out", num_shards=1, heldout_share=0.02, database=database)

    assert [path.name for path in tmp_path.iterdir()] == ["database"]
