"""What is erased from the store goes from a log, too: out of its rows and out of its file."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.erasure.carrying_out import carry_out
from headrace.erasure.deciding import decide, plan
from headrace.erasure.outcome import remains
from headrace.erasure.scope import Asked
from headrace.errors import HandoffMissing, InvalidInput
from headrace.handoff.erasures import ErasedData, Erasure, data_of, identity_digest
from headrace.inbox import sealer as sealer_module
from headrace.inbox.erasing import erase_in_log, note_erased, unfinished, waiting_logs
from headrace.inbox.log import ClosedPart, EventLog, LogUnavailable, TurnRow
from headrace.inbox.sealed import SealedWindow, sealed_windows, window_events
from headrace.inbox.sealing import Sealer
from headrace.store.local import LocalStore
from headrace.voice.erasing import ended_calls
from simulation.event_streams import SECOND, START
from simulation.inbox_site import CAMPAIGN, seal_all
from tests.erasure.builders import files_with
from tests.inbox.builders import make_event, make_log, make_sealer
from tests.inbox.test_intake import Records, make_intake, until

CLOCK = FixedClock()
LATER = START + 1_000 * SECOND


def store_of(directory: Path) -> LocalStore:
    return LocalStore(directory / "store")


def decided(directory: Path, asked: Asked) -> Erasure:
    store = store_of(directory)
    return decide(store, CLOCK, plan(store, CLOCK, asked), by="ana", reason="ticket")


def of_tenant(tenant: str) -> Asked:
    return Asked(kind="tenant", name=tenant)


@contextmanager
def closed_window(directory: Path) -> Iterator[tuple[EventLog, Sealer]]:
    """A log whose one window, of two events, is to be sealed."""
    with closing(make_log(directory)) as log:
        sealer = make_sealer(directory, log)
        sealer.claim(CAMPAIGN, 0)
        log.append([make_event("secret-one"), make_event("two")], START)
        log.tick(LATER)
        yield log, sealer


def test_events_that_no_window_has_yet_are_blanked_in_the_log_and_in_its_file(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        make_sealer(tmp_path, log).claim(CAMPAIGN, 0)
        log.append(
            [
                make_event("secret-one", tenant="ada-ltd"),
                make_event("two"),
                make_event("secret-three", tenant="ada-ltd"),
            ],
            START,
        )
        erasure = decided(tmp_path, of_tenant("ada-ltd"))
        assert waiting_logs(store_of(tmp_path), erasure) == {log.nonce: f"campaign {CAMPAIGN}"}
        assert unfinished(store_of(tmp_path), log.nonce, log.erased()) == [1]

        assert log.erase(1, data_of(store_of(tmp_path), 1)) == 2
        note_erased(store_of(tmp_path), CLOCK, log.nonce, 1, 2)

        assert files_with(tmp_path, "secret") == files_with(tmp_path, "ada-ltd") == []
        assert files_with(tmp_path, '"product":"two"') == ["log/inbox.db"]
        assert waiting_logs(store_of(tmp_path), erasure) == {}
        assert unfinished(store_of(tmp_path), log.nonce, log.erased()) == []
        # It stays known, and its window keeps its number of rows.
        assert log.append([make_event("secret-one", tenant="ada-ltd")], START) == [False]
        log.tick(LATER)
        seal_all(log, make_sealer(tmp_path, log))
    [window] = sealed_windows(store_of(tmp_path), CAMPAIGN)
    assert window.num_events == 3
    assert window_events(store_of(tmp_path), window)["id"].to_pylist() == ["two"]


def test_what_a_log_has_sealed_and_forgotten_leaves_its_file_too(tmp_path: Path) -> None:
    with closed_window(tmp_path) as (log, sealer):
        seal_all(log, sealer)
        assert "log/inbox.db-wal" in files_with(tmp_path, "secret-one")
        erasure = decided(tmp_path, Asked(kind="event", name="secret-one", campaign=CAMPAIGN))
        assert log.erase(1, data_of(store_of(tmp_path), 1)) == 0
        assert carry_out(store_of(tmp_path), CLOCK, erasure).is_over
        # Sealed again, as after a kill between the store and the log: the window stays as it is.
        [window] = sealed_windows(store_of(tmp_path), CAMPAIGN)
    assert files_with(tmp_path, "secret-one") == []
    assert window_events(store_of(tmp_path), window)["id"].to_pylist() == ["two"]


def test_a_window_that_is_sealed_again_after_its_erasure_is_the_one_that_was(tmp_path: Path) -> None:
    with closed_window(tmp_path) as (log, sealer):
        [closed] = log.take_closed()
        with closing(log.reader()) as reader:
            first = sealer.seal(closed, reader.events(closed.part.part))
            erasure = decided(tmp_path, Asked(kind="event", name="secret-one", campaign=CAMPAIGN))
            log.erase(1, data_of(store_of(tmp_path), 1))
            assert carry_out(store_of(tmp_path), CLOCK, erasure).is_over
            left = replace(first, tenants={"": 1, "tests": 1})
            assert sealer.seal(closed, reader.events(closed.part.part)) == left


def test_a_running_intake_erases_while_producers_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        intake = make_intake(tmp_path)
        intake.start()
        await intake.take([make_event("secret-one", time=SECOND), make_event("two", time=SECOND)])
        decided(tmp_path, Asked(kind="event", name="secret-one", campaign=CAMPAIGN, source="shop"))
        erasing = asyncio.wrap_future(intake.erase(1, data_of(store_of(tmp_path), 1)))
        assert await intake.take([make_event("three", time=SECOND)]) == [True]
        assert await erasing == 1
        assert intake.erased == {1}
        assert await intake.take([make_event("secret-one", time=SECOND)]) == [False]
        intake.close()

    asyncio.run(scenario())
    assert files_with(tmp_path, "secret-one") == []


def test_the_log_of_a_gateway_that_is_gone_is_blanked_by_the_command(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        make_sealer(tmp_path, log).claim(CAMPAIGN, 0)
        log.append([make_event("secret-one", tenant="ada-ltd")], START)
        erasure = decided(tmp_path, of_tenant("ada-ltd"))
        with pytest.raises(InvalidInput, match="is another gateway's, which runs now"):
            erase_in_log(store_of(tmp_path), CLOCK, tmp_path / "log", ended_calls=ended_calls)
    with pytest.raises(InvalidInput, match="There is no inbox's log in"):
        erase_in_log(store_of(tmp_path), CLOCK, tmp_path / "elsewhere", ended_calls=ended_calls)

    erase_in_log(store_of(tmp_path), CLOCK, tmp_path / "log", ended_calls=ended_calls)

    assert files_with(tmp_path, "secret-one") == []
    assert waiting_logs(store_of(tmp_path), erasure) == {}


def test_a_log_that_is_being_read_says_that_it_is_not_done(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("secret-one")], START)
        with closing(log.reader()) as reader:
            reader._connection.execute("BEGIN")
            reader.events(1)
            erasure = decided(tmp_path, Asked(kind="event", name="secret-one", campaign=CAMPAIGN, source="shop"))
            with pytest.raises(LogUnavailable, match="so what was erased is still in it"):
                log.erase(erasure.number, data_of(store_of(tmp_path), 1))
            assert log.erased() == set()
            reader._connection.execute("COMMIT")
        assert log.erase(erasure.number, data_of(store_of(tmp_path), 1)) == 0
    assert files_with(tmp_path, "secret-one") == []


def test_a_tenant_of_whom_nobody_knows_has_nothing_to_erase(tmp_path: Path) -> None:
    with pytest.raises(HandoffMissing, match="No event of tenant 'nobody' is in this store, and no inbox takes events"):
        decided(tmp_path, of_tenant("nobody"))


def test_a_window_with_an_erased_event_is_sealed_once_the_log_has_blanked_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer_module, "_RETRY_SECONDS_MAX", 0.05)
    records = Records()

    async def scenario() -> None:
        decided(tmp_path, Asked(kind="event", name="secret-one", campaign=CAMPAIGN, source="shop"))
        intake = make_intake(tmp_path, records=records, rows_max=2)
        intake.start()
        # As of a log that was restored: it took the event before the erasure, and does not know of that.
        await intake.take([make_event("secret-one", time=SECOND), make_event("two", time=SECOND)])
        await until(lambda: any(what == "window not sealed yet" for what, _ in records.lines))
        await asyncio.wrap_future(intake.erase(1, data_of(store_of(tmp_path), 1)))
        await until(lambda: sealed_windows(store_of(tmp_path), CAMPAIGN))
        intake.close()

    asyncio.run(scenario())
    [window] = sealed_windows(store_of(tmp_path), CAMPAIGN)
    assert window_events(store_of(tmp_path), window)["id"].to_pylist() == ["two"]
    assert files_with(tmp_path, "secret-one") == []


@pytest.mark.parametrize("is_of_before", [False, True])
def test_a_tenants_name_leaves_the_lanes_of_a_log_and_the_counts_of_windows(tmp_path: Path, is_of_before: bool) -> None:
    store = store_of(tmp_path)

    def send(log: EventLog, tenant: str, *numbers: int) -> None:
        log.append([make_event(f"{tenant}-{number}", tenant=tenant) for number in numbers], START)

    with closing(make_log(tmp_path, rows_max=4)) as log:
        make_sealer(tmp_path, log).claim(CAMPAIGN, 0)
        send(log, "ada-ltd", *range(9))
        send(log, "bob", 1, 2)
        seal_all(log, make_sealer(tmp_path, log))
        assert [one.tenants for one in sealed_windows(store, CAMPAIGN)] == [{"ada-ltd": 4}, {"ada-ltd": 4}]
    if is_of_before:
        with closing(sqlite3.connect(tmp_path / "log/inbox.db")) as file:
            file.execute("UPDATE parts SET lane = 'ada-ltd' WHERE lane != ''")
            file.commit()
    with closing(make_log(tmp_path, rows_max=4)) as log:
        erasure = decided(tmp_path, of_tenant("ada-ltd"))
        # As another window of the same lane, which is open at the same time.
        send(log, "ada-ltd", 9, 10)
        log.erase(1, data_of(store, 1))
        note_erased(store, CLOCK, log.nonce, 1, 3)
        assert carry_out(store, CLOCK, erasure).is_over
        assert remains(store, CLOCK, erasure) == []
        for place in (tmp_path / "store", tmp_path / "log"):
            assert files_with(place, "ada-ltd") == []
        assert [one.tenants for one in sealed_windows(store, CAMPAIGN)] == [{"": 4}, {"": 4}]
        assert log.tenants.of(CAMPAIGN) == {"": 3, "bob": 2}
        send(log, "ada-ltd", 8, 11)
        log.tick(LATER)
        seal_all(log, make_sealer(tmp_path, log))
    windows = sealed_windows(store, CAMPAIGN)
    assert sum(one.num_events for one in windows) == 14, "each of them is sealed, in whichever window"
    left = [row for one in windows for row in window_events(store, one)["id"].to_pylist()]
    assert sorted(left) == ["ada-ltd-11", "bob-1", "bob-2"], "what it sends from then on is new"


def test_an_erasure_is_not_told_while_a_window_is_sealed_of_events_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window's own object comes after its events, and counts their tenants."""
    holds, goes_on, real = threading.Event(), threading.Event(), Sealer.seal

    def slow(sealer: Sealer, closed: ClosedPart, rows: Iterable[tuple[Any, ...]]) -> SealedWindow:
        taken = list(rows)
        holds.set()
        assert goes_on.wait(60)
        return real(sealer, closed, taken)

    monkeypatch.setattr(Sealer, "seal", slow)

    async def scenario() -> None:
        intake = make_intake(tmp_path, rows_max=2)
        intake.start()
        await intake.take([make_event(name, time=SECOND, tenant="ada-ltd") for name in ("one", "two")])
        assert await asyncio.to_thread(holds.wait, 60)
        decided(tmp_path, of_tenant("ada-ltd"))
        await asyncio.wrap_future(intake.erase(1, data_of(store_of(tmp_path), 1)))
        sealing = asyncio.ensure_future(asyncio.to_thread(intake.wait_for_sealing))
        await asyncio.sleep(0.05)
        assert not sealing.done()
        goes_on.set()
        await sealing
        intake.close()

    asyncio.run(scenario())
    [window] = sealed_windows(store_of(tmp_path), CAMPAIGN)
    assert window.tenants == {"ada-ltd": 2}
    assert carry_out(store_of(tmp_path), CLOCK, decided(tmp_path, of_tenant("ada-ltd"))).is_over
    assert files_with(tmp_path, "ada-ltd") == []


def test_what_waits_for_the_log_when_an_erasure_comes_is_written_before_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        intake = make_intake(tmp_path)
        # More than one group, before the writer's thread begins.
        intake._loop = asyncio.get_running_loop()
        kept = [intake.keep([TurnRow("call", 1, number, "xyzzy")]) for number in range(9_000)]
        data = ErasedData(b"salt", frozenset({identity_digest(b"salt", "call", "call")}))
        erasing = asyncio.wrap_future(intake.erase(1, data))
        intake.start()
        await erasing
        await asyncio.gather(*kept)
        assert intake.reader().calls() == []
        intake.close()

    asyncio.run(scenario())
    assert files_with(tmp_path, "xyzzy") == []
