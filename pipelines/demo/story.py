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
from zoneinfo import ZoneInfo

from assets.partitions import corpus_shards
from headrace.errors import HeadraceError
from headrace.keys import ContentPartition, model_recipe
from headrace.rollout.states import RolloutState
from pipelines.demo.board import Board, Target
from pipelines.jobs import ASSETS_OF_JOB
from resources.settings import Settings

MODEL = "smollm2-135m"
GOOD, WORSE = "define", "define-hot"
CAMPAIGN = "glossary"
NUM_SHARDS = 10
# Automation ticks every 5 s and a queued run starts within 10 s, so such a silence means that nothing was requested.
FOLLOW_UP_SECONDS = 75.0
POLL_SECONDS = 1.0
# Longer than any wait without a run in a healthy demo; then a person has to look.
STALL_SECONDS = 600.0

ALL_ASSETS = frozenset(asset for assets in ASSETS_OF_JOB.values() for asset in assets)
_JOB_OF_ASSET = {asset: job for job, assets in ASSETS_OF_JOB.items() for asset in assets}


class DemoFailed(HeadraceError):
    """A run failed for good; the text has its name and reason."""


@dataclass(frozen=True, kw_only=True)
class Days:
    """The two days that the demo generates, fixed at its first call."""

    first: str
    second: str


def fix_days(settings: Settings) -> Days:
    path = settings.home / "demo/days.json"
    if not path.exists():
        today = datetime.now(ZoneInfo(settings.timezone)).date()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"first": str(today - timedelta(days=1)), "second": str(today)}))
        partial.replace(path)
    return Days(**json.loads(path.read_text()))


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """`launched` targets are launched at once; `follows` come by automation; `until` is a further condition."""

    title: str
    stage: str
    launched: Sequence[Target] = ()
    follows: Sequence[Target] = ()
    until: Callable[[RolloutState | None], bool] = field(default=lambda _: True)
    until_text: str = ""

    @property
    def targets(self) -> list[Target]:
        return [*self.launched, *self.follows]


def chapters(
    days: Days, judged: Callable[[RolloutState, str], bool], current: Callable[[RolloutState, str], bool]
) -> list[Chapter]:
    """The demo, in order.

    Args:
        judged: whether the rollout has promoted or rolled back a model × recipe.
        current: whether a day's review and report follow its content, and none of it is from a rolled-back set.
    """
    good, worse = model_recipe(MODEL, GOOD), model_recipe(MODEL, WORSE)

    def settled(recipe: str) -> Callable[[RolloutState | None], bool]:
        return lambda state: state is not None and judged(state, recipe)

    def through(day: str, recipe: str) -> Callable[[RolloutState | None], bool]:
        return lambda state: state is not None and judged(state, recipe) and current(state, day)

    def on_trial(state: RolloutState | None) -> bool:
        return state is not None and state.candidate is not None

    return [
        Chapter(
            title="Prepare 117,659 glosses",
            stage="data_prep",
            launched=[
                *(Target(asset="training_examples", partition=shard) for shard in corpus_shards.get_partition_keys()),
                Target(asset="base_model", partition=good),
                Target(asset="base_model", partition=worse),
            ],
        ),
        Chapter(title="Train", stage="training", launched=[Target(asset="trained_model", partition=good)]),
        Chapter(
            title="Evaluate and register",
            stage="deployment",
            follows=[Target(asset=asset, partition=good) for asset in ("evaluation", "registered_version")],
            until=lambda state: on_trial(state) or settled(good)(state),
            until_text="the trained model is a rollout candidate",
        ),
        _night(days.first, until=through(days.first, good), until_text="the candidate is promoted and reported on"),
        Chapter(
            title="Train a deliberately worse candidate",
            stage="training",
            launched=[Target(asset="trained_model", partition=worse)],
        ),
        Chapter(
            title="Evaluate and register it",
            stage="deployment",
            follows=[Target(asset=asset, partition=worse) for asset in ("evaluation", "registered_version")],
            until=lambda state: (on_trial(state) and settled(good)(state)) or settled(worse)(state),
            until_text="the worse model is a rollout candidate",
        ),
        _night(
            days.second,
            until=through(days.second, worse),
            until_text="the worse candidate is rolled back and its rows are made again",
        ),
    ]


def _night(day: str, *, until: Callable[[RolloutState | None], bool], until_text: str) -> Chapter:
    partitions = [ContentPartition(day=day, campaign=CAMPAIGN, shard=index).key for index in range(NUM_SHARDS)]
    rows = ("generated_content", "reviewed_content")
    return Chapter(
        title=f"Generate {day}",
        stage="generation",
        launched=[Target(asset="prompts", partition=partition) for partition in partitions],
        follows=[
            *(Target(asset=asset, partition=key) for asset in rows for key in partitions),
            Target(asset="campaign_report", partition=day),
        ],
        until=until,
        until_text=until_text,
    )


@dataclass(kw_only=True)
class Driver:
    """Goes through the chapters. `launch(job, partition)` queues a run; `rollout()` reads the journal."""

    board: Board
    launch: Callable[[str, str], str]
    rollout: Callable[[], RolloutState | None]
    _idle_since: float | None = None
    _quiet_since: dict[Target, float] = field(default_factory=dict)

    def is_done(self, chapter: Chapter) -> bool:
        return not self._missing(chapter) and chapter.until(self.rollout())

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
