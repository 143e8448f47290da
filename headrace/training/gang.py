"""Runs one gang to its end: starts it, watches it, explains failures, and leaves no process behind.

A stuck gang ends by a time-out with a reason: `start_timeout` until every rank has reached its first step, and then
`step_timeout` without a new row of progress. However the wait ends (success, failure, time-out, Ctrl-C, a terminated
run), every process of the gang is killed: a rank has nothing to unwind. A `GangRunner` knows where the ranks are.
"""

import time
from collections.abc import Callable

from headrace.training.diagnosis import Stuck, diagnose
from headrace.training.gang_report import GangReport
from headrace.training.gang_runner import GangRunner, Rows
from headrace.training.progress import MEASURING, duration
from headrace.training.run_config import RunConfig
from headrace.training.stalled import StalledRanks

__all__ = ["Rows", "run_gang"]

_TICK_SECONDS = 0.5


def run_gang(
    runner: GangRunner,
    config: RunConfig,
    *,
    on_rows: Callable[[Rows], None] = lambda rows: None,
    say: Callable[[str], None] = print,
    tick_seconds: float = _TICK_SECONDS,
) -> None:
    """Returns when every rank has succeeded; `on_rows` gets each row of progress once, as they come.

    `say` is told of a stalled rank, where the recipe only warns.

    Raises:
        TrainingFailed: a rank died or stalled, or the gang hung; a retry may succeed. Its culprits name the rank and
            the kind of failure (`headrace.training.failure_kinds`).
        InvalidTrainingRun: a rank reports that a retry would end the same way.
    """
    limits, stalled = _Limits(config), StalledRanks(config)
    what = f"Training {config.training_id}, attempt {config.attempt}"
    try:
        runner.start()
        while not runner.ended(tick_seconds):
            rows = runner.progress()
            if rows:
                on_rows(rows)
            if stalled.is_watching and (found := stalled.look(runner.reached(), time.monotonic())):
                if found.ends:
                    stuck = Stuck(what=found.what, stalled=found.rank)
                    raise diagnose(runner.report(is_stuck=True), stuck).error(what, recipe=config.recipe.key)
                say(f"the gang {found.what}")
            if stuck := limits.passed(runner, progressed=bool(rows)):
                raise diagnose(runner.report(is_stuck=True), stuck).error(what, recipe=config.recipe.key)
        if rows := runner.progress():
            on_rows(rows)
        report = runner.report()
    finally:
        runner.kill()
    if report.exit_code != 0:
        raise diagnose(report).error(what, recipe=config.recipe.key)


class _Limits:
    """The two time-outs, on the monotonic clock, so that suspending a laptop ends no training."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._since = time.monotonic()
        self._started = False

    def passed(self, runner: GangRunner, *, progressed: bool) -> Stuck | None:
        now = time.monotonic()
        if progressed:
            self._since, self._started = now, True
            return None
        recipe = self._config.recipe
        limit = recipe.step_timeout_seconds if self._started else recipe.start_timeout_seconds
        if now - self._since < limit:
            return None
        if not self._started and time.time() - _measured_at(runner.report()) < limit:
            return None
        field = "step_timeout_seconds" if self._started else "start_timeout_seconds"
        what = "made no progress" if self._started else "took no step"
        return Stuck(what=f"{what} for {duration(limit)} ({field} of recipe {recipe.key})")


def _measured_at(report: GangReport) -> float:
    """When a rank last told that it measures the reference, which is work; 0: none does."""
    phases = [one.phase for one in report.ranks if one.phase]
    return max((phase.at for phase in phases if phase.phase == MEASURING), default=0.0)
