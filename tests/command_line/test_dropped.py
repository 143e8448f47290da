"""`headrace dropped` on a project of its own."""

from pathlib import Path

import pytest
from typer.testing import Result

from headrace.handoff.versions import HandoffStore
from headrace.prep.clean_shards import clean_shard
from headrace.prep.corpus import load_corpus
from headrace.store.local import LocalStore
from tests.command_line.builders import checked_json, run
from tests.prep.builders import make_raw

GOOD = "a channel that carries water to a mill wheel"
CORPUS = """\
name: notes
files: [notes/*.jsonl]
num_shards: 3
columns: {term: title, text: body}
prompt: {user: "Explain {term}."}
rules: {set: short}
sequence_length: 64
"""


class Project:
    """Two of three shards are read, one of them is clean."""

    def __init__(self, root: Path, base_model: Path) -> None:
        self.root, self.base_model = root, base_model
        (root / "resources").mkdir(parents=True)
        (root / "pyproject.toml").write_text("[tool.dg]\ndirectory_type = 'project'\n")
        (root / "resources/corpus.yaml").write_text(CORPUS)
        handoffs = HandoffStore(LocalStore(root / ".headrace/store"))
        for shard, texts in (
            ("shard-00", [GOOD, "one", GOOD]),
            ("shard-01", [" ".join(f"word{number}" for number in range(80)), "two"]),
        ):
            handoffs.publish("raw_documents", shard, make_raw(*texts), code_version="1", run_id="r")
        clean = clean_shard(load_corpus(root / "resources/corpus.yaml"), make_raw(GOOD, "one", GOOD), {})
        handoffs.publish("clean_documents", "shard-00", clean.documents, code_version="1", run_id="r")

    def call(self, *arguments: str, base_model: Path | None = None) -> Result:
        env = {"HEADRACE_BASE_MODEL": str(base_model or self.base_model), "HEADRACE_CORPUS": None}
        return run("dropped", *arguments, store=self.root / ".headrace/store", env=env)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Project:
    return Project(tmp_path_factory.mktemp("project"), tiny_model)


@pytest.fixture
def project(made: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(made.root)
    return made


def test_counts_come_first_then_each_document_with_its_line(project: Project) -> None:
    out = project.call().output
    lines = out.splitlines()
    assert lines[:3] == [
        "shard-00: 2 of 3 documents dropped, as clean_documents v1 holds it.",
        "shard-01: 2 of 2 documents dropped, clean_documents is not made yet.",
        "shard-02: raw_documents is not sealed yet.",
    ]
    assert [line.split() for line in lines if line.startswith(("too_few_words", "exact_dup", "overlong"))] == [
        ["too_few_words", "Gopher", "2"], ["exact_duplicate", "ours", "1"], ["overlong", "ours", "1"]
    ]  # fmt: skip
    table = [line.split() for line in lines if line.startswith("shard-0") and "files/a.jsonl:" in line]
    assert table[0] == ["shard-00", "too_few_words", "1", "2", "d2", "files/a.jsonl:2", "one"]
    original = ["d1,", "files/a.jsonl:1"]
    assert table[1][:7] == ["shard-00", "exact_duplicate", *original, "d3", "files/a.jsonl:3", "a"]
    assert (table[2][1], table[2][3:5]) == ("overlong", ["64", "d1"])


def test_a_shard_and_a_rule_choose_and_the_rest_is_said(project: Project) -> None:
    out = project.call("--shard", "shard-00", "--rule", "exact_duplicate").output
    assert "1 document of 1\n" in out
    assert "shard-01" not in out
    assert "2 documents of 4: -n 0 for all\n" in project.call("-n", "2").output


def test_programs_get_every_document(project: Project) -> None:
    body = checked_json(project.call("--json"), "dropped")
    assert [(one["shard"], one["document_id"], one["rule"]) for one in body["documents"]] == [
        ("shard-00", "d2", "too_few_words"),
        ("shard-00", "d3", "exact_duplicate"),
        ("shard-01", "d1", "overlong"),
        ("shard-01", "d2", "too_few_words"),
    ]
    assert [one["is_as_sealed"] for one in body["shards"]] == [True, None]
    assert (body["unread_shards"], body["looked_at_length"]) == (["shard-02"], True)
    assert len(checked_json(project.call("--json", "-n", "1"), "dropped")["documents"]) == 1


def test_without_the_base_model_lengths_are_not_told_and_that_is_said(project: Project, tmp_path: Path) -> None:
    out = project.call(base_model=tmp_path / "none").output
    assert f"What is too long for a sequence is not told: there is no base model {tmp_path}/none." in out
    assert "overlong" not in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shard", "shard-9"], "The corpus has no shard 'shard-9', but shard-00, shard-01, shard-02."),
        (["--rule", "boring"], "The corpus has no rule 'boring', but text_empty, "),
        (["--shard", "shard-02"], "No raw_documents of shard-02 are sealed: materialize raw_documents first."),
    ],
)
def test_a_question_about_what_is_not_there_is_refused(project: Project, arguments: list[str], sentence: str) -> None:
    result = project.call(*arguments)
    assert result.exit_code == 2
    assert sentence in result.output
