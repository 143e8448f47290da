"""The log: what was taken stays taken, once; what is sealed is forgotten."""

import sqlite3
import tempfile
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.inbox.log import EventDigests, EventLog, LogUnavailable
from headrace.inbox.schema import FILE
from headrace.inbox.sealed import sealed_windows, window_events
from headrace.inbox.sealing import OtherLog
from headrace.inbox.turn_rows import TurnRow
from headrace.store.local import LocalStore
from simulation.event_oracle import expected_windows
from simulation.event_streams import SECOND, START, StreamShape, stream
from simulation.inbox_site import CAMPAIGN, event_of, seal_all, sealed_spans, time_rules
from tests.inbox.builders import make_event, make_log, make_rules, make_sealer

LATER = START + 1_000 * SECOND


def test_the_same_event_is_taken_once(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        assert log.append([make_event("a"), make_event("b"), make_event("a")], START) == [True, True, False]
        assert log.append([make_event("b"), make_event("c")], START) == [False, True]
    with closing(make_log(tmp_path)) as log:
        assert log.append([make_event("c")], START) == [False]


def test_the_same_event_is_taken_once_even_after_its_window_was_sealed_and_forgotten(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("a")], START)
        log.tick(LATER)
        seal_all(log, make_sealer(tmp_path, log))
        assert log.append([make_event("a", time=LATER)], LATER) == [False]
    with closing(sqlite3.connect(tmp_path / "log" / FILE)) as file:
        assert file.execute("SELECT count(*) FROM record_batches").fetchone() == (0,)
        assert file.execute("SELECT count(*) FROM parts").fetchone() == (0,)


def test_a_log_that_is_opened_again_knows_how_many_bytes_its_windows_have(tmp_path: Path) -> None:
    large = make_event("a", data='{"text": "' + "ä" * 100_000 + '"}')
    with closing(make_log(tmp_path)) as log:
        log.append([large], START)
        log.append([make_event("b")], START)
        (part,) = log.windows[CAMPAIGN].open_parts
        assert part.num_bytes > 200_000
    with closing(make_log(tmp_path)) as log:
        (part,) = log.windows[CAMPAIGN].open_parts
        assert 200_000 < part.num_bytes < 210_000


def test_another_source_or_campaign_makes_another_event(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("a")], START)
        assert log.append([make_event("a", source="web")], START) == [True]


def test_names_that_run_together_are_different_events() -> None:
    digests = EventDigests(b"salt")
    assert digests.of("c", "ab", "c") != digests.of("c", "a", "bc")
    assert digests.of("c", "a", "b") != EventDigests(b"pepper").of("c", "a", "b")


def test_the_index_of_what_was_seen_holds_no_name(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("somebody@example.org", source="crm.example.org")], START)
        log.tick(LATER)
        seal_all(log, make_sealer(tmp_path, log))
    with closing(sqlite3.connect(tmp_path / "log" / FILE)) as file:
        ((digest,),) = file.execute("SELECT digest FROM seen").fetchall()
    assert len(digest) == 16
    assert b"example" not in digest


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)), pytest.raises(InvalidInput, match=r"another gateway's, which runs now"):
        make_log(tmp_path)


def test_another_file_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / FILE).write_text("This is a text, and long enough to be looked at as one. " * 40)
    with pytest.raises(InvalidInput, match=r"is not an inbox's log"):
        make_log(tmp_path)


def test_a_log_of_a_newer_headrace_is_left_alone(tmp_path: Path) -> None:
    make_log(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "log" / FILE)) as file:
        file.execute("UPDATE log SET format = 4")
        file.commit()
    with pytest.raises(InvalidInput, match=r"has format 4, this Headrace reads 3"):
        make_log(tmp_path)


def test_a_tenant_of_which_a_window_waits_has_windows_of_its_own(tmp_path: Path) -> None:
    """Also after a restart, and until what waits of it is less."""
    sealed: Counter[str] = Counter()

    def opened() -> EventLog:
        return EventLog(tmp_path / "log", {CAMPAIGN: make_rules(rows_max=4)}, lambda _: sealed)

    def lanes(log: EventLog) -> dict[str, int]:
        # A lane is its tenant's, and does not say whose.
        assert not any("many" in part.lane for part in log.windows[CAMPAIGN].open_parts)
        return {"many" if part.lane else "": part.num_events for part in log.windows[CAMPAIGN].open_parts}

    with closing(opened()) as log:
        log.append([make_event(f"many-{number}", tenant="many") for number in range(5)], START)
        log.append([make_event("few-1", tenant="few")], START)
        assert lanes(log) == {"many": 1, "": 1}
    with closing(opened()) as log:
        assert lanes(log) == {"many": 1, "": 1}
        log.append([make_event("many-5", tenant="many"), make_event("few-2", tenant="few")], START)
        assert lanes(log) == {"many": 2, "": 2}
        assert log.tenants.of(CAMPAIGN) == {"many": 6, "few": 2}
        seal_all(log, make_sealer(tmp_path, log))
        assert log.tenants.of(CAMPAIGN) == {"many": 2, "few": 2}
        log.append([make_event("many-6", tenant="many")], START)
        assert lanes(log) == {"many": 2, "": 3}
        sealed["many"] = 4
        log.append([make_event("many-7", tenant="many")], START)
        assert lanes(log) == {"many": 3, "": 3}


def test_a_sealed_window_tells_its_tenants_its_class_and_its_turn(tmp_path: Path) -> None:
    with closing(make_log(tmp_path, rows_max=4)) as log:
        for number in range(8):
            log.append([make_event(f"many-{number}", tenant="many", event_class="flex")], START)
        log.append([make_event("few", tenant="few", event_class="live"), make_event("b", tenant="b")], START)
        log.tick(START + 5_000 * SECOND)
        seal_all(log, make_sealer(tmp_path, log))
    windows = sealed_windows(LocalStore(tmp_path / "store"), CAMPAIGN)
    assert [(one.turn, one.event_class, one.tenants) for one in windows] == [
        (0.0, "flex", {"many": 4}),
        (4.0, "flex", {"many": 4}),
        (0.0, "live", {"few": 1, "b": 1}),
    ]


def test_a_group_that_the_disk_refuses_is_refused_whole_and_may_come_again(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("a")], START)
        # As on a full disk: the file may not grow any more.
        (pages,) = log._connection.execute("PRAGMA page_count").fetchone()
        log._connection.execute(f"PRAGMA max_page_count = {pages}")
        many = [make_event(str(number), data="x" * 4_000) for number in range(50)]
        with pytest.raises(LogUnavailable, match=r"cannot keep events now: database or disk is full"):
            log.append(many, START)
        log._connection.execute("PRAGMA max_page_count = 1000000")
        assert log.append([make_event("a"), *many], START) == [False] + [True] * 50
        log.tick(LATER)
        seal_all(log, make_sealer(tmp_path, log))
    (window,) = sealed_windows(LocalStore(tmp_path / "store"), CAMPAIGN)
    assert window.num_events == 51


@pytest.mark.parametrize("seed", range(6))
def test_what_is_sealed_is_what_an_oracle_of_the_whole_stream_says(tmp_path: Path, seed: int) -> None:
    sent = stream(seed, StreamShape(num_events=120))
    log = make_log(tmp_path, rows_max=20)
    for number, one in enumerate(sent):
        log.append([event_of(one)], one.arrives)
        if number % 25 == 0:
            seal_all(log, make_sealer(tmp_path, log))
        if number % 40 == 0:
            log.close()
            log = make_log(tmp_path, rows_max=20)
    log.tick(sent[-1].arrives + 1_000 * SECOND)
    seal_all(log, make_sealer(tmp_path, log))
    log.close()
    assert sealed_spans(LocalStore(tmp_path / "store")) == expected_windows(sent, time_rules(make_rules()))


def test_a_sealed_window_says_what_is_in_it(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        events = [
            make_event("c", key="k", sequence=1),
            make_event("b", key="k", sequence=0, tenant="shop", event_class="live", deadline=LATER),
            make_event("a", key="", time=None),
        ]
        log.append(events, START + SECOND)
        log.tick(LATER)
        seal_all(log, make_sealer(tmp_path, log, zone="Asia/Tokyo"))
        store = LocalStore(tmp_path / "store")
        (window,) = sealed_windows(store, CAMPAIGN)
    assert window.partition == f"{window.day}|slogans-w000001"
    assert (window.begins_at, window.ends_at) == ("2026-09-26T23:50:00Z", "2026-09-26T23:50:10Z")
    assert window.day == "2026-09-27", "it is another day in Tokyo"
    assert (window.num_events, window.closed_by, window.offset_max) == (3, "seconds", 3)
    rows = window_events(store, window).to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[1]["tenant"] == "shop"
    assert rows[1]["class"] == "live"
    assert rows[1]["deadline"].timestamp() * SECOND == LATER
    assert rows[0]["time"].timestamp() * SECOND == START + SECOND
    assert rows[0]["deadline"] is None


def test_a_window_until_midnight_is_of_the_day_that_ends_with_it(tmp_path: Path) -> None:
    midnight = -(-START // (86_400 * SECOND)) * 86_400 * SECOND
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("a", time=midnight - SECOND)], midnight)
        log.append([make_event("b", time=midnight + SECOND)], midnight + SECOND)
        log.tick(LATER + 10_000 * SECOND)
        seal_all(log, make_sealer(tmp_path, log))
    days = [window.day for window in sealed_windows(LocalStore(tmp_path / "store"), CAMPAIGN)]
    assert days == ["2026-09-26", "2026-09-27"]


def test_a_campaign_is_one_log_s_for_good(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        make_sealer(tmp_path, log).claim(CAMPAIGN, 0)
        make_sealer(tmp_path, log).claim(CAMPAIGN, 0)
    with closing(make_log(tmp_path / "another")) as other, pytest.raises(OtherLog, match=r"are another log's"):
        make_sealer(tmp_path, other).claim(CAMPAIGN, 0)


def test_a_log_that_is_older_than_what_it_sealed_takes_nothing(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("a")], START)
        log.tick(LATER)
        seal_all(log, make_sealer(tmp_path, log))
        with pytest.raises(OtherLog, match=r"has 1 sealed windows, and its log knows of 0"):
            make_sealer(tmp_path, log).claim(CAMPAIGN, 0)


def test_a_campaign_that_takes_no_events_any_more_is_still_sealed(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("a")], START)
    with closing(EventLog(tmp_path / "log", {"another": make_rules()})) as log:
        log.tick(START + 2 * 86_400 * SECOND)
        seal_all(log, make_sealer(tmp_path, log))
    assert len(sealed_windows(LocalStore(tmp_path / "store"), CAMPAIGN)) == 1


def test_turn_events_of_calls_are_kept_with_events_until_the_store_has_their_call(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        turns = [TurnRow("call", epoch, number, f"e{epoch}n{number}") for epoch in (1, 2) for number in range(3)]
        assert log.append([make_event("a")], START, turns=turns) == [True]
        log.append([], START, turns=[TurnRow("another", 1, 0, "other")])
        log.forget_turns({"call": (2, 1)})
        with closing(log.reader()) as reader:
            # Rows go with those near them.
            assert reader.turns("call", 2)[-1] == (2, "e2n2")
            assert reader.turns("another", 1) == [(0, "other")]
    with closing(make_log(tmp_path)) as log, closing(log.reader()) as reader:
        assert reader.turns("call", 2)[-1] == (2, "e2n2")
        log.forget_turns({"call": (2, 2), "another": (1, 0)})
        assert reader.turns("call", 2) == reader.turns("another", 1) == []


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 90), st.booleans(), st.booleans()), max_size=12))
def test_rows_of_turn_events_go_only_once_their_call_needs_none_of_them(
    steps: list[tuple[int, int, bool, bool]],
) -> None:
    kept: dict[str, int] = defaultdict(int)
    forgotten: dict[str, int] = defaultdict(int)
    with tempfile.TemporaryDirectory() as directory:
        log = make_log(Path(directory))
        reader = log.reader()
        for place, num, forgets, starts_anew in steps:
            call = f"call {place}"
            log.append([], START, turns=[TurnRow(call, 1, kept[call] + more, "e") for more in range(num)])
            kept[call] += num
            if forgets:
                forgotten[call] = kept[call] - num // 2
                log.forget_turns({call: (1, forgotten[call] - 1)})
            if starts_anew:
                reader.close()
                log.close()
                log = make_log(Path(directory))
                reader = log.reader()
            for name, whole in kept.items():
                numbers = [number for number, _ in reader.turns(name, 1)]
                assert numbers == sorted(set(numbers))
                assert {*range(forgotten[name], whole)} <= {*numbers} <= {*range(whole)}
        log.forget_turns({name: (1, whole) for name, whole in kept.items()})
        assert all(not reader.turns(name, 1) for name in kept)
        reader.close()
        log.close()


# Until format 3 an event was a row; formats 1 and 2 differ in what else there was.
_ROWS = """
CREATE TABLE events (offset INTEGER PRIMARY KEY, part INTEGER NOT NULL, time INTEGER NOT NULL, key TEXT NOT NULL,
                     sequence INTEGER NOT NULL, id TEXT NOT NULL, source TEXT NOT NULL, tenant TEXT NOT NULL,
                     class TEXT NOT NULL, deadline INTEGER, data TEXT NOT NULL);
CREATE INDEX events_of_part ON events (part);
DROP TABLE record_batches;
"""
_TURNS = """
DROP TABLE turns;
CREATE TABLE turns (call TEXT, epoch INTEGER, sequence INTEGER, event TEXT NOT NULL,
                    PRIMARY KEY (call, epoch, sequence)) WITHOUT ROWID;
INSERT INTO turns VALUES ('before', 1, 1, 'second'), ('before', 1, 0, 'first');
"""
_BEFORE = {1: "ALTER TABLE parts DROP COLUMN lane; DROP TABLE turns;", 2: _TURNS}


@pytest.mark.parametrize("log_format", [1, 2])
def test_a_log_of_a_former_format_is_read_on(tmp_path: Path, log_format: int) -> None:
    events = [make_event(name, key=name, deadline=LATER if name == "c" else None) for name in "cab"]
    with closing(make_log(tmp_path)) as log:
        log.append(events, START)
    with closing(sqlite3.connect(tmp_path / "log" / FILE)) as file:
        file.executescript(f"{_ROWS}{_BEFORE[log_format]}UPDATE log SET format = {log_format};")
        rows = [
            (offset, 1, one.time, one.key, 0, one.id, one.source, one.tenant, "batch", one.deadline, one.data)
            for offset, one in enumerate(events, 1)
        ]
        file.executemany(f"INSERT INTO events VALUES ({','.join('?' * 11)})", rows)
        file.commit()
    with closing(make_log(tmp_path)) as log, closing(log.reader()) as reader:
        turns = [TurnRow("call", 1, 0, "e")]
        assert log.append([make_event("a"), make_event("d", key="d")], START, turns=turns) == [False, True]
        [part] = log.windows[CAMPAIGN].open_parts
        assert (part.num_events, part.lane) == (4, "")
        assert log.tenants.of(CAMPAIGN) == {"tests": 4}
        assert reader.turns("call", 1) == [(0, "e")]
        assert reader.turns("before", 1) == ([(0, "first"), (1, "second")] if log_format == 2 else [])
        found = reader.events(part.part)
    assert found["id"].to_pylist() == ["a", "b", "c", "d"]
    assert found["offset"].to_pylist() == [2, 3, 1, 4]
    assert [one.timestamp() * SECOND for one in found["deadline"].to_pylist() if one] == [LATER]
    assert set(found["data"].to_pylist()) == {one.data for one in [*events, make_event("d")]}


def test_kept_events_that_are_damaged_are_not_sealed(tmp_path: Path) -> None:
    with closing(make_log(tmp_path)) as log:
        log.append([make_event("a"), make_event("b")], START)
        log._connection.execute("UPDATE record_batches SET events = substr(events, 1, 300)")
        with closing(log.reader()) as reader, pytest.raises(sqlite3.DatabaseError, match=r"events .* are damaged"):
            reader.events(1)


def test_rows_of_a_window_are_in_one_order_however_its_events_came(tmp_path: Path) -> None:
    names = [f"{letter}{number}" for letter in "bac\u00e9" for number in range(9)]
    found: list[list[str]] = []
    for number, size in enumerate((1, 5, len(names))):
        with closing(make_log(tmp_path / str(number))) as log:
            for start in range(0, len(names), size):
                log.append([make_event(name, key=name[0]) for name in names[start : start + size]], START)
            with closing(log.reader()) as reader:
                found.append(reader.events(1)["id"].to_pylist())
    assert found == [sorted(names, key=str.encode)] * 3
