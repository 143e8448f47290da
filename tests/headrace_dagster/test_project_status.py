"""`headrace status`: a project's days, rollouts and runs, from a real store and a real instance."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import Result

from headrace.generation.day_status import NUM_KEPT
from headrace.generation.review import review_rows
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, WHY_TAG
from headrace_dagster.launchers.signs_of_life import SILENT_TAG
from headrace_dagster.project.run_source import RunState
from headrace_dagster.project.services import locked, running_webserver
from headrace_dagster.project.status import _phase, _silent_seconds
from headrace_dagster.queue_views.queue_view import FIVE_LINES
from tests.answering import answering
from tests.command_line.builders import checked_json, run
from tests.generation.builders import Site, make_partition, make_site
from tests.headrace_dagster.queue_builders import NOW, make_run


class Project:
    """One day of a campaign: three partitions listed, two made, one reviewed; a run waits and one failed."""

    def __init__(self, root: Path) -> None:
        self.store, self.home = root / "store", root / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(FIVE_LINES + "\ntelemetry: {enabled: false}\n")
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        first = make_site(self.store)
        made = first.generate()
        review = review_rows(made.content.table(), first.campaign.review)
        first.handoffs.publish(
            "reviewed_content",
            first.partition.key,
            review.table,
            code_version="1",
            run_id="r",
            input_versions={f"generated_content[{first.partition.key}]": f"v1 {made.content.content_digest}"},
            attributes={NUM_KEPT: str(review.num_kept)},
        )
        for shard in (1, 2):
            site = Site(self.store, partition=make_partition(shard))
            site.put_prompts()
            if shard == 1:
                site.generate()
        self.num_rows = 2 * made.content.num_rows

    def add(self, beginning: str, status: str, partition: str, **tags: str) -> None:
        tags = {"dagster/partition": partition, **tags}
        stated = make_run(beginning, job_name="generate", status=dg.DagsterRunStatus(status), tags=tags)
        self.instance.run_storage.add_run(stated)

    def call(self, *arguments: str, home: Path | None = None) -> Result:
        env = {"DAGSTER_HOME": str(self.home), "HEADRACE_HOME": str(home or self.home)}
        return run("status", *arguments, store=self.store, env=env)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("project"))
    project.add("aaaa0000", "QUEUED", make_partition(2).key, **{WHY_TAG: "In line."})
    project.add("bbbb0000", "FAILURE", make_partition(3).key)
    # Failed, and made by a later run: nobody has to act.
    project.add("cccc0000", "FAILURE", make_partition(0).key)
    project.add("dddd0000", "SUCCESS", make_partition(0).key)
    yield project
    project.instance.dispose()


def test_each_day_is_told_stage_by_stage(project: Project) -> None:
    [day] = checked_json(project.call("--json"), "status")["days"]

    assert (day["num_partitions"], day["num_prompts"]) == (3, 3)
    assert (day["num_generated_content"], day["num_reviewed_content"]) == (2, 1)
    assert (day["num_rows"], day["num_damaged"]) == (project.num_rows, 0)
    assert len(day["version_sets"]) == 1


def test_runs_that_wait_and_failures_that_nobody_mended_are_told(project: Project) -> None:
    body = checked_json(project.call("--json"), "status")

    assert [run["run_id"][:8] for run in body["waiting"]] == ["aaaa0000"]
    assert [run["run_id"][:8] for run in body["failed"]] == ["bbbb0000"]
    assert list(body["rollouts"]) == ["glossary"]


def test_people_read_a_table_what_waits_and_what_to_do(project: Project) -> None:
    lines = project.call().output.splitlines()

    assert lines[0].split()[:5] == ["CAMPAIGN", "DAY", "PROMPTS", "GENERATED", "REVIEWED"]
    assert lines[1].split()[:5] == ["glossary", make_partition().day, "3/3", "2/3", "1/3"]
    assert "0 runs under way, 1 waiting" in lines
    assert "No daemon has ever looked at the queue, and nothing starts without one: headrace run CAMPAIGN" in str(lines)
    assert f"aaaa0000  generate[{make_partition(2).key}]: waiting. In line." in lines
    assert lines[-2:] == [
        "Mend what the reason says, then make the partitions again:",
        f"  headrace run glossary --day {make_partition().day}",
    ]


def test_a_campaign_is_told_alone_by_its_name_or_its_file(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.dg]\ndirectory_type = 'project'\n")
    text = "prompts: {files: in.jsonl}\nmodel: echo\nversion: '1'\nregistered: false\nengine: {name: echo}\n"
    file = tmp_path / "resources/campaigns/tales.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"name: tales\n{text}")

    def body(word: str | Path) -> dict[str, Any]:
        found = checked_json(project.call(str(word), "--json"), "status")
        return {name: value for name, value in found.items() if name != "at"}

    everything = checked_json(project.call("--json"), "status")
    assert body("glossary") == {name: value for name, value in everything.items() if name != "at"}
    for word in ("tales", file):
        assert not any(body(word)[name] for name in ("days", "rollouts", "running", "num_waiting", "waiting", "failed"))
    assert project.call("tales").stdout.startswith("tales has no prompts yet: headrace run tales makes its rows.")
    refused = project.call("tale")
    assert (refused.exit_code, "did you mean 'tales'?" in refused.stderr) == (2, True)


def test_what_is_not_current_any_more_is_told_with_the_command_that_makes_it_again(project: Project) -> None:
    changed = Site(project.store, partition=make_partition(1))
    changed.put_prompts(["Define the noun wordy."])
    try:
        output = project.call().output
    finally:
        changed.put_prompts()
    told = "generated_content: 1 partition made from prompts that have changed since. Run: headrace run glossary"
    assert f"glossary {make_partition().day}, {told} --day {make_partition().day}\n" in output


def test_what_answers_in_a_webservers_place_is_passed_over(project: Project, tmp_path: Path) -> None:
    """Whoever has its port now is no Dagster: the instance itself is read."""
    with answering(200, "<html>") as url:
        lock = tmp_path / "services.lock"
        with locked(lock, port=int(url.rpartition(":")[2]), dagster_home=str(project.home)):
            assert running_webserver(tmp_path, dagster_home=str(project.home)) == url
            body = checked_json(project.call("--json", home=tmp_path), "status")
    assert [run["run_id"][:8] for run in body["waiting"]] == ["aaaa0000"]


def test_a_new_project_has_no_store_yet_and_a_named_one_must_be_there(project: Project, tmp_path: Path) -> None:
    env = {"DAGSTER_HOME": str(project.home), "HEADRACE_HOME": str(tmp_path)}
    assert run("status", env=env).stdout.startswith("No campaign has prompts yet: headrace init writes one")
    assert not (tmp_path / "store").exists()
    refused = run("status", store=tmp_path / "nowhere", env=env)
    assert (refused.exit_code, refused.stderr.partition(".")[0]) == (
        2,
        f"Error: There is no store at {tmp_path / 'nowhere'}",
    )


def test_where_a_webserver_is_asked_neither_dagster_nor_arrow_is_imported() -> None:
    script = (
        "import sys\nimport headrace_dagster.project.status_lines\n"
        "print([name for name in ('dagster', 'sqlalchemy', 'pyarrow', 'polars', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_phase_is_told_of_each_status() -> None:
    silent = json.dumps({"run_id": "r", "since": NOW - 60, "what": "worker process 7 sleeps"})
    told = {
        (status, *tags): _phase(RunState(run_id="r", status=status, tags=tags, started=NOW - 120), NOW)
        for status, tags in (
            ("QUEUED", {}),
            ("QUEUED", {GATE_TAG: ADMITTED, WHY_TAG: "Admitted: node-a GPU 0."}),
            ("STARTING", {}),
            ("STARTED", {}),
            ("STARTED", {SILENT_TAG: silent}),
            ("CANCELING", {}),
        )
    }
    assert list(told.values()) == [
        ("waiting", "Has not been looked at yet."),
        ("admitted", "Admitted: node-a GPU 0."),
        ("starting", "Is starting."),
        ("running", "Runs since 14:11 UTC (2 min ago)."),
        ("silent", "Gives no sign of life since 14:12 UTC (60 s ago): worker process 7 sleeps."),
        ("ending", "Is ending."),
    ]


def test_the_daemon_is_silent_after_two_minutes() -> None:
    assert [_silent_seconds(seen, NOW) for seen in (None, NOW - 60, NOW - 121)] == [-1.0, None, 121.0]
