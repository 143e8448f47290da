"""Whose newest annotation counts, from files as Label Studio and Argilla export them."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.prep.annotation_exports import Annotation, AnnotationExport, Annotator, read_annotations
from headrace.prep.annotators import Answers, newest_answers


def annotation(label: str | None, who: object = 1, at: object = "2026-01-01T10:00:00.000000Z") -> dict[str, Any]:
    """Of a Label Studio task; without a label it was skipped, with the choice that stood there."""
    result = [{"from_name": "label", "type": "choices", "value": {"choices": [label or "good"]}}]
    return {"id": 5, "completed_by": who, "result": result, "was_cancelled": label is None, "updated_at": at}


def task(*annotations: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"document_id": "a"}, "annotations": list(annotations), **keys}


def row(label: str, at: str, **keys: Any) -> dict[str, Any]:
    """Of JSON-MIN."""
    return {"id": 1, "document_id": "a", "label": label, "annotator": 1, "updated_at": at, **keys}


def record(label: str, user: str | None = "0c1f", status: str = "submitted") -> dict[str, Any]:
    """Of Argilla."""
    return {"id": "a", "responses": {"label": [{"value": label, "user_id": user, "status": status}]}}


# What only one server has: its number of a task, and the instant at which it made it.
OWN = {"project": 3, "created_at": "2026-01-01T09:00:00.123456Z"}
OTHER = {"project": 3, "created_at": "2026-01-01T09:00:00.654321Z"}


@pytest.fixture
def answers(tmp_path: Path) -> Any:
    def read(*files: list[dict[str, Any]], one_server: bool = False) -> Answers:
        exports = []
        for number, entries in enumerate(files):
            (tmp_path / f"{number}.json").write_text(json.dumps(entries))
            exports.append(read_annotations(tmp_path / f"{number}.json", "label"))
        return newest_answers(exports, one_server=one_server)

    return read


def chosen(found: Answers) -> list[str]:
    return sorted(found.labels.get("a", {}).values())


MORNING, NOON = "2026-01-01T08:00:00Z", "2026-01-01T12:00:00Z"

# phrase: files → what people chose of document a.
CASES: dict[str, tuple[list[list[dict[str, Any]]], list[str]]] = {
    "user 1 of three installations is three people": (
        [[task(annotation("good"))], [task(annotation("good"))], [task(annotation("bad"))]],
        ["bad", "good", "good"],
    ),
    "user 1 of two installations that made equal tasks at other instants is two people": (
        [[task(annotation("good"), **OWN)], [task(annotation("bad"), **OTHER)]],
        ["bad", "good"],
    ),
    "the newest of one person in two exports of one project counts": (
        [[task(annotation("good", at=NOON), **OWN)], [task(annotation("bad", at=MORNING), **OWN)]],
        ["good"],
    ),
    "two exports are of one server if a third one shares a task with each": (
        [
            [task(annotation("bad", at=MORNING), **OWN)],
            [task(annotation("good", at=NOON), **OTHER)],
            [task(annotation("bad", 2), **OWN), task(**OTHER)],
        ],
        ["bad", "good"],
    ),
    "the newest row of JSON-MIN counts, if both have an annotation of the same instant": (
        [
            [row("good", NOON, annotation_id=9, created_at=MORNING)],
            [row("bad", MORNING, annotation_id=9, created_at=MORNING)],
        ],
        ["good"],
    ),
    "an e-mail address is one person on two servers": (
        [
            [task(annotation("good", {"id": 3, "email": "kim@example.com"}, NOON), **OWN)],
            [row("bad", MORNING, annotator="kim@example.com")],
        ],
        ["good"],
    ),
    "a number and the object with its address are one person of one server": (
        [
            [task(annotation("bad", {"id": 3, "email": "kim@example.com"}, MORNING), **OWN)],
            [task(annotation("good", 3, NOON), **OWN)],
        ],
        ["good"],
    ),
    "half a second later is newer": (
        [[task(annotation("good", at="2026-01-01T10:00:00.500000Z"), annotation("bad", at="2026-01-01T10:00:00Z"))]],
        ["good"],
    ),
    "times in two zones are compared as instants": (
        [[task(annotation("good", at="2026-01-01T09:00:00Z"), annotation("bad", at="2026-01-01T10:00:00+02:00"))]],
        ["good"],
    ),
    "a time without a zone is UTC": (
        [[task(annotation("good", at="2026-01-01T09:00:00"), annotation("bad", at="2026-01-01T10:00:00+02:00"))]],
        ["good"],
    ),
    "seconds, as old servers write them, are a time": (
        [[task(annotation("good", at=1767261600.5), annotation("bad", at=1767261600))]],
        ["good"],
    ),
    "an annotation that is skipped later withdraws the label": (
        [[task(annotation(None, at=NOON), annotation("bad", at=MORNING))]],
        [],
    ),
    "one that was skipped before does not": (
        [[task(annotation("bad", at=NOON), annotation(None, at=MORNING))]],
        ["bad"],
    ),
    "an Argilla user is one person in all files, and the last file counts": (
        [[record("bad")], [record("good")]],
        ["good"],
    ),
    "a response that is discarded in a later file withdraws the label": (
        [[record("bad")], [record("good", status="discarded")]],
        [],
    ),
    "responses of nobody are one unknown person of their file": (
        [[record("bad", None)], [record("good", None)]],
        ["bad", "good"],
    ),
}


@pytest.mark.parametrize("phrase", CASES)
def test_who_chose_what_last(phrase: str, answers: Any) -> None:
    files, labels = CASES[phrase]

    assert chosen(answers(*files)) == labels


def test_the_caller_may_know_that_all_files_are_of_one_server(answers: Any) -> None:
    files = [[task(annotation("good", at=NOON))], [task(annotation("bad", at=MORNING))]]

    assert (chosen(answers(*files)), len(answers(*files).servers)) == (["bad", "good"], 2)
    one = answers(*files, one_server=True)
    assert (chosen(one), len(one.servers), one.num_unordered) == (["good"], 1, 0)


def test_where_a_number_may_be_a_person_with_an_address_both_files_are_told(answers: Any) -> None:
    named = [task(annotation("good", {"id": 3, "email": "kim@example.com"}))]

    assert [len(files) for files in answers(named, [task(annotation("good", 3))]).servers] == [1, 1]
    assert answers(named, named, [record("good")]).servers == ()


def test_the_same_file_twice_is_one_server(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(json.dumps([task(annotation("good"))]))

    export = read_annotations(path, "label")
    assert newest_answers([export, export]).labels == {"a": {"user 1 of server 0": "good"}}


@pytest.mark.parametrize(
    ("files", "num_unordered"),
    [
        ([[record("bad")], [record("good")]], 1),
        ([[record("good")], [record("good")]], 0),
        ([[task(annotation("bad", at=None), annotation("good"))]], 1),
        ([[task(annotation("bad"), annotation("good"))]], 1),
        ([[task(annotation("bad", at=MORNING), annotation("bad", at=MORNING), annotation("good", at=NOON))]], 0),
    ],
)
def test_answers_that_time_does_not_order_are_counted_and_the_last_one_is_taken(
    files: list[list[dict[str, Any]]], num_unordered: int, answers: Any
) -> None:
    found = answers(*files)

    assert (found.num_unordered, chosen(found)) == (num_unordered, ["good"])


@pytest.mark.parametrize("at", ["yesterday", {"x": 1}, 1e30, float("nan"), "2026-13-01"])
def test_a_time_that_is_none_is_refused(at: object, answers: Any) -> None:
    with pytest.raises(InvalidInput, match=r"0\.json, entry 1: an annotation's time must be one of ISO 8601, got "):
        answers([task(annotation("good", at=at))])


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([1, 2, 3]), st.sampled_from([None, "good", "bad"])),
        max_size=12,
    ),
    st.data(),
)
def test_no_order_of_files_decides_where_times_do(made: list[tuple[str, int, str | None]], data: st.DataObject) -> None:
    wanted: dict[str, dict[str, str | None]] = {}
    annotations = []
    for number, (document_id, who, label) in enumerate(made):
        wanted.setdefault(document_id, {})[f"user {who} of server 0"] = label
        zone = timezone(timedelta(hours=data.draw(st.integers(-12, 12))))
        when = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)).astimezone(zone)
        annotator = Annotator(number=str(who), name=None)
        annotations.append(Annotation(document_id=document_id, label=label, annotator=annotator, made_at=when))
    files = [
        AnnotationExport(path=Path(str(number)), annotations=(one,), marks=frozenset({("project", "1")}))
        for number, one in enumerate(data.draw(st.permutations(annotations)))
    ]

    found = newest_answers(files)

    labels = {document_id: {who: label for who, label in of.items() if label} for document_id, of in wanted.items()}
    assert found.labels == {document_id: of for document_id, of in labels.items() if of}
    assert found.num_unordered == 0
    assert found.num_skipped == sum(label is None for of in wanted.values() for label in of.values())
