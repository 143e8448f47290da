"""The order in which results go out: each event's once, in one order for good, whoever is killed and whenever."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.clock import FixedClock
from headrace.errors import IllegalTransition, InvalidInput
from headrace.inbox.feed import PlacedResult, Position, ResultFeed
from headrace.inbox.finished import FinishedWindow, FinishedWindows, finished_chain
from headrace.inbox.sealed import SealedWindow
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from tests.inbox_builders import event, finish_window, seal_window

CAMPAIGN = "orders"


def make_window(store: ObjectStore, number: int, *, num_events: int = 2, late_part: int = 0) -> SealedWindow:
    events = [event(f"{number}-{late_part}-{row}", {}) for row in range(num_events)]
    return seal_window(store, events, window=number, late_part=late_part)


def make_finished(store: ObjectStore, *, keeps_late: bool = False) -> FinishedWindows:
    return FinishedWindows(store, CAMPAIGN, FixedClock(), keeps_late=keeps_late)


def read_on(store: ObjectStore, position: Position | None = None, *, at_once: int = 100) -> list[PlacedResult]:
    """All that follows the position."""
    feed, found = ResultFeed(store, CAMPAIGN, position or Position()), list[PlacedResult]()
    while True:
        before = feed.position
        found += feed.read(at_once)
        if feed.position == before:
            return found


def ids(found: list[PlacedResult]) -> list[str]:
    return [one.result.event for one in found]


def test_results_come_in_the_order_in_which_windows_are_finished(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second, third = (make_window(store, number) for number in (1, 2, 3))
    finished = make_finished(store)
    assert (finished.look(), read_on(store)) == (0, [])
    finish_window(store, second)
    assert finished.look() == 1
    finish_window(store, third)
    finish_window(store, first)
    assert finished.look() == 2
    assert ids(read_on(store)) == ["2-0-0", "2-0-1", "1-0-0", "1-0-1", "3-0-0", "3-0-1"]
    assert [str(one.position) for one in read_on(store)] == ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2"]


def test_a_window_that_is_never_made_keeps_nobody_elses_results(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    windows = [make_window(store, number, num_events=1) for number in range(1, 121)]
    for window in windows[60:]:
        finish_window(store, window)
    finished = make_finished(store)
    for _ in range(5):
        finished.look()
    assert sorted(ids(read_on(store))) == sorted(f"{number}-0-0" for number in range(61, 121))


def test_each_outcome_is_told_with_its_reason(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    window = make_window(store, 1, num_events=4)
    late = make_window(store, 1, num_events=1, late_part=1)
    finish_window(store, window, faults={"1-0-1": "refused", "1-0-2": "rejected", "1-0-3": "error"})
    make_finished(store, keeps_late=True).look()
    told = {one.result.event: one.result for one in read_on(store)}
    assert {name: (one.state, [row.outcome for row in one.rows]) for name, one in told.items()} == {
        "1-0-0": ("made", ["answered"]),
        "1-0-1": ("refused", []),
        "1-0-2": ("made", ["rejected"]),
        "1-0-3": ("made", ["error"]),
        "1-1-0": ("kept", []),
    }
    assert told["1-0-1"].reason == "has no column 'x'."
    assert told["1-0-2"].rows[0].rejected_by == ("length",)
    assert (told["1-0-0"].rows[0].output, told["1-0-0"].rows[0].version_set) == ("answer to 1-0-0", "set-1")
    assert told["1-1-0"].partition == late.partition


def test_a_window_that_is_made_again_keeps_the_results_that_went_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    window = make_window(store, 1)
    finish_window(store, window)
    finished = make_finished(store)
    finished.look()
    before = read_on(store)
    finish_window(store, window, version_set="set-2")
    assert (finished.look(), make_finished(store).look()) == (0, 0)
    assert read_on(store) == before
    assert {row.version_set for one in before for row in one.result.rows} == {"set-1"}


def test_two_processes_that_append_are_told(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    windows = [make_window(store, number) for number in (1, 2)]
    here, there = make_finished(store), make_finished(store)
    here.look()
    there.look()
    finish_window(store, windows[1])
    here.look()
    finish_window(store, windows[0])
    with pytest.raises(IllegalTransition, match="is window 2 in the store, and 1 here: another process appends"):
        there.look()
    here.look()
    assert ids(read_on(store)) == ["2-0-0", "2-0-1", "1-0-0", "1-0-1"]


def test_a_position_that_is_none_is_refused() -> None:
    for text in ("", "1", "0.1", "1.-1", "1.2.3", "a.b", "१.२"):
        with pytest.raises(InvalidInput, match="A position must be as"):
            Position.parse(text)
    assert Position.parse("12.345") == Position(12, 345)


class _KilledStore(LocalStore):
    """Ends its process before the n-th thing that it creates."""

    left = 10**9

    def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().create(key, body, durable=durable)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_event_goes_out_once_in_one_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Windows are sealed and finished in any order, who appends is killed anywhere, readers come back anywhere."""
    directory = tmp_path_factory.mktemp("finished")
    store = LocalStore(directory)
    sealed: list[SealedWindow] = []
    unfinished: list[SealedWindow] = []
    wanted: list[str] = []
    seen: list[PlacedResult] = []
    finished = make_finished(store)
    for step in data.draw(st.lists(st.sampled_from(["seal", "finish", "look", "kill", "read"]), max_size=20)):
        if step == "seal":
            window = make_window(store, len(sealed) + 1, num_events=data.draw(st.integers(1, 3)))
            sealed.append(window)
            unfinished.append(window)
        elif step == "finish" and unfinished:
            window = unfinished.pop(data.draw(st.integers(0, len(unfinished) - 1)))
            finish_window(store, window)
            wanted += [f"{window.window}-0-{row}" for row in range(window.num_events)]
        elif step == "look":
            finished.look()
        elif step == "kill":
            killed = _KilledStore(directory)
            killed.left = data.draw(st.integers(0, 4))
            with suppress(KeyboardInterrupt):
                make_finished(killed).look()
            finished = make_finished(store)
        else:
            at_once = data.draw(st.integers(1, 4))
            found = read_on(store, seen[-1].position if seen else None, at_once=at_once)
            seen += found[: data.draw(st.integers(0, len(found)))]
    finished.look()
    seen += read_on(store, seen[-1].position if seen else None)
    assert sorted(ids(seen)) == sorted(wanted)
    assert seen == read_on(store)


def test_the_newest_object_tells_all_that_a_restart_needs(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    windows = [make_window(store, number) for number in (1, 2, 3)]
    finish_window(store, windows[2])
    make_finished(store).look()
    last = finished_chain(store, CAMPAIGN).last()
    assert last is not None
    assert isinstance(last[1], FinishedWindow)
    assert (last[0], last[1].window, last[1].reached, last[1].unfinished) == (1, 3, 3, (1, 2))
