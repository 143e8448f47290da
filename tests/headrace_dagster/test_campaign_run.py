"""`headrace run` above Dagster: what is missing is launched, what changes meanwhile is made again, and who goes is
followed by who comes.
"""

import contextlib
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.command_line.project import Project
from headrace.generation.campaign import PromptSource
from headrace.generation.review import review_rows
from headrace.registry.model_versions import to_table
from headrace.settings import Settings, settings_of
from headrace_dagster.project import campaign_run, running
from headrace_dagster.project.campaign_run import CampaignRun, CampaignRunFailed
from headrace_dagster.project.services import locked, running_webserver
from headrace_dagster.project.webserver import Webserver
from simulation.campaign_site import make_campaign
from simulation.models import model_of
from tests.command_line.builders import run
from tests.generation.builders import DAY, Site
from tests.headrace_dagster.dagster_stand_in import StandIn, serving

ALL = ["list_prompts", "generate", "review", "report"]


class Work:
    """One shard of a campaign with a prompt file of its own; `make` does what a run of each job does."""

    def __init__(self, root: Path) -> None:
        self.home, self.prompts = root, root / "prompts.jsonl"
        self.write(3)
        campaign = make_campaign(num_shards=1, prompts=PromptSource(files=str(self.prompts)))
        self.site = Site(root / "store", campaign=campaign)
        self.site.initialize()
        self.site.handoffs.publish(
            "registered_version", "tiny.r", to_table([model_of("tiny", 1)]), code_version="1", run_id="r"
        )
        self.num_reviews = 0
        self.before_review: Callable[[], object] = lambda: None

    def write(self, num_prompts: int) -> None:
        self.prompts.write_text("\n".join(json.dumps({"text": f"Define word {n}."}) for n in range(num_prompts)))

    def make(self, job: str, partition: str) -> None:
        site = self.site
        if job == "list_prompts":
            site.draw_prompts(self.home)
        elif job == "generate":
            site.generate(site.open_claim(f"run-{len(site.handoffs.versions('generated_content', partition))}"))
        elif job == "review":
            self.before_review()
            content = site.handoffs.open("generated_content", partition)
            site.handoffs.publish(
                "reviewed_content",
                partition,
                review_rows(content.table(), site.campaign.review).table,
                code_version="1",
                run_id="r",
                input_versions={f"generated_content[{partition}]": f"v{content.version} {content.content_digest}"},
            )
        else:
            self.report.write_text(f"{job}[{partition}]")

    @property
    def report(self) -> Path:
        return self.home / f"{DAY}.html"

    def run(self) -> CampaignRun:
        return CampaignRun(
            campaign=self.site.campaign,
            handoffs=self.site.handoffs,
            home=self.home,
            day=DAY,
            report=self.report,
            token="this call",
        )


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setattr(campaign_run, "_POLL_SECONDS", 0.0)
    return Work(tmp_path)


def walk(work: CampaignRun, stand_in: StandIn) -> None:
    with serving(stand_in) as port:
        webserver = Webserver(f"http://127.0.0.1:{port}", "headrace")
        for _ in work.walk(webserver):
            pass
        webserver.close()


def test_each_step_is_launched_after_the_one_before_it_and_a_second_call_launches_nothing(work: Work) -> None:
    first, second = StandIn(work.make), StandIn(work.make)
    walk(work.run(), first)
    assert first.launched == ALL
    assert work.run().missing() == []
    walk(work.run(), second)
    assert second.launched == []


def test_a_report_that_is_older_than_the_rows_is_made_again(work: Work) -> None:
    walk(work.run(), StandIn(work.make))

    sealed = work.site.clock.now()
    os.utime(work.report, (sealed - 60, sealed - 60))
    again = StandIn(work.make)
    walk(work.run(), again)
    assert again.launched == ["report"]


def test_a_step_whose_prompts_change_under_it_is_made_again_in_the_same_call(work: Work) -> None:
    def change() -> None:
        work.before_review = lambda: None
        work.write(5)
        work.site.draw_prompts(work.home)

    work.before_review = change
    stand_in = StandIn(work.make)
    walk(work.run(), stand_in)

    assert stand_in.launched == ["list_prompts", "generate", "review", "generate", "review", "report"]
    assert work.site.handoffs.open("reviewed_content", work.site.partition.key).num_rows == 5


def test_a_step_that_never_follows_from_its_prompts_is_given_up_after_three_tries(work: Work) -> None:
    def change() -> None:
        work.num_reviews += 1
        work.write(3 + work.num_reviews)
        work.site.draw_prompts(work.home)

    work.before_review = change
    stand_in = StandIn(work.make)
    key = work.site.partition.key
    with pytest.raises(CampaignRunFailed) as refused:
        walk(work.run(), stand_in)
    assert str(refused.value) == (
        f"generated_content[{key}] was made 3 times (last in run run-5), and still does not follow from what it is "
        "made of: somebody changes its prompts or its version set meanwhile. Call again when that is over."
    )
    assert stand_in.launched.count("generate") == 3


def settings_at(home: Path) -> tuple[Project, Settings]:
    environment = {"HEADRACE_HOME": str(home), "DAGSTER_HOME": str(home)}
    return Project(root=home, environment=environment), settings_of(environment, home)


def test_a_call_whose_services_end_goes_on_with_those_that_come(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock names the first webserver until that goes, without an answer; then the second."""
    project, settings = settings_at(work.home)
    monkeypatch.setattr(Project, "location", "headrace")
    with ExitStack() as first_lock, ExitStack() as rest:
        second = StandIn(work.make)
        second_port = rest.enter_context(serving(second))

        def goes() -> bool:
            if first.launched != ["list_prompts"]:
                return False
            # As where the other call is stopped: its lock is free, and somebody else's services start.
            first_lock.close()
            rest.enter_context(locked(work.home / "services.lock", port=second_port))
            return True

        first = StandIn(work.make, goes)
        first_port = rest.enter_context(serving(first))
        first_lock.enter_context(locked(work.home / "services.lock", port=first_port))
        running._make(work.run(), project, settings, None, quiet=True)

    assert (first.launched, second.launched) == (["list_prompts"], ["generate", "review", "report"])


def test_a_lock_that_nobody_holds_names_no_webserver(tmp_path: Path) -> None:
    with serving(StandIn(lambda *_: None)) as port:
        with locked(tmp_path / "services.lock", port=port):
            assert running_webserver(tmp_path) == f"http://127.0.0.1:{port}"
        assert (tmp_path / "services.lock").read_text().split()[1] == str(port)
        assert running_webserver(tmp_path) is None


def test_a_webserver_of_another_instance_is_not_asked(tmp_path: Path) -> None:
    with (
        serving(StandIn(lambda *_: None)) as port,
        locked(tmp_path / "services.lock", port=port, dagster_home=str(tmp_path / "mine")),
    ):
        assert running_webserver(tmp_path, dagster_home=str(tmp_path / "other")) is None
        assert running_webserver(tmp_path, dagster_home=f"{tmp_path}/./mine") == f"http://127.0.0.1:{port}"


CAMPAIGN = """
name: tales
model: tiny
num_shards: 1
prompts: {files: prompts.jsonl}
decoding: {temperature: 0.7, top_p: 0.9, max_new_tokens: 12}
engine: {name: echo}
rollout: {steps: [0.1, 0.5]}
"""


def test_a_file_that_dagster_does_not_read_is_refused_before_anything_is_planned(work: Work) -> None:
    read, other = work.home / "campaigns", work.home / "other.yaml"
    read.mkdir()
    (work.home / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "mine"\n')
    for file in (read / "tales.yaml", other):
        file.write_text(CAMPAIGN.replace("prompts.jsonl", str(work.prompts)))
    (work.home / ".env").write_text(f"HEADRACE_CAMPAIGNS={read}\nHEADRACE_HOME={work.home}\n")

    with contextlib.chdir(work.home):
        refused = run("run", other, "--dry-run", "--day", DAY)
        planned = run("run", read / "tales.yaml", "--dry-run", "--day", DAY)

    assert refused.exit_code == 2
    told = f"Dagster reads the campaigns in {read}, where tales.yaml is 'tales', and not {other}. Move the file there"
    assert told in refused.stderr
    assert planned.exit_code == 0, planned.output
    assert "prompts[2026-11-22|tales-00]" in planned.stdout
