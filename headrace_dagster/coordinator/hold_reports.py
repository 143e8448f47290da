"""Tells people why their runs wait: in the run's tag, and after some waiting in the run's log.

Each report costs a row, so they are written for the runs that people look at first, several at a look, and again only
when the reason changes; `headrace why` explains any run at any time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from dagster import DagsterInstance, DagsterRun, MetadataValue
from dagster._core.events import EngineEventData

from headrace.placement.snapshot import Hold
from headrace_dagster.coordinator.admission import WHY_TAG
from headrace_dagster.coordinator.run_feed import RunFeed
from headrace_dagster.coordinator.run_tag_writes import add_tags

_NUM_TOLD = 100
_TAGS_AT_ONCE = 20
# Every run's first reason: 5,000 runs far back in the queue need no further row for it.
IN_LINE = "In line; `headrace why` tells what it waits for."
# Most runs have started by then; an event costs five times as much as a tag.
_LOG_AFTER_SECONDS = 30.0
_LOG_AGAIN_SECONDS = 600.0
_EVENTS_AT_ONCE = 5


@dataclass(kw_only=True)
class HoldReports:
    """`tell` takes the reports; each `write` writes some of them."""

    instance: DagsterInstance
    feed: RunFeed
    _holds: Mapping[str, Hold] = field(default_factory=dict)
    _is_written: bool = True
    _logged: dict[str, tuple[str, float]] = field(default_factory=dict)  # by run: sentence, when
    _log_again_at: float = 0.0

    def tell(self, holds: Mapping[str, Hold]) -> None:
        """Takes the holds in the order of the queue."""
        self._holds = holds
        self._is_written = False
        self._log_again_at = 0.0

    def write(self, now: float) -> None:
        if not self._is_written:
            self._is_written = self._write_tags()
        if self._holds and now >= self._log_again_at:
            self._write_events(now)

    def _write_tags(self) -> bool:
        """Returns whether all tags are written."""
        stale: dict[str, DagsterRun] = {}
        for place, run_id in enumerate(self._holds):
            record = self.feed.queued.get(run_id)
            # A hold that is not read is not made.
            sentence = self._holds[run_id].sentence if place < _NUM_TOLD else IN_LINE
            if record is not None and record.dagster_run.tags.get(WHY_TAG) != sentence:
                stale[run_id] = record.dagster_run.with_tags({**record.dagster_run.tags, WHY_TAG: sentence})
                if len(stale) > _TAGS_AT_ONCE:
                    break
        now = dict(list(stale.items())[:_TAGS_AT_ONCE])
        add_tags(self.instance, {run_id: {WHY_TAG: run.tags[WHY_TAG]} for run_id, run in now.items()})
        for run in now.values():
            self.feed.note(run)
        return len(stale) <= _TAGS_AT_ONCE

    def _write_events(self, now: float) -> None:
        self._logged = {run_id: logged for run_id, logged in self._logged.items() if run_id in self._holds}
        # Until then, every run that has waited long enough has its report.
        self._log_again_at = now + _LOG_AFTER_SECONDS
        written = 0
        for hold in islice(self._holds.values(), _NUM_TOLD):
            record = self.feed.queued.get(hold.run_id)
            if record is None or now - record.create_timestamp.timestamp() < _LOG_AFTER_SECONDS:
                continue
            sentence, at = self._logged.get(hold.run_id, ("", float("-inf")))
            if sentence == hold.sentence or now - at < _LOG_AGAIN_SECONDS:
                continue
            if written == _EVENTS_AT_ONCE:
                self._log_again_at = now
                return
            self._log(record.dagster_run, hold)
            self._logged[hold.run_id] = (hold.sentence, now)
            written += 1

    def _log(self, run: DagsterRun, hold: Hold) -> None:
        metadata: dict[str, MetadataValue] = {"why": MetadataValue.text(hold.sentence)}
        for number, run_id in enumerate(hold.waits_for[:5], 1):
            metadata[f"waits for {number}"] = MetadataValue.dagster_run(run_id)
        if hold.latest is not None:
            metadata["at the latest"] = MetadataValue.timestamp(hold.latest)
        self.instance.report_engine_event(f"Held: {hold.sentence}", run, EngineEventData(metadata))
