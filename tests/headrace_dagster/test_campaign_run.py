"""`headrace run` above Dagster: what is missing is launched, what changes meanwhile is made again, and who goes is
followed by who comes.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.command_line.project import Project
from headrace.engines.rows import RowMaker
from headrace.errors import BudgetSpent
from headrace.generation.budget import Budget
from headrace.generation.campaign import PromptSource
from headrace.generation.freshness import shown_mark
from headrace.handoff.layout import manifest_key
from headrace.registry.model_versions import to_table
from headrace.settings import Settings, settings_of
from headrace.version_sets.sets import VersionSet
from headrace_dagster.project import campaign_run, running
from headrace_dagster.project import services as services_module
from headrace_dagster.project.campaign_run import CampaignRunFailed
from headrace_dagster.project.services import ServiceEnded, locked, running_webserver
from resources.settings import CHECKOUT
from simulation.campaign_site import make_campaign
from simulation.models import model_of
from tests.command_line.builders import run
from tests.generation.builders import DAY, ScriptedEngine, Site
from tests.headrace_dagster.campaign_work import CampaignWork, walk
from tests.headrace_dagster.dagster_stand_in import StandIn, serving

ALL = ["list_prompts", "generate", "review", "report"]


class Work(CampaignWork):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        campaign = make_campaign(num_shards=1, prompts=PromptSource(files=str(self.prompts)))
        self.site = Site(root / "store", campaign=campaign)
        self.site.initialize()
        self.site.handoffs.publish(
            "registered_version", "tiny.r", to_table([model_of("tiny", 1)]), code_version="1", run_id="r"
        )
        self.num_reviews = 0
        self.before_review: Callable[[], object] = lambda: None

    def generate(self, job: str, partition: str) -> None:
        num_before = len(self.site.handoffs.versions("generated_content", partition))
        self.site.generate(self.site.open_claim(f"run-{num_before}"))

    def review(self, partition: str) -> None:
        self.before_review()
        super().review(partition)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setattr(campaign_run, "_POLL_SECONDS", 0.0)
    return Work(tmp_path)


def test_each_step_is_launched_after_the_one_before_it_and_a_second_call_launches_nothing(work: Work) -> None:
    first, second = StandIn(work.make), StandIn(work.make)
    walk(work.run(), first)
    assert first.launched == ALL
    assert work.run().missing() == []
    walk(work.run(), second)
    assert second.launched == []


def test_a_report_that_does_not_show_the_rows_is_made_again(work: Work) -> None:
    walk(work.run(), StandIn(work.make))

    # As another campaign's, which read the store before these rows were sealed.
    work.report.write_text(shown_mark([]))
    again = StandIn(work.make)
    walk(work.run(), again)
    assert again.launched == ["report"]


def test_a_run_that_makes_the_rows_already_is_followed_instead_of_started_twice(work: Work) -> None:
    def end() -> str:
        work.make("generate", work.site.partition.key)
        return "SUCCESS"

    work.make("list_prompts", work.site.partition.key)
    stand_in = StandIn(work.make)
    stand_in.start_elsewhere("generate", work.site.partition.key, end)
    stand_in.start_elsewhere("generate", "2020-01-01|elsewhere", end)
    walk(work.run(), stand_in)

    assert stand_in.launched == ["review", "report"]
    assert len(work.site.handoffs.versions("generated_content", work.site.partition.key)) == 1


def test_of_two_runs_that_are_launched_at_one_instant_the_younger_is_ended_by_its_call(work: Work) -> None:
    def launched_beside(job: str, partition: str) -> None:
        if job == "generate":
            # Another call's run is there by the time that this one's is, and makes the rows.
            stand_in.start_elsewhere(job, partition, lambda: work.make(job, partition) or "SUCCESS")
        else:
            work.make(job, partition)

    stand_in = StandIn(launched_beside)
    work.make("list_prompts", work.site.partition.key)
    walk(work.run(), stand_in)

    statuses = {run["runId"]: run["status"] for run in stand_in.runs if run["jobName"] == "generate"}
    assert statuses == {"other-0": "SUCCESS", "run-1": "CANCELED"}
    assert len(work.site.handoffs.versions("generated_content", work.site.partition.key)) == 1


def test_the_rows_of_anothers_run_that_fails_are_made_here(work: Work) -> None:
    work.make("list_prompts", work.site.partition.key)
    stand_in = StandIn(work.make)
    stand_in.start_elsewhere("generate", work.site.partition.key, lambda: "CANCELED")
    walk(work.run(), stand_in)

    assert stand_in.launched == ["generate", "review", "report"]


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


def test_the_count_of_rows_never_falls(work: Work) -> None:
    """Micro-batches that are settled and not sealed yet are neither, and neither are rows of changed prompts."""
    work.make("list_prompts", work.site.partition.key)
    key, site, run = work.site.partition.key, work.site, work.run()
    claim = site.open_claim()
    seen: list[int] = []

    def look() -> None:
        seen.append(run._look(1).num_rows)

    def interrupted(version_set: VersionSet) -> RowMaker:
        return ScriptedEngine(before=look)

    site.generate(claim, open_engine=interrupted)
    content = site.handoffs.open("generated_content", key)
    look()
    manifest = work.home / "store" / manifest_key("generated_content", key, content.version)
    # As in the moment between a claim's settlement and its seal.
    manifest.rename(manifest.with_suffix(".later"))
    look()
    manifest.with_suffix(".later").rename(manifest)
    look()
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-3:] == [3, 3, 3]


def test_rows_that_are_about_to_be_made_again_do_not_count_as_made(work: Work) -> None:
    walk(work.run(), StandIn(work.make))
    assert work.run()._look(0).num_rows == 3
    work.write(2)
    changed = work.run()._look(0)
    assert (changed.num_rows, changed.made) == (0, {"prompts": 0, "generated": 0, "reviewed": 0})


def test_a_spent_budget_is_told_before_anything_starts(work: Work) -> None:
    work.make("list_prompts", work.site.partition.key)
    work.site.campaign = replace(work.site.campaign, micro_batch_rows=1, budget=Budget(tokens=1))
    unspent = work.run()
    unspent.refuse_spent(unspent.missing())
    with pytest.raises(BudgetSpent):
        work.make("generate", work.site.partition.key)
    again = work.run()
    with pytest.raises(BudgetSpent) as refused:
        again.refuse_spent(again.missing())
    assert str(refused.value).startswith("Campaign 'glossary' has spent its budget of tokens for 2026-11-22, ")
    assert str(refused.value).endswith(
        "of 1 tokens, and 1 partition lacks rows. Nothing was started: raise budget.tokens in the campaign's file and "
        "call it again, which makes the missing rows alone."
    )


def test_what_needs_no_engine_is_made_whatever_the_budget(work: Work) -> None:
    key = work.site.partition.key
    for job in ("list_prompts", "generate"):
        work.make(job, key)
    work.site.campaign = replace(work.site.campaign, budget=Budget(tokens=1))
    run = work.run()
    run.refuse_spent(run.missing())


def settings_at(home: Path) -> tuple[Project, Settings]:
    environment = {"HEADRACE_HOME": str(home), "DAGSTER_HOME": str(home)}
    (home / "dagster.yaml").touch()
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
            rest.enter_context(locked(work.home / "services.lock", port=second_port, dagster_home=str(work.home)))
            return True

        first = StandIn(work.make, goes)
        first_port = rest.enter_context(serving(first))
        first_lock.enter_context(locked(work.home / "services.lock", port=first_port, dagster_home=str(work.home)))
        running._make(work.run(), project, settings, None, quiet=True)

    assert (first.launched, second.launched) == (["list_prompts"], ["generate", "review", "report"])


def test_a_switch_that_the_running_daemon_has_not_is_told_to_be_without_effect(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, settings = settings_at(work.home)
    # What no process of a test run was started with.
    switch = str(work.home / "host.sock")
    switches = {"HEADRACE_ENGINE_HOST": switch, "HEADRACE_ENGINE_HOST_MIB": "300", "HEADRACE_ENGINE": "echo"}
    # Of these, the second one is the `.env`'s, which the daemon reads, too.
    project = replace(found, environment={**found.environment, **switches}, lines={"HEADRACE_ENGINE_HOST_MIB": 1})
    monkeypatch.setattr(Project, "location", "headrace")
    with ExitStack() as stack:
        port = stack.enter_context(serving(StandIn(work.make)))
        stack.enter_context(locked(work.home / "services.lock", port=port, dagster_home=str(work.home)))
        stack.enter_context(running._services(project, settings, None))
    said = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert len(said) == 1
    assert said[0].startswith(f"HEADRACE_ENGINE_HOST={switch} has no effect on these runs")
    assert f"process {os.getpid()} started, where it is " in said[0]


SERVICES = {
    # A code server's socket; a daemon that ends; a webserver whose runs never do.
    "code-server": "import socket, sys, time; socket.socket(socket.AF_UNIX).bind(sys.argv[1]); time.sleep(60)",
    "daemon": "import sys, time; time.sleep(1); print('disk I/O error', file=sys.stderr); sys.exit(3)",
    "webserver": (
        "import sys, time\nfrom tests.headrace_dagster.dagster_stand_in import StandIn, serving\n"
        "with serving(StandIn(lambda *_: None, status='STARTED'), int(sys.argv[1])):\n    time.sleep(60)"
    ),
}


def test_services_that_end_are_started_again_and_at_last_told_with_the_end_of_their_log(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def commands(project: Project, code_socket: Path, port: int) -> dict[str, list[str]]:
        given = {"code-server": str(code_socket), "daemon": "", "webserver": str(port)}
        return {name: [sys.executable, "-c", script, given[name]] for name, script in SERVICES.items()}

    project, settings = settings_at(work.home)
    monkeypatch.setattr(Project, "location", "headrace")
    monkeypatch.setattr(services_module, "_commands", commands)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    with pytest.raises(
        ServiceEnded, match=r"^The Dagster daemon ended with code 3: disk I/O error\. Log: .*daemon.log"
    ):
        running._make(work.run(), project, settings, None, quiet=True)

    assert capsys.readouterr().err.count("Starting it again") == 2


def test_a_listener_on_the_holders_port_that_is_not_its_own_is_another_projects(tmp_path: Path) -> None:
    holder = subprocess.Popen(["sleep", "60"])
    try:
        with serving(StandIn(lambda *_: None)) as port, locked(tmp_path / "services.lock", port=port):
            assert running_webserver(tmp_path)
            (tmp_path / "services.lock").write_text(f"{holder.pid} {port} ")
            assert running_webserver(tmp_path) is None
    finally:
        holder.kill()
        holder.wait()


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


def test_a_call_that_could_not_work_is_refused_before_anything_is_planned(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, other = work.home / "campaigns", work.home / "other.yaml"
    read.mkdir()
    (work.home / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "mine"\n')
    for file in (read / "tales.yaml", other):
        file.write_text(CAMPAIGN.replace("prompts.jsonl", str(work.prompts)))
    (work.home / ".env").write_text(f"HEADRACE_CAMPAIGNS={read}\nHEADRACE_HOME={work.home}\n")

    with contextlib.chdir(work.home):
        refused = run("run", other, "--dry-run", "--day", DAY)
        planned = run("run", read / "tales.yaml", "--dry-run", "--day", DAY)
        elsewhere = run("--store", work.home / "other", "run", read / "tales.yaml", "--dry-run", "--day", DAY)
        monkeypatch.setenv("HEADRACE_FIRST_DAY", "2999-01-01")
        early = run("run", read / "tales.yaml", "--dry-run")

    assert elsewhere.exit_code == 2
    assert f"--store names {work.home}/other, but the project's runs write to {work.home}/store." in elsewhere.stderr
    assert early.exit_code == 2
    assert "--day must not be before 2999-01-01, the project's first day (HEADRACE_FIRST_DAY); today is" in early.stderr
    assert refused.exit_code == 2
    told = f"Dagster reads the campaigns in {read}, where tales.yaml is 'tales', and not {other}. Move the file there"
    assert told in refused.stderr
    assert planned.exit_code == 0, planned.output
    assert "prompts[2026-11-22|tales-00]" in planned.stdout
