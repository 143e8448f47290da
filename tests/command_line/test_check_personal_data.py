"""`headrace check` shows nobody's personal data, whatever a corpus does with it."""

import json

import pytest

from tests.command_line.checked_project import CORPUS, Project, said


@pytest.fixture
def project(checked_project: Project) -> Project:
    return checked_project


def test_the_example_of_a_corpus_has_placeholders_for_personal_data(project: Project) -> None:
    project.write(".env", f"HEADRACE_BASE_MODEL={project.root}/none\n")
    notes = next(project.root.rglob("notes.jsonl"))
    notes.write_text('{"title": "note 0", "body": "Ask jane@example.com."}\n')
    project.corpus.write_text(CORPUS + "personal_data: {email: mask}\n")

    assert project.one(project.corpus)["example"] == "user: Explain note 0.\nassistant: Ask <EMAIL>."


def test_a_record_that_cannot_be_read_is_shown_with_placeholders_behind_escapes_and_in_its_reason_too(
    project: Project,
) -> None:
    notes = next(project.root.rglob("notes.jsonl"))
    notes.write_text('{"title": "Customer\\n4111111111111111\\n+49 30 901820", "body": 5}\n')
    project.corpus.write_text(CORPUS + "personal_data: {card: drop}\n")
    sentence = said(project.one(project.corpus), "records", "fail")
    assert "Customer\\\\n<CARD>\\\\n<PHONE>" in sentence

    asked, answered = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}
    lines = [{"messages": [asked, answered]}, {"messages": [asked, {"role": "jane@example.com", "content": "I."}]}]
    notes.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    project.corpus.write_text(
        "name: notes\nfiles: [in/notes.jsonl]\ncolumns: {messages: messages}\nexample: conversation\n"
        "quarantine_share_max: 0.5\n"
        "personal_data: {email: drop, phone: keep, card: keep, iban: keep, ip: keep, secret: keep}\n"
    )
    sentence = said(project.one(project.corpus), "records", "warn")
    assert "has the role '<EMAIL>'" in sentence


def test_a_conversation_that_is_dropped_for_personal_data_is_no_example_and_is_not_counted(project: Project) -> None:
    project.write(".env", f"HEADRACE_BASE_MODEL={project.root}/none\n")
    notes = next(project.root.rglob("notes.jsonl"))
    answered = {"role": "assistant", "content": "I."}
    asked = [
        [{"role": "system", "content": "You are jane@example.com."}, {"role": "user", "content": "Who?"}, answered]
    ]
    asked += [[{"role": "user", "content": "What?"}, answered]]
    body = (
        "name: notes\nfiles: [in/notes.jsonl]\ncolumns: {messages: messages}\nexample: conversation\n"
        "personal_data: {email: drop, phone: keep, card: keep, iban: keep, ip: keep, secret: keep}\n"
    )
    notes.write_text("".join(f"{json.dumps({'messages': turns})}\n" for turns in asked))
    project.corpus.write_text(body)
    checked = project.one(project.corpus)
    assert checked["example"] == "user: What?\nassistant: I."
    assert said(checked, "personal", "ok") == "personal_data: 1 of the first 2 documents hold what the corpus drops."

    notes.write_text(f"{json.dumps({'messages': asked[0]})}\n")
    checked = project.one(project.corpus)
    assert checked["example"] is None
    assert "1 of the first 1 document hold" in said(checked, "personal", "warn")
