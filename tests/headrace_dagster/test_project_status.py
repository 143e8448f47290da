"""`headrace status`: a project's days, rollouts and runs, from a real store and a real instance."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import Result

from headrace.generation.day_status import NUM_KEPT
from headrace.generation.review import review_rows
from headrace_dagster.queue_views.queue_view import FIVE_LINES
from tests.command_line.builders import checked_json, run
from tests.generation.builders import Site, make_partition, make_site
from tests.headrace_dagster.queue_builders import make_run


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

    def add(self, beginning: str, status: str, partition: str) -> None:
        tags = {"dagster/partition": partition}
        stated = make_run(beginning, job_name="generate", status=dg.DagsterRunStatus(status), tags=tags)
        self.instance.run_storage.add_run(stated)

    def call(self, *arguments: str) -> Result:
        env = {"DAGSTER_HOME": str(self.home), "HEADRACE_GPUS": "4xH100:81559"}
        return run("status", *arguments, store=self.store, env=env)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("project"))
    project.add("aaaa0000", "QUEUED", make_partition(2).key)
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


def test_people_read_a_table_and_what_to_do(project: Project) -> None:
    lines = project.call().output.splitlines()

    assert lines[0].split()[:5] == ["CAMPAIGN", "DAY", "PROMPTS", "GENERATED", "REVIEWED"]
    assert lines[1].split()[:5] == ["glossary", make_partition().day, "3/3", "2/3", "1/3"]
    assert any("Mend what the reason says" in line for line in lines)
