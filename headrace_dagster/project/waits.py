"""What runs wait for, as they and the queue's daemon wrote it: for who follows them and would else see counts alone.

Three kinds of waiting: in the queue (its reason is a tag of the run), for a step's next try (an event in its log, with
what the last one ended with), and without a sign of life (a tag). A step that tries again counts as waiting until its
partition has more rows, since nothing else says that what it waits for is there again. Logs are read on from where the
last look ended, and not at each look. Imports no Dagster.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from headrace.text.visible import one_line, shortened
from headrace_dagster.coordinator.admission import WHY_TAG
from headrace_dagster.launchers.signs_of_life import recorded_silence
from headrace_dagster.project.run_source import WAITING, RunState
from headrace_dagster.project.webserver import Webserver

# A first retry waits for five seconds; one request for each run that is under way.
_LOOK_SECONDS = 5.0
# A run that waits for a moment only is no news.
_QUEUED_SECONDS = 15.0
_REASON_CHARACTERS = 300
_NUM_SHOWN = 3
# Dagster begins with the class; our sentences say what is wrong without it.
_OWN_CLASS = re.compile(r"^headrace[\w.]*: ")


@dataclass(kw_only=True)
class _Tries:
    """What a run's log says of its step's tries, as far as it was read."""

    cursor: str | None = None
    num: int = 0
    since: float = 0.0
    reason: str = ""
    num_rows: int = 0


@dataclass(kw_only=True)
class Waits:
    """One call's memory of its runs' logs."""

    clock: Callable[[], float] = time.time
    _tries: dict[str, _Tries] = field(default_factory=dict)
    _looked_at: float = 0.0

    def look(self, webserver: Webserver, runs: Iterable[RunState], num_rows: Mapping[str, int]) -> tuple[str, ...]:
        """A sentence for each of the runs that wait; the same sentence for as long as nothing changes.

        Args: num_rows: partition → its rows now.
        """
        now = self.clock()
        reads = now >= self._looked_at + _LOOK_SECONDS
        if reads:
            self._looked_at = now
        said = [self._sentence(webserver, run, num_rows, now, reads=reads) for run in runs if not _has_ended(run)]
        found = [one for one in said if one]
        left_out = [f"{len(found) - _NUM_SHOWN:,} more runs wait."] if len(found) > _NUM_SHOWN else []
        return (*found[:_NUM_SHOWN], *left_out)

    def _sentence(
        self, webserver: Webserver, run: RunState, num_rows: Mapping[str, int], now: float, *, reads: bool
    ) -> str | None:
        if run.status in WAITING:
            why = run.tags.get(WHY_TAG) or "No daemon has looked at it yet."
            return f"{run.name} is queued since {_hour(run.created)}: {why}" if _is_long(run, now) else None
        if silence := recorded_silence(run):
            return f"{run.name} gives no sign of life since {_hour(silence.since)}: {silence.what}."
        tries = self._tries.setdefault(run.run_id, _Tries())
        rows = num_rows.get(run.partition, 0)
        if tries.num and rows > tries.num_rows:
            tries.num = 0
        if reads:
            self._read(webserver, run, tries, rows)
        if not tries.num:
            return None
        what = "once" if tries.num == 1 else f"{tries.num} times"
        return f"{run.name} has failed {what} since {_hour(tries.since)} and tries again: {tries.reason}"

    @staticmethod
    def _read(webserver: Webserver, run: RunState, tries: _Tries, num_rows: int) -> None:
        retries, tries.cursor = webserver.retries_of(run.run_id, after=tries.cursor)
        for retry in retries:
            if not tries.num:
                tries.since, tries.num_rows = retry.at, num_rows
            tries.num += 1
            tries.reason = shortened(one_line(_OWN_CLASS.sub("", retry.reason)), _REASON_CHARACTERS)


def _has_ended(run: RunState) -> bool:
    return run.has_succeeded or run.has_failed or run.is_retried_soon


def _is_long(run: RunState, now: float) -> bool:
    return now - run.created > _QUEUED_SECONDS


def _hour(at: float) -> str:
    """As the clock on this machine's wall has it."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
