"""Calls on their way from a gateway to its inbox: each once, whatever is killed between its turns and its event."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.handoff.versions import HandoffStore
from headrace.inbox.intake import Intake
from headrace.inbox.log import LogUnavailable
from headrace.inbox.sealing import Sealer
from headrace.keys import call_feed
from headrace.serving.daemon_threads import DaemonThreads
from headrace.store.local import LocalStore
from headrace.voice.audio import AudioWriter, audio_of
from headrace.voice.hours import seal_hour
from headrace.voice.kept import CallStore, TakenCall
from headrace.voice.recorded import Caller
from headrace.voice.recording import CallRecorder, CallRecording, LogUntilRecorded
from headrace.voice.segments import CallTaken, SegmentWriter
from headrace.voice.turns import CallState, TurnEvent, applied
from tests.serving.builders import TroubledStore
from tests.voice.recorded_builders import HOUR, RULES, SERVICE, UTC_ZONE, Recorded, at, said_in

CALL = "c" * 64
CALLER = Caller(session="sess_1", tenant="ana", version_set="a" * 64)


class Gateway:
    """A gateway that records: within a running loop, until `kill`."""

    def __init__(self, directory: Path, store: Any) -> None:
        self.clock = FixedClock(at("14:10:00"))
        self.told: list[str] = []
        threads = DaemonThreads(2, "calls")
        self.intake = Intake(
            directory,
            {},
            lambda nonce: Sealer(store, nonce, UTC, self.clock),
            clock=self.clock,
            record=lambda what, /, **facts: None,
            own_rules=lambda nonce: RULES.feed_rules(SERVICE, nonce),
        )
        self.intake.start()
        log = LogUntilRecorded(self.intake)
        self.audio = AudioWriter(store, SERVICE, threads=threads)
        self.calls = CallStore(
            store=store,
            service=SERVICE,
            log=log,
            reader=self.intake.reader(),
            segments=SegmentWriter(store, SERVICE, threads=threads),
            threads=threads,
            clock=self.clock,
        )
        self.recorder = CallRecorder(
            log=log,
            reader=self.intake.reader(),
            feed=call_feed(SERVICE, self.intake.nonce),
            audio=self.audio,
            clock=self.clock,
            told=self.told.append,
        )

    async def begin(self, *texts: str) -> "Talking":
        """Takes the call, as soon as what was begun before is recorded, and says that."""
        with suppress(LogUnavailable):
            await self.recorder.recover()
        taken = await self.calls.take(CALL)
        talking = Talking(taken, self.recorder.begin(CALL, taken.epoch, taken.keep), self.clock)
        await talking.happened(talking.recording.first(CALLER, taken.state))
        await talking.say(*texts)
        return talking

    def kill(self) -> None:
        """The log's file is as its last commit left it."""
        self.intake.close(0.0)


class Talking:
    def __init__(self, taken: TakenCall, recording: CallRecording, clock: FixedClock) -> None:
        self.taken, self.recording, self._clock = taken, recording, clock
        self.state: CallState = taken.state

    async def happened(self, *events: TurnEvent) -> None:
        stamped = [TurnEvent(**{**_fields(event), "at": self._clock.now()}) for event in events]
        self.state = applied(self.state, stamped)
        await self.recording.keep(stamped, self.state)

    async def say(self, *texts: str) -> None:
        for text in texts:
            name = f"u{self.state.sequence}"
            self._clock.advance(1.0)
            await self.happened(TurnEvent(kind="said", item=name, text=text))


def _fields(event: TurnEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in TurnEvent.__slots__}


def sealed(tmp_path: Path, store: Any, *logs: str) -> Sequence[str]:
    for log in logs:
        Recorded(tmp_path / log, store).seal("15:05:01")
    seal_hour(HandoffStore(store), HOUR, UTC_ZONE, run_id="run")
    return said_in(store, HOUR.key)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_a_call_that_ended_is_recorded_once_whoever_looks_at_the_log_again(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path / "log", store)
        call = await gateway.begin("Hello.", "Again.")
        # The process is killed before its log forgets the turns.
        monkeypatch.setattr(gateway.intake, "forget", lambda *turn: None)
        await call.recording.end()
        gateway.kill()
        again = Gateway(tmp_path / "log", store)
        assert again.intake.reader().calls(), "its turns are still there"
        assert await again.recorder.recover() == 0
        again.kill()

    asyncio.run(work())
    assert sealed(tmp_path, store, "log") == ["Hello.\nAgain."]


def test_a_call_whose_gateway_was_killed_is_recorded_when_it_starts_again(tmp_path: Path, store: LocalStore) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path / "log", store)
        await gateway.begin("Hello.")
        gateway.kill()
        again = Gateway(tmp_path / "log", store)
        # Its clock is another day's; the call ended when it last said something.
        again.clock.advance(86_400.0)
        assert await again.recorder.recover() == 1
        assert await again.recorder.recover() == 0
        again.kill()

    asyncio.run(work())
    one = Recorded(tmp_path / "log", store)
    one.seal("23:59:59")
    seal_hour(HandoffStore(store), HOUR, UTC_ZONE, run_id="run")
    assert said_in(store, HOUR.key) == ["Hello."]


def test_a_call_that_the_log_alone_has_goes_on_from_it_though_it_is_recorded(tmp_path: Path, store: LocalStore) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path / "log", store)
        await gateway.begin("Hello.")
        gateway.kill()
        # The store failed while it was said.
        store.delete_prefix(f"rollout/{SERVICE}/turns")
        again = Gateway(tmp_path / "log", store)
        assert await again.recorder.recover() == 1
        # Until its log would have forgotten what it is told to.
        await asyncio.sleep(0.6)
        call = await again.begin("And again.")
        assert [item.text for item in call.state.items] == ["Hello.", "And again."]
        await call.recording.end()
        await call.taken.close()
        while again.intake.reader().calls():
            await asyncio.sleep(0.01)
        again.kill()

    asyncio.run(work())
    assert sorted(sealed(tmp_path, store, "log")) == ["And again.", "Hello."]


def test_a_call_that_goes_on_elsewhere_is_recorded_by_each_as_far_as_it_had_it(
    tmp_path: Path, store: LocalStore
) -> None:
    async def work() -> None:
        one, two = Gateway(tmp_path / "one", store), Gateway(tmp_path / "two", store)
        first = await one.begin("Here.")
        second = await two.begin()
        assert [item.text for item in second.state.items] == ["Here."]
        await second.say("There.")
        with pytest.raises(CallTaken):
            await first.say("Nobody heard this.")
        await first.recording.end()
        await second.recording.end()
        for gateway in (one, two):
            gateway.kill()

    asyncio.run(work())
    assert sorted(sealed(tmp_path, store, "one", "two")) == ["Here.", "There."]
    rows = HandoffStore(store).open("recorded_calls", HOUR.key).table(["said", "epoch", "session"]).to_pylist()
    assert {(row["said"], row["epoch"], row["session"]) for row in rows} == {
        ("Here.", 1, "sess_1"),
        ("There.", 2, "sess_1"),
    }


def test_a_log_that_takes_nothing_has_the_call_recorded_when_it_is_opened_again(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path / "log", store)
        call = await gateway.begin("Hello.")

        async def full(events: object) -> list[bool]:
            raise LogUnavailable("The disk is full.")

        monkeypatch.setattr(gateway.intake, "take", full)
        await call.recording.end()
        assert gateway.told == ["call cccccccccccc is recorded later: The disk is full."]
        gateway.kill()
        again = Gateway(tmp_path / "log", store)
        assert await again.recorder.recover() == 1
        again.kill()

    asyncio.run(work())
    assert sealed(tmp_path, store, "log") == ["Hello."]


def test_what_could_not_be_recovered_is_not_forgotten_with_what_follows(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        gateway = Gateway(tmp_path / "log", store)
        await gateway.begin("Hello.")
        gateway.kill()
        again = Gateway(tmp_path / "log", store)
        take = again.intake.take

        async def full(events: object) -> list[bool]:
            raise LogUnavailable("The disk is full.")

        monkeypatch.setattr(again.intake, "take", full)
        call = await again.begin("And again.")
        monkeypatch.setattr(again.intake, "take", take)
        await call.recording.end()
        # Until its log would have forgotten what it is told to.
        await asyncio.sleep(0.6)
        again.kill()
        third = Gateway(tmp_path / "log", store)
        # "And again." is in the log's inbox already.
        assert await third.recorder.recover() == 1
        third.kill()

    asyncio.run(work())
    assert sorted(sealed(tmp_path, store, "log")) == ["And again.", "Hello."]


def test_audio_is_where_its_event_says_before_anybody_waits_for_it(tmp_path: Path, store: LocalStore) -> None:
    one, two = bytes(range(200)), bytes(reversed(range(200)))

    async def work() -> list[TurnEvent]:
        gateway = Gateway(tmp_path / "log", store)
        call = await gateway.begin()
        places = [call.recording.audio("u1", pcm, 5) for pcm in (one, two)]
        assert store.list("rollout/voices/recordings") == []
        await call.recording.end()
        gateway.kill()
        return places

    places = [event.text for event in asyncio.run(work())]
    assert len(store.list("rollout/voices/recordings")) == 1
    assert audio_of(store, SERVICE, CALL, 1, [*places, "", "1/0/200/" + "0" * 16, "7/0/9/" + "0" * 16]) == [
        one,
        two,
        None,
        None,
        None,
    ]


def test_a_store_that_fails_costs_time_and_no_audio(tmp_path: Path) -> None:
    troubled = TroubledStore()

    async def work() -> str:
        writer = AudioWriter(troubled, SERVICE, threads=DaemonThreads(1, "recordings"))
        place = writer.put(CALL, 1, bytes(400))
        troubled.fates.extend(["refused", "lost"])
        await writer.end(CALL, 1)
        await writer.end(CALL, 1)
        await writer.close()
        return place

    place = asyncio.run(work())
    assert audio_of(troubled, SERVICE, CALL, 1, [place]) == [bytes(400)]


def test_a_store_that_is_away_for_long_costs_the_oldest_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.voice.audio._WAITING_BYTES_MAX", 1000)
    troubled, lost = TroubledStore(), list[int]()

    async def work() -> list[str]:
        writer = AudioWriter(troubled, SERVICE, threads=DaemonThreads(1, "recordings"), lost=lost.append)
        places: list[str] = []
        for epoch in range(1, 5):
            places.append(writer.put(CALL, epoch, bytes(400)))
            troubled.fates.append("refused")
            await writer.end(CALL, epoch)
        await writer.close()
        return places

    places = asyncio.run(work())
    assert lost == [400, 400]
    found = [audio_of(troubled, SERVICE, CALL, epoch, [place])[0] for epoch, place in enumerate(places, 1)]
    assert found == [None, None, bytes(400), bytes(400)]
