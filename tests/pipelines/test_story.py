"""The demo's driver: launches what is missing, waits for what follows, and goes on from wherever it stands."""

import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.utils import make_new_run_id

from pipelines.demo import story
from pipelines.demo.board import Board, Target
from pipelines.demo.story import Chapter, DemoFailed, Driver
from resources.settings import settings_of

MADE_BY_US = Target(asset="prompts", partition="2026-11-22|glossary-00")
FOLLOWS = Target(asset="reviewed_content", partition="2026-11-22|glossary-00")


class Stage:
    """A driver over a real instance; what it launches is written down."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.launched: list[tuple[str, str]] = []
        self.is_promoted = False
        self.driver = Driver(board=Board(instance=self.instance, since=time.time() - 1), launch=self._launch)

    def _launch(self, job: str, partition: str) -> str:
        self.launched.append((job, partition))
        return self.run(job, partition, dg.DagsterRunStatus.STARTING)

    def run(self, job: str, partition: str, status: dg.DagsterRunStatus, **tags: str) -> str:
        run_id = make_new_run_id()
        run = dg.DagsterRun(job_name=job, run_id=run_id, status=status, tags={"dagster/partition": partition, **tags})
        self.instance.add_run(run)
        return run_id

    def make(self, target: Target) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key=target.asset, partition=target.partition)
        )

    def look(self, chapter: Chapter) -> bool:
        """One look at the instance; True: the chapter is done."""
        return next(self.driver.walk(chapter), None) is None and self.driver.is_done(chapter)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def chapter(**changes: object) -> Chapter:
    return Chapter(**({"title": "a night", "stage": "generation"} | changes))  # type: ignore[arg-type]


def test_the_schedule_starts_no_night_of_the_demo(tmp_path: Path) -> None:
    """It starts today's at one o'clock: a demo under way then would find its second night made by the wrong models."""
    settings = settings_of({"HEADRACE_HOME": str(tmp_path)}, tmp_path)
    days = story.fix_days(settings)
    assert days.first < days.second < str(datetime.now(ZoneInfo(settings.timezone)).date())
    assert story.fix_days(settings) == days


def test_a_missing_partition_is_launched_once_while_its_run_is_under_way(stage: Stage) -> None:
    night = chapter(launched=[MADE_BY_US])

    stage.look(night)
    stage.look(night)

    assert stage.launched == [("list_prompts", MADE_BY_US.partition)]


def test_what_is_made_already_is_not_launched(stage: Stage) -> None:
    stage.make(MADE_BY_US)

    assert stage.look(chapter(launched=[MADE_BY_US]))
    assert stage.launched == []


def test_what_follows_by_automation_is_left_to_automation(stage: Stage) -> None:
    stage.make(MADE_BY_US)

    assert not stage.look(chapter(launched=[MADE_BY_US], follows=[FOLLOWS]))
    assert stage.launched == []


def test_what_automation_forgot_is_launched_after_a_silence(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "FOLLOW_UP_SECONDS", 0.0)
    night = chapter(follows=[FOLLOWS])

    stage.look(night)
    stage.look(night)

    assert stage.launched == [("review", FOLLOWS.partition)]


def test_a_chapter_waits_for_its_rollout(stage: Stage) -> None:
    stage.make(MADE_BY_US)
    night = chapter(launched=[MADE_BY_US], until=lambda: stage.is_promoted)

    assert not stage.look(night)

    stage.is_promoted = True
    assert stage.look(night)


def test_a_run_that_failed_for_good_stops_the_demo_with_its_name(stage: Stage) -> None:
    run_id = stage.run("list_prompts", MADE_BY_US.partition, dg.DagsterRunStatus.FAILURE)

    with pytest.raises(DemoFailed, match=rf"prompts\[2026-11-22\|glossary-00\] failed in run {run_id}"):
        stage.look(chapter(launched=[MADE_BY_US]))


def test_a_failure_that_dagster_retries_is_waited_for(stage: Stage) -> None:
    stage.run("list_prompts", MADE_BY_US.partition, dg.DagsterRunStatus.FAILURE, **{"dagster/will_retry": "true"})

    stage.look(chapter(launched=[MADE_BY_US]))

    assert stage.launched == []


def test_a_failure_of_an_earlier_call_is_tried_again(stage: Stage) -> None:
    stage.run("list_prompts", MADE_BY_US.partition, dg.DagsterRunStatus.FAILURE)
    stage.driver.board.since = time.time() + 1

    stage.look(chapter(launched=[MADE_BY_US]))

    assert stage.launched == [("list_prompts", MADE_BY_US.partition)]


def test_a_wait_without_any_run_ends_with_what_was_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "STALL_SECONDS", 0.0)
    night = chapter(until=lambda: False, until_text="the moon is full")
    stage.look(night)

    with pytest.raises(DemoFailed, match="no run .* while waiting until the moon is full"):
        stage.look(night)
