"""Recorded calls, erased: out of the log, its windows, the sealed hours, and their audio wherever it is."""

from pathlib import Path

from headrace.clock import SystemClock
from headrace.erasure.carrying_out import carry_out
from headrace.erasure.deciding import decide, plan
from headrace.erasure.outcome import remains
from headrace.erasure.scope import Asked
from headrace.handoff.versions import HandoffStore
from headrace.inbox.erasing import erase_in_log, note_calls_log, waiting_logs
from headrace.store.local import LocalStore
from headrace.voice.erasing import ended_calls
from headrace.voice.hours import seal_hour
from headrace.voice.kept import call_name
from tests.erasure.builders import files_with
from tests.voice.recorded_builders import HOUR, UTC_ZONE, Recorded, audio_in, pcm, said_in

SECRET = "xyzzy-of-ana-plugh"
ASKED, PLAYED = pcm(1, 300, 16_000), pcm(2, 1000, 24_000)
ANAS = pcm(7, 400, 16_000)


def test_a_tenants_calls_go_from_log_windows_rows_and_audio(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    gateway = Recorded(tmp_path / "log", store)
    gateway.call("c1", "14:10:00", SECRET, audio=[(ANAS, PLAYED)])
    gateway.call("c2", "14:11:00", "What Bob said.", tenant="bob", audio=[(ASKED, PLAYED)])
    gateway.seal("15:05:01")
    seal_hour(HandoffStore(store), HOUR, UTC_ZONE, run_id="run")
    # In a window that is open.
    gateway.call("c3", "15:30:00", SECRET)
    assert files_with(tmp_path, SECRET)
    assert has_audio(tmp_path, ANAS)
    before = audio_in(store, HOUR.key)
    assert len(before) == 4

    erase(store, gateway, Asked(kind="tenant", name="ana"))

    assert said_in(store, HOUR.key) == ["What Bob said."]
    rows = HandoffStore(store).open("recorded_calls", HOUR.key).table().to_pylist()
    left = {rows[0]["asked_item"], rows[0]["played_item"]}
    assert audio_in(store, HOUR.key) == {name: before[name] for name in left}
    assert files_with(tmp_path, SECRET) == []
    assert not has_audio(tmp_path, ANAS)
    assert has_audio(tmp_path, ASKED)


def test_a_call_goes_by_its_session_before_its_hour_is_sealed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    gateway = Recorded(tmp_path / "log", store)
    call = call_name("ana", "sess_1")
    gateway.call(call, "14:10:00", SECRET, session="sess_1", audio=[(ANAS, PLAYED)])
    gateway.call("c2", "14:11:00", "What Ana said in another one.", audio=[(ASKED, PLAYED)])
    gateway.seal("15:05:01")
    # It went on, in a window that is open.
    gateway.call(call, "15:30:00", SECRET, session="sess_1", epoch=2)
    assert files_with(tmp_path, SECRET)
    assert has_audio(tmp_path, ANAS)

    erase(store, gateway, Asked(kind="call", name="sess_1"))

    assert files_with(tmp_path, SECRET) == []
    assert not has_audio(tmp_path, ANAS)
    seal_hour(HandoffStore(store), HOUR, UTC_ZONE, run_id="run")
    assert said_in(store, HOUR.key) == ["What Ana said in another one."]
    assert len(audio_in(store, HOUR.key)) == 2


def test_rows_of_a_recorded_call_are_known_before_its_hour_is_sealed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    gateway = Recorded(tmp_path / "log", store)
    gateway.call("c1", "14:10:00", SECRET, audio=[(ANAS, PLAYED)])
    gateway.seal("15:05:01")
    clock = SystemClock()
    found = plan(store, clock, Asked(kind="tenant", name="ana"))
    seal_hour(HandoffStore(store), HOUR, UTC_ZONE, run_id="run")
    rows = HandoffStore(store).open("recorded_calls", HOUR.key).table(["row_id"])["row_id"].to_pylist()
    assert found.scope.rows == set(rows)


def erase(store: LocalStore, gateway: Recorded, asked: Asked) -> None:
    clock = SystemClock()
    note_calls_log(store, gateway.log, gateway.directory)
    erasure = decide(store, clock, plan(store, clock, asked), by="ben", reason="ticket 812")
    assert list(waiting_logs(store, erasure)) == [gateway.log]
    erase_in_log(store, clock, gateway.directory, ended_calls=ended_calls)
    assert waiting_logs(store, erasure) == {}
    assert carry_out(store, clock, erasure).is_over
    assert remains(store, clock, erasure) == []


def has_audio(directory: Path, pcm: bytes) -> bool:
    return any(pcm in file.read_bytes() for file in directory.rglob("*") if file.is_file())
