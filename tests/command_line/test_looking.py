"""ls and show: what there is, what it holds, who holds it."""

import json
import re
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from headrace.command_line.handoff.showing import preview
from headrace.command_line.opening import Reference
from headrace.command_line.output import age_text, aligned, bytes_text, cells
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.command_line.builders import publish, run


def words(line: str) -> list[str]:
    return line.split()


def test_ls_shows_assets_then_partitions_then_versions(store: Path) -> None:
    assets = run("handoff", "ls", store=store).stdout.splitlines()
    assert [words(line)[:3] for line in assets[1:]] == [["labels", "1", "1"], ["raw_documents", "2", "4"]]
    partitions = run("handoff", "ls", "raw_documents", store=store).stdout.splitlines()
    assert [words(line)[:3] for line in partitions[1:]] == [["shard-00", "v3", "102"], ["shard-01", "v1", "10"]]
    versions = run("handoff", "ls", "raw_documents", "--partition", "shard-00", store=store).stdout.splitlines()
    assert [words(line)[2:4] for line in versions[1:]] == [["v1", "100"], ["v2", "101"], ["v3", "102"]]


def test_a_version_says_which_process_holds_it(store: Path) -> None:
    import os

    handoff = HandoffStore(LocalStore(store)).open("labels", "all")
    handoff.hold()
    listed = json.loads(run("handoff", "ls", "labels", "--json", store=store).stdout)["versions"]
    assert [holder["pid"] for holder in listed[0]["held_by"]] == [os.getpid()]
    assert f"pid {os.getpid()}" in run("handoff", "ls", "labels", store=store).stdout


def test_ls_goes_on_after_a_damaged_manifest(store: Path) -> None:
    (store / "handoff/raw_documents/shard-00/v000002/manifest.json").write_text("{}")
    result = run("handoff", "ls", "--versions", store=store)
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if "manifest damaged" in line and " v2 " in line]
    assert " v3 " in result.stdout


def test_an_empty_store_is_said_to_be_empty(tmp_path: Path) -> None:
    result = run("handoff", "ls", store=tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No handoff is sealed" in result.stderr


def test_the_fields_of_ls_json_stay(store: Path) -> None:
    body = json.loads(run("handoff", "ls", "--json", store=store).stdout)
    assert set(body) == {"store", "versions"}
    assert set(body["versions"][0]) >= {
        *("asset", "partition", "version", "damaged", "num_rows", "num_bytes", "num_parts"),
        *("content_digest", "created_at", "age_seconds", "held_by"),
    }
    assert len(body["versions"]) == 5


def test_show_says_what_a_version_holds_and_was_made_from(store: Path) -> None:
    shown = run("handoff", "show", "raw_documents", "shard-00", "--rows", "2", store=store).stdout
    assert "raw_documents[shard-00] v3" in shown
    for part in (
        "102",
        "run-1",
        "MB/s",
        "attribute language  en",
        "corpus[all]  v1       aaaaaaaaaaaa",
        "list<item: string>",
    ):
        assert part in shown
    assert "doc-00001" in shown
    assert "doc-00002" not in shown


def test_show_tells_attributes_line_by_line_and_no_json(tmp_path: Path) -> None:
    figures = {
        "num_rows_in": dg.MetadataValue.int(12),
        "rules": dg.MetadataValue.md("|rule|dropped|\n|-|-:|\n|too_short|3|"),
        "shards": dg.MetadataValue.json({"shard-00": [1, 2], "none": {}}),
    }
    attributes = {"metadata": dg.serialize_value(figures), "sources": '{"writer":"models/m"}', "odd": "{not json"}
    publish(tmp_path, "clean_documents", "shard-00", pa.table({"a": [1]}), attributes=attributes)

    shown = run("handoff", "show", "clean_documents", "shard-00", store=tmp_path).stdout

    facts = [line.split(maxsplit=2) for line in shown.splitlines() if re.match("attribute| {20}", line)]
    assert facts == [
        ["attribute", "metadata.num_rows_in", "12"],
        ["attribute", "metadata.rules", "|rule|dropped|"],
        ["|too_short|3|"],
        ["attribute", "metadata.shards.none", "{}"],
        ["attribute", "metadata.shards.shard-00.0", "1"],
        ["attribute", "metadata.shards.shard-00.1", "2"],
        ["attribute", "odd", "{not json"],
        ["attribute", "sources.writer", "models/m"],
    ]


def test_show_as_json_has_the_rows_asked_for(store: Path) -> None:
    body = json.loads(
        run(
            "handoff", "show", "raw_documents[shard-00]@v1", "-n", "2", "--columns", "score,text", "--json", store=store
        ).stdout
    )
    assert (body["version"], body["num_rows"], body["input_versions"]) == (1, 100, {"corpus[all]": f"v1 {'a' * 64}"})
    assert body["rows"] == [{"score": 0.0, "text": "text 0"}, {"score": 1 / 3, "text": "text 1"}]


def test_the_store_may_come_from_the_option_the_variable_or_the_home(store: Path, tmp_path: Path) -> None:
    named = [
        run("handoff", "ls", "--store", store),
        run("--store", store, "handoff", "ls"),
        run("handoff", "ls", "--store", store.as_uri(), store=tmp_path / "other"),
        run("handoff", "ls", env={"HEADRACE_HOME": str(tmp_path)}),
    ]
    # Without the last column, an age.
    shown = {tuple(line.rsplit("KB", 1)[0] for line in result.stdout.splitlines()[1:]) for result in named}
    assert len(shown) == 1
    assert "raw_documents" in str(shown)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_preview_of_a_wide_table_fits_the_terminal(width: int, tmp_path: Path) -> None:
    rows = pa.table({f"column_{index}": [f"value {index} " * 9, "語" * 30, "a\x1b[31m\nb"] for index in range(40)})
    handoff = publish(tmp_path / "store", "wide", "all", rows)
    lines = preview(handoff, handoff.schema.names, 3, width)
    assert max(map(cells, lines)) <= width
    assert "\x1b" not in "".join(lines)
    assert len(lines) == 5
    assert "more column" in lines[-1]


def test_a_preview_on_a_terminal_leaves_a_documents_text_the_most_room(tmp_path: Path) -> None:
    columns = {f"column_{index}": ["value " * 20] for index in range(20)}
    handoff = publish(tmp_path / "store", "wide", "all", pa.table({**columns, "text": ["a text of many words " * 20]}))
    heading, row, more = preview(handoff, handoff.schema.names, 1, 120)
    text = row[heading.index("text") :]
    assert (cells(row), len(text) > 12, text.startswith("a text of many words")) == (120, True, True)
    assert "text" not in more


def test_a_preview_reads_only_the_columns_that_it_shows(tmp_path: Path) -> None:
    rows = pa.table({f"column_{index:02d}": ["x" * 200] * 4 for index in range(40)})
    handoff = publish(tmp_path / "store", "wide", "all", rows).with_verification("lazy")
    part = handoff.manifest.parts[0]
    path = handoff.objects.local_path(part.key)
    body = bytearray(path.read_bytes())
    body[part.segments_of([39])[-2].offset + 20] ^= 1  # the last segment is the footer
    path.unlink()
    path.write_bytes(body)
    assert preview(handoff, handoff.schema.names, 3, 60)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["a"], Reference(asset="a")),
        (["a", "p", "7"], Reference(asset="a", partition="p", version=7)),
        (["a", "p", "newest"], Reference(asset="a", partition="p")),
        (["a[p]@v7"], Reference(asset="a", partition="p", version=7)),
        (["a[2026-11-22|x-03]", "v000007"], Reference(asset="a", partition="2026-11-22|x-03", version=7)),
        (["a@3", "p"], Reference(asset="a", partition="p", version=3)),
        (["a[b[c]]"], Reference(asset="a", partition="b[c]")),
        (["group/a"], Reference(asset="group/a")),
    ],
)
def test_a_reference_is_words_or_one_word(typed: list[str], meant: Reference) -> None:
    assert Reference.parse(typed) == meant


def test_an_asset_that_looks_like_a_reference_is_itself() -> None:
    assert Reference.parse(["a@v7"], assets=["a@v7"]) == Reference(asset="a@v7")


def test_figures_are_short() -> None:
    assert [bytes_text(each) for each in (0, 999, 1000, 12_345, 999_950, 10**9, 5 * 10**13)] == [
        *("0 B", "999 B", "1.0 KB", "12.3 KB", "1.0 MB", "1.0 GB", "50.0 TB")
    ]
    assert [age_text(each) for each in (-3, 59, 119, 121, 7200, 86400 * 3)] == [
        "0 s",
        "59 s",
        "119 s",
        "2 min",
        "2 h",
        "3 d",
    ]


def test_one_long_text_moves_the_rest_of_its_own_line_alone() -> None:
    lines = aligned([["PROMPT", "REVIEW"], ["x" * 200, "kept"], ["y", "kept"]])
    assert lines == [f"PROMPT{' ' * 74}  REVIEW", f"{'x' * 200}  kept", f"y{' ' * 79}  kept"]
