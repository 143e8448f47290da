"""Calls of gateway processes that record them: what was said and played is in their sealed hour, also after a kill."""

import time
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.engines.media_bytes import sound_of
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.inbox.log import EventLog
from headrace.inbox.sealed import windows_chain
from headrace.inbox.sealing import Sealer
from headrace.keys import call_feed
from headrace.voice.hours import hour_of, seal_hour
from headrace.voice.recorded import Recording
from simulation.inbox_site import seal_all
from simulation.servers.calls import SAMPLE_RATE, Caller, calling, spoken_roles
from simulation.servers.gateway_site import KEY_NAME, Site

pytestmark = pytest.mark.process
pytest.importorskip("faster_whisper", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")

RULES = Recording()
# Two seconds of something; echo's ears hear words in it.
SOUND = bytes(range(256)) * (SAMPLE_RATE * 4 // 256)


def make_site(directory: Path) -> Site:
    site = Site.make(directory, {**spoken_roles(), "recording": {}})
    site.initialize()
    return site


def rows_of(site: Site, log: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The turns that its log seals two hours later, and their audio."""
    clock, service = FixedClock(time.time() + 7_200), site.service.name
    with closing(EventLog(site.directory / log, {}, own_rules=lambda nonce: RULES.feed_rules(service, nonce))) as made:
        made.tick(int(clock.now() * 1e6))
        seal_all(made, Sealer(site.store, made.nonce, UTC, clock))
        feed = call_feed(service, made.nonce)
    chain = windows_chain(site.store, feed)
    hours = {hour_of(service, chain.read(number), UTC) for number in chain.numbers()}
    rows: list[dict[str, Any]] = []
    audio: dict[str, bytes] = {}
    for hour in sorted(hours):
        sealed = seal_hour(HandoffStore(site.store), hour, UTC, run_id="run")
        rows += sealed.rows.table().to_pylist()
        if sealed.audio:
            media = MediaSet.open(sealed.audio)
            audio |= {name: media.read(name) for name in media.ids()}
    return sorted(rows, key=lambda row: row["ended_at"]), audio


def speak_and_commit(caller: Caller) -> str:
    """Says something, and gets its answer. Returns the transcript."""
    caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    caller.until("session.updated")
    caller.speak(SOUND)
    caller.send("input_audio_buffer.commit")
    heard = caller.until("conversation.item.input_audio_transcription.completed")["transcript"]
    caller.send("response.create")
    caller.until("response.done")
    return heard


def test_a_call_is_in_its_hour_with_what_was_said_and_played(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    with (
        site.started("--inbox-log", str(site.directory / "log")) as gateway,
        calling(gateway, query="session=s1") as caller,
    ):
        heard = speak_and_commit(caller)
        spoken = caller.audio
        answer = caller.of("response.done")[0]["response"]["output"][0]["content"][0]["transcript"]
        # Until it was played.
        time.sleep(len(spoken) / 2 / SAMPLE_RATE)
        caller.say("And in writing?")
        caller.send("response.create", response={"output_modalities": ["text"]})
        written = caller.until("response.output_text.done")["text"]
        caller.until("response.done")
        # It goes down while the call goes on.
        assert gateway.terminate() == 0
    first, second = rows_of(site, "log")[0]
    assert (first["said"], first["answer"], first["is_spoken"], first["is_cut"]) == (heard, answer, True, False)
    assert (second["said"], second["answer"], second["is_spoken"]) == ("And in writing?", written, False)
    for row in (first, second):
        assert (row["session"], row["tenant"], row["epoch"]) == ("s1", KEY_NAME, 1)
        assert row["version_set"] == site.version_set().id
        assert abs(row["ended_at"].timestamp() - time.time()) < 300
    assert first["first_audio_ms"] > 0
    assert first["played_ms"] == first["answer_ms"] == len(spoken) * 1000 // (2 * SAMPLE_RATE)
    assert (second["answer_ms"], second["first_audio_ms"], second["asked_item"]) == (0, None, None)
    rows, audio = rows_of(site, "log")
    assert len(rows) == 2, "an hour that is sealed stays"
    assert bytes(sound_of(audio[first["played_item"]]).data) == spoken
    asked = sound_of(audio[first["asked_item"]])
    assert asked.sample_rate == 16_000
    assert asked.duration_seconds == pytest.approx(len(SOUND) / 2 / SAMPLE_RATE, abs=0.1)


def test_a_gateway_that_is_killed_in_a_call_records_it_when_it_starts_again(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    options = ("--inbox-log", str(site.directory / "log"))
    gateway = site.start(*options)
    with calling(gateway, query="session=s1") as caller:
        caller.say("Hello")
        caller.send("response.create")
        caller.until("response.done")
        gateway.process.kill()
        gateway.process.wait()
    with site.started(*options) as gateway:
        gateway.wait_for("calls recorded")
        with calling(gateway, query="session=s1") as caller:
            caller.say("And again")
            caller.send("response.create")
            caller.until("response.done")
        assert gateway.terminate() == 0
    rows, _ = rows_of(site, "log")
    assert [(row["said"], row["epoch"]) for row in rows] == [("Hello", 1), ("And again", 2)]
    assert {row["call"] for row in rows} == {rows[0]["call"]}


def test_nothing_is_kept_of_calls_unless_the_services_file_says_so(tmp_path: Path) -> None:
    site = Site.make(tmp_path / "site", spoken_roles())
    site.initialize()
    with site.started("--inbox-log", str(site.directory / "log")) as gateway, calling(gateway) as caller:
        speak_and_commit(caller)
    assert site.store.children("inbox") == []
    assert site.store.list("rollout/assistant/recordings") == []
