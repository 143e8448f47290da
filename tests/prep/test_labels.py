from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.errors import InvalidInput
from headrace.handoff.schemas import check_schema
from headrace.prep.agreement import cohens_kappa
from headrace.prep.corpus import Corpus
from headrace.prep.label_settings import LabelFile, LabelJudge, Labels
from headrace.prep.labels import Labelled, agreement, effective_labels, label_shard, parse_answer
from tests.prep.builders import make_corpus, make_raw

FILE = LabelFile(path="labels/{shard}.csv", source="editors")
JUDGE = LabelJudge(
    question='Is this a definition of "{term}": {text}?', answers=("good", "bad"), model="m", base_url="http://x/v1"
)
RAW = make_raw("a low dam in a river", "a channel of a mill", "one", "a stone that grinds")


class Answering:
    """A judge that answers by rote, and remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self._answers = answers
        self.questions: list[str] = []

    def answer(self, questions: Sequence[str]) -> list[str]:
        self.questions += questions
        return list(self._answers[: len(questions)])


def label(home: Path, corpus: Corpus, judge: Answering | None = None) -> Labelled:
    return label_shard(corpus, "shard-00", RAW, "v000007", home, judge)


def write_labels(home: Path, body: str) -> Corpus:
    (home / "labels").mkdir()
    (home / "labels/shard-00.csv").write_text(body)
    return make_corpus(labels=Labels(file=FILE))


def test_without_a_source_there_are_no_labels(tmp_path: Path) -> None:
    labelled = label(tmp_path, make_corpus())

    check_schema("labels", labelled.labels)
    assert labelled.labels.num_rows == 0


def test_a_file_labels_the_documents_of_its_shard_and_no_others(tmp_path: Path) -> None:
    corpus = write_labels(tmp_path, "document_id,label\nd1,good\nd4,bad\nelsewhere,bad\n")

    assert label(tmp_path, corpus).labels.to_pylist() == [
        {"document_id": "d1", "label": "good", "source": "editors", "judged_at_version": "v000007"},
        {"document_id": "d4", "label": "bad", "source": "editors", "judged_at_version": "v000007"},
    ]


@pytest.mark.parametrize("body", ["", "document_id,label\n"])
def test_a_label_file_without_rows_has_no_labels_and_a_missing_one_is_an_error(body: str, tmp_path: Path) -> None:
    corpus = write_labels(tmp_path, body)

    assert label(tmp_path, corpus).labels.num_rows == 0
    (tmp_path / "labels/shard-00.csv").unlink()
    with pytest.raises(InvalidInput, match="does not exist.*headrace labels import makes it"):
        label(tmp_path, corpus)


def test_a_label_file_of_a_spreadsheet_is_read_in_its_encoding(tmp_path: Path) -> None:
    corpus = write_labels(tmp_path, "")
    (tmp_path / "labels/shard-00.csv").write_bytes("document_id;label\nd1;gut für alle\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="line 2: wrong encoding, wanted utf-8"):
        label(tmp_path, corpus)
    file = replace(FILE, encoding=("utf-8", "latin-1"), delimiter=";")
    assert label(tmp_path, make_corpus(labels=Labels(file=file))).labels.column("label").to_pylist() == ["gut für alle"]


def test_a_label_file_as_ever_keeps_its_corpus_as_it_was() -> None:
    """The digest is in the code version of what is sealed: another one would make every document again."""
    as_ever = make_corpus(labels=Labels(file=FILE))
    assert as_ever.digest == "cf3a939918c056a9103d0c0660d4cb7e5c187d3286959bec5d94a7a81318c7ab"
    assert make_corpus(labels=Labels(file=replace(FILE, delimiter=";"))).digest != as_ever.digest


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("document_id,label\nd1,good\nd1,bad\n", r"line 3: document d1 is 'bad' here and 'good' further up"),
        ("document_id,label\nd1,good,x\n", r"line 2: 3 fields where the header has 2.*no label is skipped"),
        ("document_id,label\nd1,\n", r"line 2: document_id and label must be strings, got 'd1' and None"),
        ("id,label\nd1,good\n", r"line 0: missing column 'document_id'"),
    ],
)
def test_a_label_file_is_read_whole_or_refused_with_the_line(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        label(tmp_path, write_labels(tmp_path, body))


def test_a_missing_label_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"labels/shard-00\.csv does not exist"):
        label(tmp_path, make_corpus(labels=Labels(file=FILE)))


def test_a_judge_is_asked_about_the_documents_that_the_rules_keep(tmp_path: Path) -> None:
    judge = Answering("Good.", "no idea", "**bad**, because")

    labelled = label(tmp_path, make_corpus(labels=Labels(judge=JUDGE)), judge)

    assert judge.questions[0] == 'Is this a definition of "term 1": a low dam in a river?'
    assert len(judge.questions) == 3
    found = {row["document_id"]: row["label"] for row in labelled.labels.to_pylist()}
    assert found == {"d1": "good", "d4": "bad"}
    assert (labelled.num_judged, labelled.num_unanswered) == (3, 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("good", "good"),
        ('  "Good", since it is', "good"),
        ("Very good indeed", "very good"),
        ("goodness", None),
        ("It is good", None),
        ("", None),
    ],
)
def test_an_answer_counts_if_it_begins_with_one_of_the_allowed(answer: str, expected: str | None) -> None:
    assert parse_answer(answer, ("good", "very good", "bad")) == expected


def test_people_overrule_the_judge(tmp_path: Path) -> None:
    corpus = write_labels(tmp_path, "document_id,label\nd1,bad\n")
    corpus = make_corpus(labels=Labels(file=FILE, judge=JUDGE))

    labelled = label(tmp_path, corpus, Answering("good", "good", "bad"))

    assert effective_labels(labelled.labels, corpus) == {"d1": "bad", "d2": "good", "d4": "bad"}
    found = agreement([labelled.labels], "editors", "judge")
    assert (found.num_both, found.equal_share) == (1, 0.0)


@pytest.mark.parametrize(
    ("yes_yes", "yes_no", "no_yes", "no_no", "kappa"),
    [(20, 5, 10, 15, 0.4), (45, 15, 25, 15, 0.1304), (0, 5, 5, 0, -1)],
)
def test_kappa_is_the_agreement_beyond_chance(yes_yes: int, yes_no: int, no_yes: int, no_no: int, kappa: float) -> None:
    pairs = [("yes", "yes")] * yes_yes + [("yes", "no")] * yes_no + [("no", "yes")] * no_yes + [("no", "no")] * no_no

    assert cohens_kappa(pairs) == pytest.approx(kappa, abs=1e-4)


def test_kappa_of_one_label_alone_is_full_agreement_and_of_nothing_is_none() -> None:
    assert cohens_kappa([("good", "good")] * 5) == 1.0
    assert cohens_kappa([]) == 0.0
