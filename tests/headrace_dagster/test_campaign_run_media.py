"""`headrace run` of a campaign that writes, paints and speaks: one run a partition, going on where another ended."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.generation.campaign import PromptSource
from headrace.generation.step_runs import StepRun
from headrace.generation.under_way import unmade_kinds
from headrace.registry.model_versions import to_table
from headrace.rollout.states import INITIALIZED
from headrace_dagster.project import campaign_run
from headrace_dagster.project.campaign_run import CONTENT
from simulation.models import model_of
from tests.generation.media_builders import MediaSite, make_media_campaign, make_roles
from tests.headrace_dagster.campaign_work import NUM_PROMPTS, CampaignWork, walk
from tests.headrace_dagster.dagster_stand_in import StandIn


class Work(CampaignWork):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        prompts = PromptSource(files=str(self.prompts))
        self.site = MediaSite(root / "store", campaign=make_media_campaign(num_shards=1, prompts=prompts))
        self.site.roll_out_set(INITIALIZED, self.site.make_set())
        models = [model_of(role.model, 1) for role in make_roles().values()]
        for one in models:
            self.site.handoffs.publish(
                "registered_version", f"{one.model_name}.r", to_table([one]), code_version="1", run_id="r"
            )
        self.num_generated: list[int] = []
        self.regenerates = False

    def generate(self, job: str, partition: str) -> None:
        kind = {"generate": "text", "paint": "image", "speak": "speech"}.get(job)
        again = self.regenerates and kind == "text"
        claim = self.site.open_claim("run-again", "current_set") if again else self.site.open_claim()
        self.num_generated.append(self.site.generate(claim, up_to=kind).num_generated_now)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setattr(campaign_run, "_POLL_SECONDS", 0.0)
    return Work(tmp_path)


def rows_of(work: Work) -> int:
    run = work.run()
    return run._look(0).num_rows


def test_all_parts_of_a_partition_are_made_in_one_run(work: Work) -> None:
    stand_in = StandIn(work.make)
    walk(work.run(), stand_in)
    assert stand_in.launched == ["list_prompts", "generate_with_media", "review", "report"]
    assert work.run().missing() == []


def test_progress_counts_each_step_for_its_share_and_a_killed_run_is_gone_on_with(work: Work) -> None:
    key = work.site.partition.key
    work.make("list_prompts", key)
    for job, num_rows in (("generate", 1), ("paint", 2)):
        work.make(job, key)
        assert rows_of(work) == num_rows
        assert not work.run()._is_committed(key)
    stand_in = StandIn(work.make)
    walk(work.run(), stand_in)
    assert stand_in.launched == ["generate_with_media", "review", "report"]
    assert work.num_generated == [NUM_PROMPTS] * 3
    assert rows_of(work) == NUM_PROMPTS


def test_a_run_that_paints_is_followed_and_what_it_leaves_is_made_after_it(work: Work) -> None:
    key = work.site.partition.key
    work.make("list_prompts", key)
    stand_in = StandIn(work.make)
    stand_in.start_elsewhere("paint", key, lambda: work.make("paint", key) or "SUCCESS")
    walk(work.run(), stand_in)
    assert stand_in.launched == ["generate_with_media", "review", "report"]
    assert work.num_generated == [2 * NUM_PROMPTS, NUM_PROMPTS]


def test_the_set_and_not_the_file_says_whether_a_run_paints(work: Work) -> None:
    work.make("list_prompts", work.site.partition.key)
    roles = {"writer": make_roles()["writer"]}
    run = work.run()
    run.campaign = replace(run.campaign, roles=roles, chain=tuple(roles))
    assert run._job_of(CONTENT, work.site.partition.key) == "generate_with_media"


@pytest.fixture
def apart(work: Work) -> Work:
    work.site.campaign = replace(work.site.campaign, apart={"image": StepRun(gpus=0.5)})
    return work


def test_steps_that_the_file_wants_apart_are_runs_of_their_own(apart: Work) -> None:
    stand_in = StandIn(apart.make)
    walk(apart.run(), stand_in)
    assert stand_in.launched == ["list_prompts", "generate", "paint", "speak", "review", "report"]
    assert apart.num_generated == [NUM_PROMPTS] * 3
    assert apart.run().missing() == []


def test_apart_only_what_an_attempt_lacks_is_launched(apart: Work) -> None:
    key = apart.site.partition.key
    for job in ("list_prompts", "generate", "speak"):
        apart.make(job, key)
    stand_in = StandIn(apart.make)
    walk(apart.run(), stand_in)
    assert stand_in.launched == ["paint", "review", "report"]
    assert apart.num_generated == [NUM_PROMPTS] * 3


def test_rows_anew_are_made_apart_too(apart: Work) -> None:
    walk(apart.run(), StandIn(apart.make))
    apart.regenerates = True
    stand_in, again = StandIn(apart.make), apart.run()
    again.regenerate = True
    walk(again, stand_in)
    # The same bytes: their review stands.
    assert stand_in.launched == ["generate", "paint", "speak", "report"]
    assert len(apart.site.handoffs.versions("generated_content", apart.site.partition.key)) == 2


def test_what_an_attempt_lacks_is_told_by_its_commits(apart: Work) -> None:
    key, objects = apart.site.partition.key, apart.site.handoffs.objects
    apart.make("list_prompts", key)
    claim = apart.site.open_claim()
    assert unmade_kinds(objects, claim, NUM_PROMPTS) == ("text",)
    apart.make("generate", key)
    assert unmade_kinds(objects, claim, NUM_PROMPTS) == ("image", "speech")
    apart.make("paint", key)
    assert unmade_kinds(objects, claim, NUM_PROMPTS) == ("speech",)
