from pathlib import Path

import pytest

from headrace.errors import InvalidInput
from headrace.prep.identities import find_repeated_ids
from headrace.prep.label_settings import LabelFile, Labels
from headrace.prep.labels import label_shard
from headrace.prep.sources import read_shard
from tests.prep.builders import gloss, make_corpus, make_raw, write_jsonl

LABELLED = make_corpus(
    columns={"term": "term", "category": "category", "text": "gloss", "document_id": "id"},
    labels=Labels(file=LabelFile(path="labels.csv"), drop=("spam",)),
)


def test_two_files_that_count_from_one_are_refused_before_a_label_decides(tmp_path: Path):
    write_jsonl(tmp_path / "files/a.jsonl", [gloss(1, id=1, gloss="buy now, buy now"), gloss(2, id=2)])
    write_jsonl(tmp_path / "files/b.jsonl", [gloss(3, id=1), gloss(2, id="2")])
    (tmp_path / "labels.csv").write_text("document_id,label\n1,spam\n")
    raw = read_shard(LABELLED, "shard-00", tmp_path).documents
    with pytest.raises(InvalidInput) as refusal:
        label_shard(LABELLED, "shard-00", raw, "v000001", tmp_path, None)
    assert str(refusal.value) == (
        "shard-00 of corpus glosses: 1 document ids stand for more than one document, for example '1' is "
        "files/a.jsonl line 1 and files/b.jsonl line 1. A label of one would decide over the other: make column 'id' "
        "unique over all files, or leave document_id out of columns, which makes ids from the content."
    )


def test_copies_of_a_document_may_share_an_id(tmp_path: Path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"files/{name}.jsonl", [gloss(1, id=1)])
    (tmp_path / "labels.csv").write_text("document_id,label\n1,good\n")
    raw = read_shard(LABELLED, "shard-00", tmp_path).documents
    labels = label_shard(LABELLED, "shard-00", raw, "v000001", tmp_path, None).labels
    assert labels.column("label").to_pylist() == ["good"]


def test_ids_made_from_the_content_never_repeat(tmp_path: Path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"files/{name}.jsonl", [gloss(number) for number in range(20)])
    raw = read_shard(make_corpus(), "shard-00", tmp_path).documents
    assert find_repeated_ids([raw]).num_ids == 0


def test_ids_are_held_against_each_other_over_shards():
    first = make_raw({"document_id": "x", "text": "one"}, {"document_id": "y", "text": "two", "term": None})
    second = make_raw({"document_id": "y", "text": "two", "term": "a"}, {"document_id": "z", "text": "three"})
    found = find_repeated_ids([first, second])
    assert (found.num_documents, found.num_ids) == (4, 1)
    assert found.samples == ("'y' is files/a.jsonl line 2 and files/a.jsonl line 1",)


def test_no_shard_has_no_repeated_ids():
    assert find_repeated_ids([]).num_ids == 0
