"""Gateways that have recorded calls: their logs, and what they seal of them."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from headrace.clock import FixedClock
from headrace.handoff.media.reading import MediaSet
from headrace.handoff.versions import HandoffStore
from headrace.inbox.log import EventLog
from headrace.inbox.sealing import Sealer
from headrace.keys import CallHour, call_feed
from headrace.serving.daemon_threads import DaemonThreads
from headrace.voice.audio import AudioWriter
from headrace.voice.hours import AUDIO, ROWS
from headrace.voice.recorded import Caller, Recording, begun, recorded_call
from headrace.voice.turns import TurnEvent
from simulation.inbox_site import seal_all

SERVICE = "voices"
UTC_ZONE = ZoneInfo("UTC")
DAY = "2026-11-22"
HOUR = CallHour(day=DAY, service=SERVICE, hour=14)
RULES = Recording(lateness_seconds=300.0)


def at(time: str, *, day: str = DAY, zone: tzinfo = UTC_ZONE, fold: int = 0) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=zone, fold=fold).timestamp()


def pcm(seed: int, ms: int, rate: int) -> bytes:
    """Noise of its own."""
    return random.Random(seed).randbytes(ms * rate // 1000 * 2)


@dataclass
class Recorded:
    """One gateway's log of recorded calls, and its sight of the store."""

    directory: Path
    store: Any
    clock: FixedClock = field(default_factory=lambda: FixedClock(at("13:00:00")))

    @property
    def log(self) -> str:
        """Its nonce."""
        with closing(self.open()) as log:
            return log.nonce

    def open(self) -> EventLog:
        return EventLog(self.directory, {}, own_rules=lambda nonce: RULES.feed_rules(SERVICE, nonce))

    def call(
        self,
        name: str,
        ended: str,
        *texts: str,
        epoch: int = 1,
        day: str = DAY,
        zone: tzinfo = UTC_ZONE,
        fold: int = 0,
        session: str = "",
        tenant: str = "ana",
        arrives: float | None = None,
        audio: Sequence[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """A call that ended then, with a turn and an answer of a second for each text.

        Args: audio: what was asked and played in each turn; it is in the store already.
        """
        ends = at(ended, day=day, zone=zone, fold=fold)
        events = call_events(texts, ends=ends, session=session or f"sess_{name}", tenant=tenant)
        if audio is not None:
            events = asyncio.run(self._with_audio(name, epoch, events, audio))
        with closing(self.open()) as log:
            made = recorded_call(name, epoch, events, ended_at=ends)
            assert made is not None
            log.append([made.event(call_feed(SERVICE, log.nonce))], int((arrives or ends) * 1e6))

    async def _with_audio(
        self, name: str, epoch: int, events: Sequence[TurnEvent], audio: Sequence[tuple[bytes, bytes]]
    ) -> list[TurnEvent]:
        writer = AudioWriter(self.store, SERVICE, threads=DaemonThreads(1, "recordings"))
        found: list[TurnEvent] = []
        for event in events:
            if event.kind == "said":
                asked, _ = audio[int(event.item[1:])]
                place = writer.put(name, epoch, asked)
                found.append(TurnEvent(kind="recorded", item=event.item, text=place, ms=len(asked) // 32))
            found.append(event)
            if event.kind == "sentence":
                _, played = audio[event.generation - 1]
                place = writer.put(name, epoch, played)
                found.append(
                    TurnEvent(kind="recorded", item=event.item, text=place, ms=event.ms, generation=event.generation)
                )
        await writer.end(name, epoch)
        await writer.close()
        return found

    def seal(self, now: str, *, day: str = DAY, zone: tzinfo = UTC_ZONE) -> None:
        """What the gateway does at that time."""
        self.clock.seconds = at(now, day=day, zone=zone)
        with closing(self.open()) as log:
            log.tick(int(self.clock.now() * 1e6))
            feed = call_feed(SERVICE, log.nonce)
            sealer = Sealer(self.store, log.nonce, zone, self.clock)
            sealer.claim(feed, log.windows[feed].standing.next_number - 1)
            seal_all(log, sealer)


def call_events(texts: Sequence[str], *, ends: float, session: str, tenant: str) -> list[TurnEvent]:
    events = [begun(Caller(session=session, tenant=tenant, version_set="a" * 64), generation=0, kept_ms=0)]
    for place, text in enumerate(texts):
        when, generation = ends - 10.0 * (len(texts) - place), place + 1
        item = f"a{generation}"
        events += [
            TurnEvent(kind="said", item=f"u{place}", text=text, at=when),
            TurnEvent(kind="answering", item=item, generation=generation, ms=1, at=when),
            TurnEvent(kind="sentence", item=item, text=f"So, {text}", ms=1000, generation=generation, at=when + 0.5),
            TurnEvent(kind="answered", generation=generation, ms=500, at=when + 0.6),
        ]
    return events


def said_in(store: Any, key: str) -> list[str]:
    table = HandoffStore(store).open(ROWS, key).table()
    return table["said"].to_pylist()


def audio_in(store: Any, key: str) -> dict[str, bytes]:
    found = HandoffStore(store).find(AUDIO, key)
    if found is None:
        return {}
    media = MediaSet.open(found)
    return {name: bytes(media.read(name)) for name in found.table()["item_id"].to_pylist()}
