"""How long what waits will take, by what was seen."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.clock import FixedClock
from headrace.handoff.versions import HandoffStore
from headrace.inbox.backlog import WORKED_OFF_ASSET, Backlog
from headrace.inbox.drain import WorkedOff, rows_per_second
from headrace.inbox.sealed import sealed_windows
from headrace.store.local import LocalStore
from simulation.event_streams import SECOND, START
from simulation.inbox_site import CAMPAIGN, seal_all
from tests.inbox.builders import make_event, make_log, make_rules, make_sealer


@pytest.mark.parametrize(
    ("windows", "wanted"),
    [
        ([], None),
        ([(0.0, 10.0, 50)], 5.0),
        ([(0.0, 10.0, 50), (0.0, 20.0, 50)], 5.0),  # the second waited for the first
        ([(0.0, 10.0, 50), (1_000.0, 1_010.0, 50)], 5.0),  # nothing was there in between
        ([(5.0, 5.0, 50)], 50.0),  # in no time that a clock of seconds shows: within one
    ],
)
def test_the_drain_is_measured_while_something_is_ready(
    windows: list[tuple[float, float, int]], wanted: float | None
) -> None:
    found = [WorkedOff(ready_at=ready, done_at=done, num_rows=rows) for ready, done, rows in windows]
    assert rows_per_second(found) == wanted


def make_windows(directory: Path, *, num_late: int = 0) -> LocalStore:
    """Three windows of two events each, and late events of the first one."""
    with closing(make_log(directory)) as log:
        for window in range(3):
            events = [make_event(f"{window}-{row}", time=START + 10 * window * SECOND) for row in range(2)]
            log.append(events, START + 10 * window * SECOND)
        log.append([make_event("last", time=START + 500 * SECOND)], START + 500 * SECOND)
        if num_late:
            late = [make_event(f"late-{row}") for row in range(num_late)]
            log.append(late, START + 501 * SECOND)
            log.tick(START + 5_000 * SECOND)
        seal_all(log, make_sealer(directory, log))
    return LocalStore(directory / "store")


def work_off(store: LocalStore, number: int, *, after_seconds: float) -> None:
    (window,) = sealed_windows(store, CAMPAIGN, after=number - 1, limit=1)
    clock = FixedClock(FixedClock().now() + after_seconds)
    rows = pa.table({"row": list(range(window.num_events))})
    HandoffStore(store, clock).publish(WORKED_OFF_ASSET, window.partition, rows, code_version="1", run_id="r")


def test_the_backlog_is_rows_by_drain(tmp_path: Path) -> None:
    store = make_windows(tmp_path)
    backlog = Backlog(store, CAMPAIGN, make_rules())
    backlog.look()
    assert (backlog.num_rows, backlog.drain, backlog.seconds(10)) == (6, None, None)
    work_off(store, 1, after_seconds=4.0)
    backlog.look()
    assert (backlog.num_rows, backlog.drain) == (4, 0.5)
    assert backlog.seconds(10) == 28.0
    assert backlog.oldest == FixedClock().now()
    for number in (2, 3):
        work_off(store, number, after_seconds=8.0)
    backlog.look()
    assert (backlog.num_rows, backlog.drain, backlog.oldest) == (0, 0.75, None)


def test_late_events_that_are_only_kept_are_no_backlog(tmp_path: Path) -> None:
    store = make_windows(tmp_path, num_late=5)
    processed, kept = (Backlog(store, CAMPAIGN, make_rules(late=late)) for late in ("process", "keep"))
    processed.look()
    kept.look()
    assert processed.num_rows - kept.num_rows == 5
