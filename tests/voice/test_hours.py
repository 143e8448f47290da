"""Hours of recorded calls: every call in exactly one partition, whoever sealed it, however late, whoever is killed."""

import shutil
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from headrace.engines.media_bytes import sound_of
from headrace.errors import HandoffMissing, InvalidInput
from headrace.handoff.versions import HandoffStore
from headrace.inbox.sealed import sealed_windows
from headrace.keys import CallHour, ContentPartition, call_feed, feed_service, window_of_key
from headrace.store.local import LocalStore
from headrace.voice.audio import sweep_audio
from headrace.voice.hours import AUDIO, ROWS, hour_ends, hour_of, left_of_hour, seal_hour
from tests.mortal_store import Killed, MortalStore
from tests.voice.recorded_builders import HOUR, SERVICE, UTC_ZONE, Recorded, at, audio_in, pcm, said_in

LATE = CallHour(day=HOUR.day, service=SERVICE, hour=14, late_part=1)
LATER = CallHour(day=HOUR.day, service=SERVICE, hour=14, late_part=2)
ASKED, PLAYED = pcm(1, 700, 16_000), pcm(2, 1000, 24_000)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def gateways(tmp_path: Path, store: LocalStore) -> tuple[Recorded, Recorded]:
    return Recorded(tmp_path / "one", store), Recorded(tmp_path / "two", store)


def seal(store: LocalStore, hour: CallHour = HOUR, zone: ZoneInfo = UTC_ZONE) -> None:
    seal_hour(HandoffStore(store), hour, zone, run_id="run")


def test_an_hour_has_the_calls_of_all_gateways_that_ended_in_it(tmp_path: Path, store: LocalStore) -> None:
    one, two = gateways(tmp_path, store)
    one.call("c1", "13:58:00", "Before.")
    # It began before two o'clock, and ended after it.
    one.call("c2", "14:00:10", "Across.", "And on.")
    two.call("c3", "14:59:59", "At the end.")
    two.call("c4", "15:00:01", "After.")
    for gateway in (one, two):
        gateway.seal("15:05:01")
    seal(store)
    rows = HandoffStore(store).open(ROWS, HOUR.key).table().to_pylist()
    assert sorted((row["call"], row["turn"], row["said"]) for row in rows) == [
        ("c2", 1, "Across."),
        ("c2", 2, "And on."),
        ("c3", 1, "At the end."),
    ]
    [first] = [row for row in rows if row["said"] == "Across."]
    assert (first["session"], first["tenant"], first["answer"], first["first_audio_ms"]) == (
        "sess_c2",
        "ana",
        "So, Across.",
        500,
    )
    assert len({row["row_id"] for row in rows}) == 3
    assert left_of_hour(store, HOUR, UTC_ZONE) == (1, [])


def test_an_hour_is_not_sealed_before_its_lateness_has_passed(tmp_path: Path, store: LocalStore) -> None:
    one, _ = gateways(tmp_path, store)
    one.call("c1", "14:10:00", "Hello.")
    one.seal("15:04:59")
    with pytest.raises(HandoffMissing, match="No call that ended in this hour is sealed"):
        seal(store)
    one.seal("15:05:00")
    seal(store)
    assert said_in(store, HOUR.key) == ["Hello."]


def test_what_comes_late_is_a_part_of_its_own_and_changes_nothing(tmp_path: Path, store: LocalStore) -> None:
    one, two = gateways(tmp_path, store)
    one.call("c1", "14:10:00", "In time.")
    one.seal("15:05:01")
    seal(store)
    with pytest.raises(HandoffMissing, match="Every call that came late is sealed"):
        seal(store, LATE)
    # The other gateway's machine was away until the evening.
    two.call("c2", "14:20:00", "Late.", arrives=at("20:00:00"))
    two.seal("22:00:00")
    # And the first one found a call of then in its log.
    one.call("c3", "14:30:00", "Later.", arrives=at("22:30:00"))
    with pytest.raises(HandoffMissing, match=r"follows 2026-11-22\|voices-h14-late, which is not made yet"):
        seal(store, LATER)
    seal(store, LATE)
    one.seal("23:50:00")
    seal(store, LATER)
    assert [said_in(store, hour.key) for hour in (HOUR, LATE, LATER)] == [["In time."], ["Late."], ["Later."]]
    seal(store)
    assert said_in(store, HOUR.key) == ["In time."]
    assert HandoffStore(store).versions(ROWS, HOUR.key) == [1]


def test_audio_is_packed_as_far_as_it_was_played_and_its_own_objects_go(tmp_path: Path, store: LocalStore) -> None:
    one, _ = gateways(tmp_path, store)
    one.call("c1", "14:10:00", "Hello.", "Again.", audio=[(ASKED, PLAYED), (ASKED[:640], PLAYED)])
    one.call("c2", "14:11:00", "Without.")
    one.seal("15:05:01")
    assert len(store.list("rollout/voices/recordings")) == 1
    sealed = seal_hour(HandoffStore(store), HOUR, UTC_ZONE, run_id="run")
    assert sealed.figures() | {"seconds_since_end": 0.0} == {
        "num_calls": 2,
        "num_turns": 3,
        "num_recordings": 4,
        "num_turns_without_audio": 0,
        "num_windows": 1,
        "late_part": 0,
        "seconds_since_end": 0.0,
    }
    assert store.list("rollout/voices/recordings") == []
    items = audio_in(store, HOUR.key)
    rows = {row["said"]: row for row in HandoffStore(store).open(ROWS, HOUR.key).table().to_pylist()}
    asked, played = (sound_of(items[rows["Hello."][f"{what}_item"]]) for what in ("asked", "played"))
    assert (bytes(asked.data), asked.sample_rate) == (ASKED, 16_000)
    assert (bytes(played.data), played.sample_rate) == (PLAYED, 24_000)
    assert (rows["Without."]["asked_item"], rows["Without."]["played_item"]) == (None, None)


def test_audio_that_was_lost_with_its_gateway_costs_no_turn(tmp_path: Path, store: LocalStore) -> None:
    one, _ = gateways(tmp_path, store)
    one.call("c1", "14:10:00", "Hello.", audio=[(ASKED, PLAYED)])
    one.seal("15:05:01")
    assert sweep_audio(store, SERVICE, before=at("00:00:00", day="2099-01-01")) == 1
    sealed = seal_hour(HandoffStore(store), HOUR, UTC_ZONE, run_id="run")
    assert sealed.num_lost == 2
    assert said_in(store, HOUR.key) == ["Hello."]
    assert audio_in(store, HOUR.key) == {}


def test_a_run_that_is_killed_at_any_write_is_followed_by_one_that_makes_the_same(tmp_path: Path) -> None:
    made = tmp_path / "made"
    one, two = gateways(made, MortalStore(made / "store"))
    one.call("c1", "14:10:00", "Hello.", "Again.", audio=[(ASKED, PLAYED)] * 2)
    two.call("c2", "14:11:00", "Elsewhere.", audio=[(ASKED, PLAYED)])
    for gateway in (one, two):
        gateway.seal("15:05:01")

    def outcome(directory: Path) -> tuple[list[str], dict[str, bytes], list[int], list[int], list[str]]:
        store, handoffs = LocalStore(directory / "store"), HandoffStore(LocalStore(directory / "store"))
        return (
            said_in(store, HOUR.key),
            audio_in(store, HOUR.key),
            handoffs.versions(ROWS, HOUR.key),
            handoffs.versions(AUDIO, HOUR.key),
            store.list("rollout/voices/recordings"),
        )

    whole = tmp_path / "whole"
    shutil.copytree(made, whole)
    store = MortalStore(whole / "store")
    store.num_left = 10_000
    seal(store)
    num_writes = 10_000 - store.num_left
    assert num_writes > 8
    expected = outcome(whole)
    assert expected[2:] == ([1], [1], [])
    for place in range(num_writes):
        directory = tmp_path / f"killed-{place}"
        shutil.copytree(made, directory)
        store = MortalStore(directory / "store")
        store.num_left = place
        with pytest.raises(Killed):
            seal(store)
        store.num_left = None
        is_decided, _ = left_of_hour(store, HOUR, UTC_ZONE)
        # Meanwhile a gateway seals another call of that hour.
        three = Recorded(directory / "three", store)
        three.call("c3", "14:12:00", "Meanwhile.")
        three.seal("15:30:00")
        seal(store)
        if is_decided:
            assert outcome(directory) == expected, f"killed at write {place}"
            seal(store, LATE)
            assert said_in(store, LATE.key) == ["Meanwhile."]
        else:
            assert sorted(said_in(store, HOUR.key)) == sorted([*expected[0], "Meanwhile."])
        assert left_of_hour(store, HOUR, UTC_ZONE) == (1 + is_decided, [])


def test_the_hour_is_that_of_the_projects_zone(tmp_path: Path, store: LocalStore) -> None:
    berlin, day = ZoneInfo("Europe/Berlin"), "2026-10-25"
    one, _ = gateways(tmp_path, store)
    # The clock is set back at three: two o'clock comes twice, and is one hour.
    one.call("c1", "02:10:00", "First.", day=day, zone=berlin)
    one.call("c2", "02:10:00", "Second.", day=day, zone=berlin, fold=1)
    one.seal("04:10:00", day=day, zone=berlin)
    hour = CallHour(day=day, service=SERVICE, hour=2)
    assert hour_ends(hour, berlin) == at("02:00:00", day=day)
    seal(store, hour, berlin)
    assert said_in(store, hour.key) == ["First.", "Second."]


def test_keys_of_hours_are_none_of_campaigns() -> None:
    for hour in (HOUR, LATE, LATER):
        assert CallHour.parse(hour.key) == hour
        assert ContentPartition.find(hour.key) is None
    assert [hour.key for hour in (HOUR, LATE, LATER)] == [
        "2026-11-22|voices-h14",
        "2026-11-22|voices-h14-late",
        "2026-11-22|voices-h14-late2",
    ]
    for wrong in ("2026-11-22|voices-14", "2026-11-22|voices-h24", "voices-h14", "2026-11-22|voices-h14-late1"):
        with pytest.raises(InvalidInput, match="is not DAY"):
            CallHour.parse(wrong)
    assert feed_service(call_feed("voices", "f" * 32)) == "voices"
    assert feed_service("orders") is None
    assert window_of_key("voices@ffff-w000001") is not None


def test_a_window_until_three_is_of_the_hour_that_ends_then(tmp_path: Path, store: LocalStore) -> None:
    one, _ = gateways(tmp_path, store)
    kolkata = ZoneInfo("Asia/Kolkata")
    one.call("c1", "14:10:00", "Hello.")
    one.seal("15:05:01")
    [sealed] = sealed_windows(store, call_feed(SERVICE, _nonce(one)))
    # Windows are hours of UTC: 14 to 15 there is half past seven to half past eight in the evening here.
    assert hour_of(SERVICE, sealed, kolkata).hour == 20
    assert hour_of(SERVICE, sealed, UTC_ZONE) == HOUR


def _nonce(gateway: Recorded) -> str:
    log = gateway.open()
    log.close()
    return log.nonce
