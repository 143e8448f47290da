"""The demo's goals in order, and how it reaches them from any state.

Each chapter names partitions to be made and what makes them. Between two calls it remembers only the demo's days: the
instance and the rollout journal show what is made, so an interrupted demo continues where it was. The driver launches
what a person would (`launched`). Everything else follows by automation, and is launched here only if automation has not
requested it after a while (a daemon may have been killed between the change and the request).
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from assets.partitions import corpus_shards, image_shards
from headrace.errors import HeadraceError
from headrace.keys import ContentPartition, model_recipe
from headrace_dagster.assets.generation import MEDIA_ASSETS
from pipelines.demo.board import Board, Target
from pipelines.jobs import ASSETS_OF_JOB
from resources.settings import Settings

MODEL, PAINTER = "smollm2-135m", "twemoji-painter"
# Recipe keys: of the writer's candidates, and of the painter that begins, with its candidates.
GOOD, WORSE = model_recipe(MODEL, "define"), model_recipe(MODEL, "define-hot")
FIRST_PAINTER, GOOD_PAINTER = model_recipe(PAINTER, "learn-half"), model_recipe(PAINTER, "learn")
WORSE_PAINTER = model_recipe(PAINTER, "learn-few")
CAMPAIGN, PICTURES = "glossary", "picture-dictionary"
NUM_SHARDS = {CAMPAIGN: 10, PICTURES: 5}
# Automation ticks every 5 s and a queued run starts within 10 s, so such a silence means that nothing was requested.
FOLLOW_UP_SECONDS = 75.0
# A look reads every run of the demo.
POLL_SECONDS = 2.0
# Longer than any wait without a run in a healthy demo; then a person has to look.
STALL_SECONDS = 600.0

ALL_ASSETS = frozenset(asset for assets in ASSETS_OF_JOB.values() for asset in assets)
_JOB_OF_ASSET = {asset: job for job, assets in ASSETS_OF_JOB.items() for asset in assets}


class DemoFailed(HeadraceError):
    """A run failed for good; the text has its name and reason."""


@dataclass(frozen=True, kw_only=True)
class Days:
    """The two days that the demo generates, fixed at its first call.

    Their nights are over: the schedule, which starts today's, takes none of them out of the story's order.
    """

    first: str
    second: str


def fix_days(settings: Settings) -> Days:
    path = settings.home / "demo/days.json"
    if not path.exists():
        today = datetime.now(ZoneInfo(settings.timezone)).date()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(
            json.dumps({"first": str(today - timedelta(days=2)), "second": str(today - timedelta(days=1))})
        )
        partial.replace(path)
    return Days(**json.loads(path.read_text()))


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """`launched` targets are launched at once; `follows` come by automation; `until` is a further condition."""

    title: str
    stage: str
    launched: Sequence[Target] = ()
    follows: Sequence[Target] = ()
    until: Callable[[], bool] = field(default=lambda: True)
    until_text: str = ""

    @property
    def targets(self) -> list[Target]:
        return [*self.launched, *self.follows]


class Told(Protocol):
    """What the store and the journals say, for the chapters' conditions."""

    def has_begun(self, campaign: str) -> bool:
        """Whether its rollout has a first set."""
        ...

    def is_on_trial(self, campaign: str) -> bool: ...

    def is_judged(self, campaign: str, recipe: str) -> bool:
        """Whether its rollout has promoted or rolled back a model × recipe."""
        ...

    def is_current(self, campaign: str, day: str) -> bool:
        """Whether a day's review and report follow its content, and none of it is from a rolled-back set."""
        ...


def chapters(days: Days, told: Told) -> list[Chapter]:
    """The demo, in order."""

    def considered(campaign: str, recipe: str, *before: str) -> bool:
        """Whether a recipe is on trial, or was; those before it were judged."""
        is_its_turn = told.is_on_trial(campaign) and all(told.is_judged(campaign, one) for one in before)
        return is_its_turn or told.is_judged(campaign, recipe)

    def through(day: str, recipe: str, painter: str) -> Callable[[], bool]:
        wanted = ((CAMPAIGN, recipe), (PICTURES, painter))
        return lambda: all(told.is_judged(name, one) and told.is_current(name, day) for name, one in wanted)

    recipes = (GOOD, WORSE, FIRST_PAINTER, GOOD_PAINTER, WORSE_PAINTER)
    return [
        Chapter(
            title="Prepare 117,659 glosses and 289 pictures",
            stage="data_prep",
            launched=[
                *(Target(asset="raw_images", partition=shard) for shard in image_shards.get_partition_keys()),
                *(Target(asset="training_examples", partition=shard) for shard in corpus_shards.get_partition_keys()),
                *(Target(asset="base_model", partition=recipe) for recipe in recipes),
            ],
            follows=[Target(asset="picture_examples", partition=shard) for shard in image_shards.get_partition_keys()],
        ),
        # Side by side, as far as there are cores; what is trained is evaluated and registered beside the next one.
        _training("Train a writer, and a painter half and all the way", GOOD, FIRST_PAINTER, GOOD_PAINTER),
        _registering(
            "Evaluate and register all three",
            (GOOD, FIRST_PAINTER, GOOD_PAINTER),
            until=lambda: considered(CAMPAIGN, GOOD) and considered(PICTURES, GOOD_PAINTER),
            until_text="the writer and the better painter are candidates",
        ),
        _night(
            days.first,
            until=through(days.first, GOOD, GOOD_PAINTER),
            until_text="both candidates are promoted and reported on",
        ),
        _training("Train a deliberately worse writer and painter", WORSE, WORSE_PAINTER),
        _registering(
            "Evaluate and register them",
            (WORSE, WORSE_PAINTER),
            until=lambda: considered(CAMPAIGN, WORSE, GOOD) and considered(PICTURES, WORSE_PAINTER, GOOD_PAINTER),
            until_text="the worse models are candidates",
        ),
        _night(
            days.second,
            until=through(days.second, WORSE, WORSE_PAINTER),
            until_text="the worse candidates are rolled back and their rows are made again",
        ),
    ]


def content_partitions(campaign: str, day: str) -> list[str]:
    shards = range(NUM_SHARDS[campaign])
    return [ContentPartition(day=day, campaign=campaign, shard=shard).key for shard in shards]


def _training(title: str, *recipes: str) -> Chapter:
    launched = [Target(asset="trained_model", partition=recipe) for recipe in recipes]
    return Chapter(title=title, stage="training", launched=launched)


def _registering(title: str, recipes: Sequence[str], *, until: Callable[[], bool], until_text: str) -> Chapter:
    made = ("evaluation", "registered_version")
    return Chapter(
        title=title,
        stage="deployment",
        follows=[Target(asset=asset, partition=recipe) for recipe in recipes for asset in made],
        until=until,
        until_text=until_text,
    )


def _night(day: str, *, until: Callable[[], bool], until_text: str) -> Chapter:
    texts, pictured = content_partitions(CAMPAIGN, day), content_partitions(PICTURES, day)
    rows = ("generated_content", "reviewed_content")
    return Chapter(
        title=f"Generate {day}",
        stage="generation",
        launched=[Target(asset="prompts", partition=partition) for partition in (*texts, *pictured)],
        follows=[
            *(Target(asset=asset, partition=key) for asset in rows for key in (*texts, *pictured)),
            *(Target(asset=asset, partition=key) for asset in MEDIA_ASSETS for key in pictured),
            Target(asset="campaign_report", partition=day),
        ],
        until=until,
        until_text=until_text,
    )


@dataclass(kw_only=True)
class Driver:
    """Goes through the chapters. `launch(job, partition)` queues a run."""

    board: Board
    launch: Callable[[str, str], str]
    _idle_since: float | None = None
    _quiet_since: dict[Target, float] = field(default_factory=dict)

    def is_done(self, chapter: Chapter) -> bool:
        return not self._missing(chapter) and chapter.until()

    def walk(self, chapter: Chapter) -> Iterator[None]:
        """Yields after each look at the instance, until the chapter is complete.

        Raises:
            DemoFailed: a run of the chapter failed for good.
        """
        while True:
            self.board.refresh({target.asset for target in chapter.targets})
            if self.is_done(chapter):
                yield
                return
            self._check_failures(chapter)
            self._check_stall(chapter)
            for target in self._due(chapter):
                self.launch(_JOB_OF_ASSET[target.asset], target.partition)
            yield
            time.sleep(POLL_SECONDS)

    def _missing(self, chapter: Chapter) -> list[Target]:
        return [target for target in chapter.targets if not self.board.is_made(target)]

    def _due(self, chapter: Chapter) -> list[Target]:
        missing = [target for target in self._missing(chapter) if target not in self.board.active]
        due = [target for target in missing if target in chapter.launched]
        # Nothing is under way, but something is missing: request the first of it.
        idle = not self.board.active and not due
        now = time.monotonic()
        for target in missing:
            if not idle:
                self._quiet_since.pop(target, None)
            elif now - self._quiet_since.setdefault(target, now) > FOLLOW_UP_SECONDS:
                self._quiet_since.clear()
                return [target]
        return due

    def _check_stall(self, chapter: Chapter) -> None:
        now = time.monotonic()
        if self.board.active or self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > STALL_SECONDS:
            raise DemoFailed(
                f"{chapter.title}: no run for {STALL_SECONDS / 60:.0f} min while waiting until {chapter.until_text}. "
                "`make dev` shows the sensors' reasons (Automation); `make clean` and `make demo` begin anew."
            )

    def _check_failures(self, chapter: Chapter) -> None:
        for target in chapter.targets:
            failed = self.board.failed.get(target)
            if failed and target not in self.board.active:
                raise DemoFailed(
                    f"{target} failed in run {failed.run_id}: {self.board.failure_of(failed)} "
                    "`make demo` tries it again, from what is already made."
                )
