"""`headrace labels`: documents go out, and what people chose comes back, on a project of its own."""

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from typer.testing import Result

from headrace.handoff.schemas import LABELS
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.command_line.builders import checked_json, run
from tests.prep.builders import make_raw

CORPUS = """\
name: notes
files: [notes/*.jsonl]
num_shards: 2
columns: {term: title, text: body, document_id: id}
prompt: {user: "Explain {term}."}
rules: {set: none}
personal_data: {email: mask}
labels:
  file: {path: "labels/{shard}.csv", source: people}
  judge: {model: m, base_url: "http://x/v1", question: "Is {text} good?", answers: [good, bad, "so & so"]}
"""


class Project:
    """Six documents in two shards, of which a judge has labelled four."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "resources").mkdir()
        (root / "pyproject.toml").write_text("[tool.dg]\ndirectory_type = 'project'\n")
        (root / "resources/corpus.yaml").write_text(CORPUS)
        self.handoffs = HandoffStore(LocalStore(root / ".headrace/store"))
        self.read("shard-00", *({"document_id": f"a{n}", "text": f"note {n} of jane@example.com"} for n in range(3)))
        self.read("shard-01", *({"document_id": f"b{n}", "category": None, "text": f"text {n} 水"} for n in range(3)))
        self.judge("shard-00", a0="good", a1="bad")
        self.judge("shard-01", b0="good", b1="bad")

    def read(self, shard: str, *documents: dict[str, Any]) -> None:
        self.handoffs.publish("raw_documents", shard, make_raw(*documents), code_version="1", run_id="r")

    def judge(self, shard: str, **labels: str) -> None:
        rows = [
            {"document_id": document_id, "label": label, "source": "judge", "judged_at_version": "v000001"}
            for document_id, label in labels.items()
        ]
        table = pa.Table.from_pylist(rows, schema=LABELS)
        self.handoffs.publish("labels", shard, table, code_version="1", run_id="r")

    def call(self, *arguments: str | Path) -> Result:
        return run("labels", *arguments, store=self.root / ".headrace/store", env={"HEADRACE_CORPUS": None})

    def tasks(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.call("export", self.root / "tasks.json", "--force", *arguments)
        assert result.exit_code == 0, result.output
        return json.loads((self.root / "tasks.json").read_text())

    def write(self, name: str, body: object) -> Path:
        path = self.root / name
        path.write_text(body if isinstance(body, str) else json.dumps(body))
        return path

    def labels(self, shard: str) -> dict[str, str]:
        with (self.root / f".headrace/labels/{shard}.csv").open(newline="") as file:
            return {row["document_id"]: row["label"] for row in csv.DictReader(file)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def studio(document_id: str, *chosen: str, **changes: Any) -> dict[str, Any]:
    """A task as Label Studio exports it, with an annotation by each of several people."""
    annotations = [
        {
            "id": number,
            "completed_by": number,
            "result": [
                {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}, "id": "x"}
            ],
            "was_cancelled": False,
            "created_at": f"2026-11-2{number}T10:00:00.000000Z",
            "updated_at": f"2026-11-2{number}T10:00:00.000000Z",
            **changes,
        }
        for number, label in enumerate(chosen, start=1)
    ]
    return {"id": 7, "data": {"text": "…", "document_id": document_id}, "annotations": annotations, "predictions": []}


def argilla(document_id: str, **chosen: str) -> dict[str, Any]:
    """A record as Argilla's `records.to_json` writes it."""
    responses = {"label": [{"value": label, "user_id": user} for user, label in chosen.items()]} if chosen else {}
    return {
        "id": document_id,
        "fields": {"text": "…"},
        "metadata": {},
        "suggestions": {"label": {"value": "bad", "score": None, "agent": "judge"}},
        "responses": responses,
        "vectors": {},
        "status": "completed" if chosen else "pending",
        "_server_id": "0c",
    }


def test_tasks_for_label_studio_hold_masked_texts_ids_and_the_judges_labels_as_predictions(project: Project) -> None:
    tasks = {task["data"]["document_id"]: task for task in project.tasks("-n", "0")}

    assert sorted(tasks) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert tasks["a0"]["data"] == {
        "text": "note 0 of <EMAIL>",
        "term": "term 1",
        "category": "noun",
        "document_id": "a0",
        "shard": "shard-00",
        "file": "files/a.jsonl",
        "line": 1,
    }
    [prediction] = tasks["a0"]["predictions"]
    assert prediction["model_version"] == "judge"
    assert prediction["result"][0]["value"] == {"choices": ["good"]}
    assert tasks["a2"]["predictions"] == []
    # Label Studio wants a value for each variable of its interface.
    assert tasks["b0"]["data"]["category"] == ""
    config = ElementTree.parse(project.root / "tasks.xml").getroot()
    assert [choice.get("value") for choice in config.iter("Choice")] == ["good", "bad", "so & so"]
    assert {one.get("name") for one in config.iter() if one.get("name")} >= {"label", "text"}


def test_records_for_argilla_have_the_id_fields_metadata_and_a_suggestion(project: Project) -> None:
    records = {record["id"]: record for record in project.tasks("--for", "argilla", "-n", "0")}

    assert records["b1"]["fields"] == {"text": "text 1 水", "term": "term 2"}
    assert records["b1"]["suggestions"] == {"label": {"value": "bad", "score": None, "agent": "judge"}}
    assert records["b1"]["metadata"]["label_judge"] == "bad"
    assert (records["b2"]["suggestions"], records["b2"]["responses"]) == ({}, {})
    assert not (project.root / "tasks.xml").exists()


def test_a_sample_is_the_same_for_a_seed_and_within_the_larger_one(project: Project) -> None:
    def ids(*arguments: str) -> list[str]:
        return [task["data"]["document_id"] for task in project.tasks(*arguments)]

    assert ids("-n", "2") == ids("-n", "4")[:2] == ids("-n", "0")[:2]
    assert {tuple(ids("-n", "3", "--seed", str(seed))) for seed in range(8)} != {tuple(ids("-n", "3"))}


def test_documents_that_cleaning_drops_are_left_out_and_counted_but_for_those_that_a_label_drops(
    project: Project,
) -> None:
    file = project.root / "resources/corpus.yaml"
    file.write_text(file.read_text().replace("labels:\n", "labels:\n  drop: [bad]\n"))
    text = "a note with words enough to be compared with another note of the very same words, one by one"
    project.read(
        "shard-00",
        {"document_id": "a0", "text": text},
        {"document_id": "a1", "text": "judged to be bad"},
        {"document_id": "a2", "text": "  "},
        {"document_id": "a3", "text": "short"},
    )
    project.read(
        "shard-01",
        {"document_id": "b0", "text": f"{text}, longer"},
        {"document_id": "a3", "text": "short"},
        {"document_id": "b2", "text": "short"},
    )

    result = project.call("export", project.root / "tasks.json", "-n", "0")

    tasks = json.loads((project.root / "tasks.json").read_text())
    assert sorted(task["data"]["document_id"] for task in tasks) == ["a1", "a3", "b0"]
    assert "3 documents of 3 to label." in result.output
    assert (
        "Left out, as cleaning drops them: 3 documents (exact_duplicate 1, near_duplicate 1, text_empty 1); "
        "--include-dropped offers them." in result.output
    )
    everything = project.tasks("-n", "0", "--include-dropped")
    assert sorted(task["data"]["document_id"] for task in everything) == ["a0", "a1", "a2", "a3", "b0", "b2"]


def test_what_people_have_labelled_is_not_asked_again_but_for_where_the_judge_disagrees(project: Project) -> None:
    (project.root / ".headrace/labels").mkdir(parents=True)
    (project.root / ".headrace/labels/shard-00.csv").write_text("document_id,label\na0,bad\na1,bad\n")

    assert {task["data"]["document_id"] for task in project.tasks()} == {"a2", "b0", "b1", "b2"}
    [task] = project.tasks("--only", "disagreed")
    assert task["data"]["document_id"] == "a0"
    assert [one["model_version"] for one in task["predictions"]] == ["judge", "people"]


def test_the_majority_of_several_people_is_written_to_the_shards_files_and_once(project: Project) -> None:
    export = [studio("a0", "good", "good", "bad"), studio("b1", "bad"), studio("b2", "good", was_cancelled=True)]
    file = project.write("export.json", export)

    dry = project.call("import", file, "--dry-run")
    assert "would be added" in dry.output
    assert not (project.root / ".headrace/labels").exists()

    result = project.call("import", file)
    assert (result.exit_code, project.labels("shard-00"), project.labels("shard-01")) == (
        0,
        {"a0": "good"},
        {"b1": "bad"},
    )
    assert "4 annotations by 3 people of 2 documents; Krippendorff's alpha is" in result.output

    before = (project.root / ".headrace/labels/shard-00.csv").stat().st_mtime_ns
    again = checked_json(project.call("import", file, "--json"), "labels-import")
    assert (again["num_unchanged"], again["num_skipped"], again["files"]) == (2, 1, [])
    assert (project.root / ".headrace/labels/shard-00.csv").stat().st_mtime_ns == before


def test_json_min_and_argillas_records_come_back_as_lists_or_lines(project: Project) -> None:
    row = {"id": 1, "document_id": "a0", "text": "…", "label": "good", "annotator": 4, "annotation_id": 9}
    two = {**row, "document_id": "a1", "label": {"choices": ["bad"]}, "updated_at": "2026-11-29"}
    lines = "\n".join(
        json.dumps(one) for one in (argilla("b0", u1="so & so"), argilla("b1", u1="bad", u2="bad"), argilla("b2"))
    )

    result = project.call("import", project.write("min.json", [row, two]), project.write("records.jsonl", lines + "\n"))

    assert result.exit_code == 0, result.output
    assert project.labels("shard-00") == {"a0": "good", "a1": "bad"}
    assert project.labels("shard-01") == {"b0": "so & so", "b1": "bad"}


def test_a_question_that_nobody_answered_may_be_null(project: Project) -> None:
    records = [{**argilla("a0"), "responses": {"label": None}}, argilla("a1", u1="bad")]

    assert project.call("import", project.write("records.json", records)).exit_code == 0
    assert project.labels("shard-00") == {"a1": "bad"}


def test_of_one_persons_annotations_the_newest_counts(project: Project) -> None:
    task = studio("a0", "good", "bad")
    for annotation in task["annotations"]:
        annotation["completed_by"] = {"id": 3, "email": "kim@example.com"}

    assert project.call("import", project.write("e.json", [task])).exit_code == 0
    assert project.labels("shard-00") == {"a0": "bad"}


def test_user_1_of_three_label_studios_is_three_people_and_the_output_tells_it(project: Project) -> None:
    files = [project.write(f"{label}.json", [studio("a0", label)]) for label in ("good", "bad")]
    third = project.write("third.json", [studio("a0", "good")])

    result = project.call("import", *files, third)

    assert (result.exit_code, project.labels("shard-00")) == (0, {"a0": "good"})
    told = " ".join(result.output.split())
    assert "3 annotations by 3 people of 1 document" in told
    assert f"A user's number is another person in each of {files[0]}; {files[1]}; {third}. --one-server:" in told
    as_one = checked_json(project.call("import", *files, third, "--one-server", "--dry-run", "--json"), "labels-import")
    assert (as_one["num_annotators"], as_one["num_unordered"], len(as_one["servers"])) == (1, 1, 1)


def test_a_file_with_nothing_but_what_was_skipped_is_one_without_labels(project: Project) -> None:
    discarded = argilla("a1", u1="good")
    discarded["responses"]["label"][0]["status"] = "discarded"
    files = [
        project.write("a.json", [studio("a0", "good")]),
        project.write("b.json", [discarded]),
        project.write("c.json", [studio("a2", "bad", was_cancelled=True)]),
    ]

    body = checked_json(project.call("import", *files, "--json"), "labels-import")

    assert (body["num_skipped"], body["num_annotations"], project.labels("shard-00")) == (2, 1, {"a0": "good"})


def test_a_draw_and_another_label_in_the_file_are_told_and_left_as_they_are(project: Project) -> None:
    (project.root / ".headrace/labels").mkdir(parents=True)
    path = project.root / ".headrace/labels/shard-00.csv"
    path.write_text("who;document_id;label\nme;a1;good\n")
    file = project.write("e.json", [studio("a0", "good", "bad"), studio("a1", "bad"), studio("a2", "bad")])

    result = project.call("import", file)

    assert result.exit_code == 1
    assert "bad 1, good 1" in result.output or "good 1, bad 1" in result.output
    assert path.read_text() == "who;document_id;label\nme;a1;good\n;a2;bad\n"
    replaced = checked_json(project.call("import", file, "--replace", "--json"), "labels-import", exit_code=1)
    assert (replaced["files"][0]["num_replaced"], len(replaced["undecided"])) == (1, 1)
    assert path.read_text() == "who;document_id;label\nme;a1;bad\n;a2;bad\n"


def test_a_document_of_two_shards_is_one_task_and_its_label_goes_into_both_files(project: Project) -> None:
    for shard in ("shard-00", "shard-01"):
        project.read(shard, {"document_id": "c", "text": "copy"}, {"document_id": shard, "text": f"of {shard}"})
    assert sorted(task["data"]["document_id"] for task in project.tasks()) == ["c", "shard-00", "shard-01"]

    file = project.write("e.json", [studio("c", "bad")])
    body = checked_json(project.call("import", file, "--json"), "labels-import")

    assert [one["num_added"] for one in body["files"]] == [1, 1]
    assert project.labels("shard-00") == project.labels("shard-01") == {"c": "bad"}
    assert checked_json(project.call("import", file, "--json"), "labels-import")["files"] == []
    assert "c" not in {task["data"]["document_id"] for task in project.tasks()}


def test_a_shard_that_nobody_labelled_gets_a_file_without_rows(project: Project) -> None:
    assert project.call("import", project.write("e.json", [studio("a0", "good")])).exit_code == 0

    assert (project.labels("shard-00"), project.labels("shard-01")) == ({"a0": "good"}, {})


def test_a_file_of_json_lines_keeps_its_lines(project: Project) -> None:
    text = (project.root / "resources/corpus.yaml").read_text().replace("{shard}.csv", "all.jsonl")
    (project.root / "resources/corpus.yaml").write_text(text)
    path = project.root / ".headrace/labels/all.jsonl"
    path.parent.mkdir()
    path.write_text('{"document_id":"a1","label":"good","by":"me"}\n{"document_id": "b0", "label": "bad"}\n')

    assert (
        project.call(
            "import", project.write("e.json", [studio("a1", "bad"), studio("b2", "good")]), "--replace"
        ).exit_code
        == 0
    )
    assert path.read_text().splitlines() == [
        '{"document_id":"a1","label":"bad","by":"me"}',
        '{"document_id": "b0", "label": "bad"}',
        '{"document_id": "b2", "label": "good"}',
    ]


REFUSALS: dict[str, tuple[object, str]] = {
    "an unknown document": (
        [studio("a0", "good"), studio("zz", "good")],
        "1 of 2 annotated documents are not in corpus notes, got 'zz': nothing is imported.",
    ),
    "a label of nobody": ([studio("a0", "Good")], "labels.judge.answers does not list, got 'Good' 1 times"),
    "another question": (
        [
            {
                **studio("a0", "good"),
                "annotations": [{"result": [{"from_name": "taste", "value": {"choices": ["good"]}}]}],
            }
        ],
        "has no answers to the question 'label', but to 'taste': name the one that labels documents with --question.",
    ),
    "two choices at once": (
        [{"document_id": "a0", "label": {"choices": ["good", "bad"]}, "annotator": 1}],
        "entry 1: an answer must be one label, got ['good', 'bad']: let the tool take one choice.",
    ),
    "tasks of another project": (
        [{"data": {"text": "x"}, "annotations": []}],
        "entry 1 has no document_id, which headrace labels export gives each task, got None",
    ),
    "tasks before anybody worked on them": (
        [{"data": {"document_id": "a0"}, "predictions": []}],
        "entry 1 is no task with annotations, no row of JSON-MIN and no record with responses, got the keys 'data'",
    ),
    "responses that are no list": (
        [{"id": "a0", "responses": {"label": {"value": "good"}}}],
        "entry 1: the responses to 'label' must be a list, got {'value': 'good'}.",
    ),
    "no JSON": ("label,document_id\n", "e.json is neither a JSON list nor JSON Lines"),
    "a list of names": (["a0"], "entry 1 must be an object, got 'a0'."),
}


@pytest.mark.parametrize("phrase", REFUSALS)
def test_what_cannot_be_imported_is_refused_whole_in_a_sentence(phrase: str, project: Project) -> None:
    body, sentence = REFUSALS[phrase]

    result = project.call("import", project.write("e.json", body))

    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())
    assert not (project.root / ".headrace/labels").exists()


def test_unknown_documents_may_be_left_out(project: Project) -> None:
    file = project.write("e.json", [studio("a0", "good"), studio("zz", "good")])

    body = checked_json(project.call("import", file, "--known-only", "--json"), "labels-import")

    assert (body["num_unknown"], body["num_documents"]) == (1, 1)
    assert project.labels("shard-00") == {"a0": "good"}
