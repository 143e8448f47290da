"""Many producers at one log: who is told what, and when."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from headrace.clock import SystemClock
from headrace.errors import StoreOutage
from headrace.inbox import intake as intake_module
from headrace.inbox.events import Event
from headrace.inbox.intake import Intake, IntakeFull
from headrace.inbox.log import LogUnavailable
from headrace.inbox.sealed import SealedWindow, sealed_windows
from headrace.inbox.sealing import OtherLog, Sealer
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from simulation.event_streams import SECOND
from simulation.inbox_site import CAMPAIGN
from tests.inbox.builders import make_event, make_rules


def event(name: str) -> Event:
    """All of one window, long before any clock of today."""
    return make_event(name, time=SECOND)


class Records:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, what: str, /, **facts: Any) -> None:
        self.lines.append((what, facts))


def make_intake(
    directory: Path, *, store: ObjectStore | None = None, records: Records | None = None, **rules: Any
) -> Intake:
    store = store or LocalStore(directory / "store")
    clock = SystemClock()
    return Intake(
        directory / "log",
        {CAMPAIGN: make_rules(**rules)},
        lambda log: Sealer(store, log, ZoneInfo("UTC"), clock),
        clock=clock,
        record=records or Records(),
    )


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not found():
            await asyncio.sleep(0.01)


def windows(directory: Path) -> list[SealedWindow]:
    return sealed_windows(LocalStore(directory / "store"), CAMPAIGN)


def test_producers_share_a_wait_for_the_disk_and_each_hears_of_its_own_events(tmp_path: Path) -> None:
    async def scenario() -> None:
        intake = make_intake(tmp_path)
        intake.start()
        events = [[event(f"{number % 30}"), event(f"own-{number}")] for number in range(60)]
        taken = await asyncio.gather(*map(intake.take, events))
        assert [one[1] for one in taken] == [True] * 60
        assert sum(one[0] for one in taken) == 30
        await until(lambda: intake.standings[CAMPAIGN].num_waiting == 90)
        intake.close()

    asyncio.run(scenario())


def test_a_producer_that_is_alone_is_not_kept_waiting_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "_GROUP_SECONDS", 3_600.0)

    async def scenario() -> None:
        intake = make_intake(tmp_path)
        intake.start()
        for number in range(5):
            assert await intake.take([event(str(number))]) == [True]
        intake.close()

    asyncio.run(scenario())


def test_what_is_full_is_sealed_while_producers_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        intake = make_intake(tmp_path, rows_max=10)
        intake.start()
        for number in range(35):
            # Of four tenants, so that none has a window of its own.
            await intake.take([event(str(number))._replace(tenant=str(number % 4))])
        await until(lambda: len(windows(tmp_path)) >= 3)
        await until(lambda: intake.standings[CAMPAIGN].num_waiting <= 5)
        intake.close()

    asyncio.run(scenario())
    assert [window.number for window in windows(tmp_path)][:3] == [1, 2, 3]


def test_the_next_process_seals_what_the_last_one_left(tmp_path: Path) -> None:
    async def fill() -> None:
        records = Records()
        intake = make_intake(tmp_path, store=Unreachable(tmp_path / "store"), records=records, rows_max=2)
        intake.start()
        await intake.take([event(str(number)) for number in range(4)])
        await until(lambda: any(what == "window not sealed yet" for what, _ in records.lines))
        assert await intake.take([event("5")]) == [True], "a store that is down stops no producer"
        intake.close()

    async def again() -> None:
        intake = make_intake(tmp_path, rows_max=2)
        intake.start()
        await until(lambda: len(windows(tmp_path)) == 2)
        assert await intake.take([event("3"), event("5")]) == [False, False]
        intake.close()

    asyncio.run(fill())
    assert windows(tmp_path) == []
    asyncio.run(again())
    assert [window.num_events for window in windows(tmp_path)] == [2, 2]


class Unreachable(LocalStore):
    """A store that takes no large part, as one whose disk is full."""

    def write_part(self, key: str) -> Any:
        raise StoreOutage("No space left on device.")


def test_a_campaign_whose_chain_is_damaged_stops_alone_and_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        records = Records()
        intake = make_intake(tmp_path, records=records, rows_max=1)
        intake.start()
        (tmp_path / "store/inbox" / CAMPAIGN / "windows").mkdir(parents=True)
        (tmp_path / "store/inbox" / CAMPAIGN / "windows/00000003.json").write_text("{}")
        await intake.take([event("a")])
        await until(lambda: intake.standings[CAMPAIGN].stopped)
        assert await intake.take([event("b")]) == [True]
        intake.close()
        assert [what for what, _ in records.lines] == ["windows no longer sealed"]

    asyncio.run(scenario())


def test_a_campaign_of_another_log_is_refused_before_the_first_event(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = LocalStore(tmp_path / "store")
        first = make_intake(tmp_path / "one", store=store)
        with pytest.raises(OtherLog, match="are another log's"):
            make_intake(tmp_path / "two", store=store)
        first.start()
        first.close()

    asyncio.run(scenario())


def test_more_than_the_disk_takes_in_some_seconds_has_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_WAITING_EVENTS_MAX", 3)

    async def scenario() -> None:
        intake = make_intake(tmp_path)
        intake.start()
        with pytest.raises(IntakeFull, match="wait for the inbox's log already"):
            await intake.take([event(str(number)) for number in range(4)])
        assert await intake.take([event(str(number)) for number in range(3)]) == [True] * 3
        intake.close()
        with pytest.raises(LogUnavailable, match="is being closed"):
            await intake.take([event("b")])

    asyncio.run(scenario())


def test_a_producer_that_leaves_costs_the_others_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        intake = make_intake(tmp_path)
        intake.start()
        leaving = asyncio.create_task(intake.take([event("a")]))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await intake.take([event("b")]) == [True]
        assert await intake.take([event("a")]) == [False], "it was written all the same"
        intake.close()

    asyncio.run(scenario())
