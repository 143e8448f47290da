"""A corpus whose shards are compared with each other, prepared through its jobs and its automation."""

from pathlib import Path
from typing import Any

import pytest

from tests.definitions.corpus_process import told_by

SHARDS = ["shard-00", "shard-01", "shard-02"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("compared")
    return told_by("compared_corpus", home, tiny_model, {"num_shards": 3, "near_duplicates": None})


def terms(*numbers: range) -> list[str]:
    return [f"term {number}" for some in numbers for number in some]


# Twenty documents of each shard stand in the one before, too: equally long, so the first by file is kept.
KEPT = {"shard-00": terms(range(60)), "shard-01": terms(range(60, 100)), "shard-02": terms(range(100, 140))}


def test_copies_are_looked_for_once_all_shards_are_read(told: dict[str, Any]) -> None:
    assert told["prepared"] == []
    assert "duplicates" not in told["with two of three shards"]
    [message] = told["without the third"]
    assert "has no sealed handoff of labels[shard-02]. Materialize labels, partitions shard-02" in message
    assert told["with all shards"] == {"duplicates": [None]}
    assert told["with duplicates"] == {"clean_documents": SHARDS}


def test_a_small_corpus_is_compared_by_one_run_and_needs_no_signatures(told: dict[str, Any]) -> None:
    assert told["empty signatures"] == [0, 0, 0]
    assert told["duplicates found"] == told["cleaned"] == []
    assert told["in one run"] == KEPT


def test_many_runs_find_the_same(told: dict[str, Any]) -> None:
    assert told["buckets filled"] == told["found by many runs"] == []
    assert told["in many runs"] == KEPT
    # Of the same rows: nothing that follows from them is made again.
    assert told["version by many runs"] == 1


def test_a_changed_shard_asks_for_its_copies_and_then_for_what_follows_from_them(told: dict[str, Any]) -> None:
    assert told["after a change"] == {"duplicates": [None]}
    [message] = told["too early"]
    assert "duplicates[all] v1 was not made of the newest raw_documents[shard-01], v2" in message
    assert told["after its duplicates"] == {"clean_documents": SHARDS}
    assert told["after the change"] == KEPT | {
        "shard-01": terms(range(60, 70)),
        "shard-02": terms(range(80, 140)),
    }
    # The first shard's copies are as they were.
    assert told["versions"] == {"shard-00": 1, "shard-01": 2, "shard-02": 2}
