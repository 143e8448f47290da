"""Every mistake is answered in a sentence that says what to do, with exit code 2 and without a traceback."""

from pathlib import Path

import pytest

from tests.command_line.builders import run

MISTAKES = {
    "a misspelled asset": ("handoff show raw_documnets", "Did you mean raw_documents?"),
    "an asset that is like none": ("handoff show zzz", "There are: labels, raw_documents."),
    "a misspelled partition": ("handoff show raw_documents shard-0", "Did you mean shard-01 or shard-00?"),
    "no partition, where there are two": (
        "handoff show raw_documents",
        "2 partitions, so say which: shard-00, shard-01",
    ),
    "a version that is none": ("handoff show raw_documents shard-00 third", "such as 7 or v7, or newest, got 'third'"),
    "a version that is not there": ("handoff show raw_documents shard-00 v9", "versions there: v1, v2, v3"),
    "a version twice": ("handoff show raw_documents[shard-00]@v1 v2", "'v2' is one word too many"),
    "a misspelled column": ("handoff show raw_documents shard-00 --columns txt", "no column 'txt'. Did you mean text?"),
    "columns without a name": ("handoff show raw_documents shard-00 --columns ,", "--columns must be names"),
    "a misspelled key": ("handoff diff raw_documents shard-00 v1 v2 --key documentid", "Did you mean document_id?"),
    "one version to compare": ("handoff diff raw_documents", "as ASSET PARTITION V1 V2"),
    "a partition without its asset": ("handoff ls --partition shard-00", "needs the asset: headrace handoff ls ASSET"),
    "nowhere to export to": ("handoff export raw_documents", "ASSET [PARTITION [VERSION]] TARGET"),
    "an export without a format": ("handoff export labels all {tmp}/x", "--format is needed"),
    "an unknown format": (
        "handoff export labels all {tmp}/x.csv -f xlsx",
        "must be one of parquet, csv, jsonl, arrow, folder",
    ),
    "media of what is none": ("handoff export labels all {tmp}/x -f folder", "holds no media"),
    "lists in CSV": ("handoff export labels all {tmp}/x.csv", "Column examples of labels[all] v1 has type list"),
    "keeping nothing": ("gc --keep 0 --dry-run --without-dagster", "--keep must be at least 1"),
    "a grace time before now": ("gc --grace -1 --dry-run --without-dagster", "--grace is hours, 0 or more, got -1"),
    "a grace time that is no number": (
        "gc --grace nan --dry-run --without-dagster",
        "--grace is hours, 0 or more, got nan",
    ),
    "deleting unasked": ("gc --without-dagster", "pass --yes, or --dry-run"),
    "a store that is not there": (
        "handoff ls --store {tmp}/nowhere",
        "There is no store at {tmp}/nowhere. Pass --store",
    ),
    "a store whose name no file can have": ("handoff ls --store file:///x%00y", "must be text in UTF-8 without NUL"),
    "a store of another kind": ("handoff ls --store ftp://x/y", "must be s3://BUCKET/PREFIX, file:///DIRECTORY"),
    "a misspelled command": ("handoff shw", "Did you mean 'show'?"),
    "a misspelled option": ("handoff ls --version", "--versions"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_sentence(mistake: str, store: Path, tmp_path: Path) -> None:
    typed, wanted = (text.replace("{tmp}", str(tmp_path)) for text in MISTAKES[mistake])
    result = run(*typed.split(), store=store)
    assert wanted in result.stderr
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


def test_a_damaged_manifest_is_a_sentence_too(store: Path) -> None:
    (store / "handoff/labels/all/v000001/manifest.json").write_text("{")
    result = run("handoff", "show", "labels", store=store)
    assert result.exit_code == 2
    assert "is damaged" in result.stderr
    assert "Materialize the partition again" in result.stderr


@pytest.mark.parametrize("command", ["", "handoff", "handoff ls", "handoff show", "handoff export", "gc", "doctor"])
def test_every_command_has_help(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage: headrace" in result.stdout
    assert "headrace " in result.stdout.split("Options:")[1] or command in {"handoff"}
