from pathlib import Path

from headrace.prep.label_identity import find_unknown_labels
from headrace.prep.label_settings import LabelFile, Labels
from tests.prep.builders import make_corpus

IDS = {"shard-00": ["a", "b"], "shard-01": ["c"]}


def test_a_row_of_one_file_may_belong_to_any_shard(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("document_id,label\na,x\nc,x\nd,x\n")
    found = find_unknown_labels(make_corpus(labels=Labels(file=LabelFile(path="all.csv"))), tmp_path, IDS)

    assert (found.num_labels, found.num_unknown, found.samples) == (3, 1, ("d",))
    assert "1 of 3 labels in files are of no document, for example 'd'" in found.told(0)
    assert found.told(2).endswith("2 shards are not read yet, and may have them.")


def test_a_row_of_a_shards_own_file_must_be_of_that_shard(tmp_path: Path) -> None:
    for shard in IDS:
        (tmp_path / f"{shard}.csv").write_text("document_id,label\nc,x\n")
    found = find_unknown_labels(make_corpus(labels=Labels(file=LabelFile(path="{shard}.csv"))), tmp_path, IDS)

    assert (found.num_labels, found.num_unknown) == (2, 1)


def test_without_a_label_file_none_is_unknown(tmp_path: Path) -> None:
    assert find_unknown_labels(make_corpus(), tmp_path, IDS).num_unknown == 0
