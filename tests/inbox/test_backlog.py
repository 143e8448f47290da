"""How long what waits will take, by what was seen."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.clock import FixedClock
from headrace.handoff.row_tables import CONTENT
from headrace.handoff.versions import HandoffStore
from headrace.inbox.backlog import Backlog
from headrace.inbox.drain import WorkedOff, rows_per_second
from headrace.inbox.sealed import sealed_windows, windows_chain
from headrace.store.local import LocalStore
from simulation.event_streams import SECOND, START
from simulation.inbox_site import CAMPAIGN, seal_all
from tests.inbox.builders import make_event, make_log, make_sealer
from tests.inbox_builders import event, seal_window


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
    HandoffStore(store, clock).publish(CONTENT, window.partition, rows, code_version="1", run_id="r")


def looked(store: LocalStore, **given: bool) -> Backlog:
    backlog = Backlog(store, CAMPAIGN, **given)
    backlog.look()
    return backlog


def figures(backlog: Backlog) -> tuple[object, ...]:
    return backlog.num_windows, backlog.num_events, backlog.oldest, backlog.drain


def test_the_backlog_is_events_by_drain(tmp_path: Path) -> None:
    store = make_windows(tmp_path)
    backlog = looked(store)
    assert (backlog.num_events, backlog.drain, backlog.seconds(10)) == (6, None, None)
    work_off(store, 1, after_seconds=4.0)
    backlog.look()
    assert figures(backlog) == (2, 4, FixedClock().now(), 0.5)
    assert backlog.seconds(10) == 28.0
    for number in (2, 3):
        work_off(store, number, after_seconds=8.0)
    backlog.look()
    assert figures(backlog) == (0, 0, None, 0.75)
    assert backlog.seconds() == 0.0


def test_who_followed_every_window_sees_what_a_first_look_sees(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    followed = looked(store)
    make_windows(tmp_path, num_late=3)
    for number in (2, 1):
        work_off(store, number, after_seconds=4.0 * number)
        followed.look()
        assert figures(followed) == figures(looked(store))


def test_of_very_many_windows_each_has_its_turn(tmp_path: Path) -> None:
    """The oldest of them are never made; the newest one is found within a few looks nevertheless."""
    store = LocalStore(tmp_path / "store")
    for number in range(120):
        seal_window(store, [event(str(number), {})], campaign=CAMPAIGN, window=number + 1)
    backlog = looked(store)
    work_off(store, 120, after_seconds=100_000_000.0)
    for _ in range(5):
        backlog.look()
    assert backlog.num_windows == 119


def test_late_events_that_are_only_kept_are_no_backlog(tmp_path: Path) -> None:
    store = make_windows(tmp_path, num_late=5)
    assert looked(store).num_events - looked(store, keeps_late=True).num_events == 5


def test_a_window_that_is_just_being_sealed_waits(tmp_path: Path) -> None:
    """Its events are in the store, and its object in the chain is not yet."""
    store = LocalStore(tmp_path / "store")
    seal_window(store, [event("a", {})], campaign=CAMPAIGN)
    store.delete_prefix(windows_chain(store, CAMPAIGN).prefix)
    backlog = looked(store)
    backlog.look()
    assert (backlog.num_windows, backlog.num_events) == (1, 1)
