"""Seals the calls of an hour as one partition: a row a turn (`recorded_calls`), its audio packed (`recorded_audio`).

Each gateway's log seals its own calls as windows of an inbox, an hour each (`headrace.voice.recorded`). An hour of the
service is what all of them have sealed when somebody first asks for it, some minutes after its end. That is decided
once: by the first object of the hour's chain, `rollout/<name>/hours/<day>-<hour>/00000001.json`, which names the
windows. What is sealed later is the hour's late part, the next object, and so on: a window is in exactly one.

Everything else follows from that object, so whoever is killed is followed by another that makes the same. The audio's
own objects go once the rows are sealed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any

import pyarrow as pa

from headrace.clock import Clock, SystemClock, epoch_seconds, iso
from headrace.engines.hearing import SAMPLE_RATE as HEARD_RATE
from headrace.engines.sound_samples import wav_of_pcm
from headrace.errors import HandoffMissing
from headrace.handoff.media.index import MediaItem
from headrace.handoff.media.publishing import publish_media
from headrace.handoff.schemas import RECORDED_CALLS
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.inbox.sealed import SealedWindow, window_events, windows_chain
from headrace.keys import CallHour, digest_text, feed_event, feed_service, partition_from_path
from headrace.rollout.layout import rollout_prefix
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Kind
from headrace.voice.audio import audio_of, drop_audio
from headrace.voice.recorded import RECORDED_CALL, SOURCE, RecordedCall, RecordedTurn, turn_row
from headrace.voice.rings import SAMPLE_RATE as SENT_RATE
from headrace.voice.turns import answer_seed

ROWS, AUDIO = "recorded_calls", "recorded_audio"
# The same turns, asked again of two sets (`headrace.voice.mirroring`).
MIRRORED = "mirrored_calls"
_CODE_VERSION = "1"
_INBOXES = "inbox"
_MS = 1000
_REMEDY = (
    "Restore it from a backup of the store. Its calls are still there, in windows of the service's inboxes, and their "
    "audio for as long as `recording: audio_days` says."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedWindow:
    """A sealed window of one log's calls, by its inbox and its number in that one's chain."""

    inbox: str
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HourOfCalls:
    """Which windows an hour of a service's calls has, or one of its late parts.

    Attributes:
        hour: the partition: `2026-11-22|voices-h14`, `2026-11-22|voices-h14-late`.
        at: when that was decided, ISO 8601.
    """

    hour: str
    windows: tuple[NamedWindow, ...]
    at: str


HOUR = Kind("Hour of calls", HourOfCalls, _REMEDY)


def hour_chain(store: ObjectStore, hour: CallHour) -> Chain[HourOfCalls]:
    """All parts of an hour, the hour itself first."""
    prefix = f"{rollout_prefix(hour.service, 'hours')}/{hour.day}-{hour.hour:02d}"
    return Chain(store=store, prefix=prefix, kind=HOUR, remedy=_REMEDY)


def hour_of(service: str, window: SealedWindow, zone: tzinfo) -> CallHour:
    """The hour of a window's last moment: until three o'clock is the hour that ends then."""
    last = datetime.fromtimestamp(epoch_seconds(window.ends_at) - 1, zone)
    return CallHour(day=last.strftime("%Y-%m-%d"), service=service, hour=last.hour)


def hour_ends(hour: CallHour, zone: tzinfo) -> float:
    """Seconds since the epoch. Of an hour that the clock has twice, the second one's end."""
    return _local(hour, zone, fold=1).timestamp() + timedelta(hours=1).total_seconds()


def feeds_of(store: ObjectStore, service: str) -> list[str]:
    """The inboxes of all logs that have sealed calls of a service."""
    names = map(partition_from_path, store.children(_INBOXES))
    return sorted(name for name in names if feed_service(name) == service)


def windows_of_hour(store: ObjectStore, hour: CallHour, zone: tzinfo) -> list[NamedWindow]:
    """The windows of an hour that are sealed now, late ones too. Reads each chain from its end back to the hour.

    Raises: HandoffCorrupt: a chain is damaged.
    """
    # Nothing of an hour is sealed before it begins; clocks of gateways may differ by as much as an hour.
    begins = _local(hour, zone, fold=0).timestamp() - timedelta(hours=1).total_seconds()
    found: list[NamedWindow] = []
    for feed in feeds_of(store, hour.service):
        chain = windows_chain(store, feed)
        own: list[NamedWindow] = []
        for number in range(chain.newest(), 0, -1):
            window = chain.read(number)
            if epoch_seconds(window.sealed_at) < begins:
                break
            if hour_of(hour.service, window, zone).key == _whole(hour).key:
                own.append(NamedWindow(inbox=feed, number=number))
        found += reversed(own)
    return found


def left_of_hour(store: ObjectStore, hour: CallHour, zone: tzinfo) -> tuple[int, list[NamedWindow]]:
    """How many parts of an hour are decided, and the windows that none of them has."""
    chain = hour_chain(store, hour)
    parts = [chain.read(number) for number in chain.numbers()]
    taken = {window for part in parts for window in part.windows}
    return len(parts), [window for window in windows_of_hour(store, hour, zone) if window not in taken]


@dataclass(frozen=True, kw_only=True)
class SealedHour:
    """`rows`: a row a turn. `audio`: None: no audio is kept. `num_lost`: turns whose audio is lost, all or some."""

    hour: CallHour
    rows: Handoff
    audio: Handoff | None
    num_calls: int
    num_windows: int
    num_lost: int
    seconds_since_end: float

    def figures(self) -> dict[str, int | float | str]:
        """A run's figures, by name and unit."""
        audio = self.audio.manifest if self.audio else None
        return {
            "num_calls": self.num_calls,
            "num_turns": self.rows.num_rows,
            "num_recordings": audio.num_rows if audio else 0,
            "num_turns_without_audio": self.num_lost,
            "num_windows": self.num_windows,
            "late_part": self.hour.late_part,
            "seconds_since_end": round(self.seconds_since_end, 3),
        }


def seal_hour(
    handoffs: HandoffStore, hour: CallHour, zone: tzinfo, *, run_id: str, clock: Clock | None = None
) -> SealedHour:
    """Seals an hour, or one of its late parts; returns it if it is sealed.

    Raises:
        HandoffMissing: no call of it is known, or none that an earlier part lacks; or an earlier part is not decided.
        HandoffCorrupt: a window is damaged.
    """
    store, now = handoffs.objects, (clock or SystemClock()).now()
    decided = _decided(store, hour, zone, now)
    calls = list(_calls(store, decided))
    turns = _Turns(store, hour.service, calls)
    once = {"hour": hour.key}
    audio = handoffs.find(AUDIO, hour.key, **once)
    if audio is None and turns.have_audio:
        stated = {"code_version": _CODE_VERSION, "run_id": run_id, "once": once}
        audio = publish_media(handoffs, AUDIO, hour.key, turns.items(), **stated)
    items = set(audio.table(["item_id"])["item_id"].to_pylist()) if audio else set[str]()
    rows = handoffs.publish(
        ROWS,
        hour.key,
        pa.Table.from_pylist(list(turns.rows(items)), schema=RECORDED_CALLS),
        code_version=_CODE_VERSION,
        run_id=run_id,
        input_versions={f"{AUDIO}[{hour.key}]": f"v{audio.version} {audio.content_digest}"} if audio else {},
        attributes={"num_windows": str(len(decided.windows))},
        once=once,
    )
    for call in calls:
        drop_audio(store, hour.service, call.call, call.epoch)
    return SealedHour(
        hour=hour,
        rows=rows,
        audio=audio,
        num_calls=len({call.call for call in calls}),
        num_windows=len(decided.windows),
        num_lost=sum(name not in items for name in turns.wanted),
        seconds_since_end=now - hour_ends(hour, zone),
    )


def _decided(store: ObjectStore, hour: CallHour, zone: tzinfo, now: float) -> HourOfCalls:
    chain, number = hour_chain(store, hour), hour.late_part + 1
    if (num_parts := chain.newest()) >= number:
        return chain.read(number)
    if num_parts < number - 1:
        before = CallHour(day=hour.day, service=hour.service, hour=hour.hour, late_part=num_parts)
        raise HandoffMissing(f"{ROWS}[{hour.key}] follows {before.key}, which is not made yet: make that first.")
    _, left = left_of_hour(store, hour, zone)
    if not left:
        what = "No call that ended in this hour is sealed" if number == 1 else "Every call that came late is sealed"
        raise HandoffMissing(
            f"{ROWS}[{hour.key}] cannot be made: {what}. Gateways seal an hour's calls some minutes after its end, if "
            f"the file of {hour.service} has `recording`; `headrace inbox status` shows what waits."
        )
    return chain.create(number, HourOfCalls(hour=hour.key, windows=tuple(left), at=iso(now))).value


def _calls(store: ObjectStore, decided: HourOfCalls) -> Iterator[RecordedCall]:
    """Those that were not erased since, in the order of windows and names. Raises: HandoffCorrupt."""
    for one in decided.windows:
        window = windows_chain(store, one.inbox).read(one.number)
        for data in window_events(store, window)["data"].to_pylist():
            yield RECORDED_CALL.checked(data)


@dataclass(frozen=True)
class _Turns:
    """The turns of an hour's calls."""

    store: ObjectStore
    service: str
    calls: Sequence[RecordedCall]

    @cached_property
    def _named(self) -> list[tuple[RecordedCall, int, RecordedTurn, str]]:
        return [
            (call, place, turn, turn_row(self.service, call, place))
            for call in self.calls
            for place, turn in enumerate(call.turns, 1)
        ]

    @property
    def have_audio(self) -> bool:
        return bool(self.wanted)

    @cached_property
    def wanted(self) -> list[str]:
        """The items that there should be."""
        found: list[str] = []
        for _, _, turn, row in self._named:
            found += [_item(row, "asked")] if turn.asked_audio else []
            found += [_item(row, "played")] if turn.played_audio and turn.played_ms > turn.before_ms else []
        return found

    def items(self) -> Iterator[MediaItem]:
        wanted = set(self.wanted)
        for call, _, turn, row in self._named:
            for what, places, rate, text in (
                ("asked", [turn.asked_audio], HEARD_RATE, turn.said),
                ("played", list(turn.played_audio), SENT_RATE, turn.answer),
            ):
                if _item(row, what) not in wanted:
                    continue
                pieces = audio_of(self.store, self.service, call.call, call.epoch, places)
                if None in pieces:
                    continue
                pcm = b"".join(piece for piece in pieces if piece is not None)
                if what == "played":
                    pcm = pcm[: (turn.played_ms - turn.before_ms) * rate // _MS * 2]
                yield _recording(_item(row, what), pcm, rate, text=text, row=row, call=call)

    def rows(self, items: set[str]) -> Iterator[dict[str, Any]]:
        for call, place, turn, row in self._named:
            asked, played = _item(row, "asked"), _item(row, "played")
            yield {
                "row_id": row,
                "prompt_id": digest_text("call turn's prompt", row),
                "event_id": feed_event(call.call, call.epoch),
                "event_source": SOURCE,
                "session": call.caller.session,
                "call": call.call,
                "epoch": call.epoch,
                "turn": place,
                "tenant": call.caller.tenant,
                "version_set": call.caller.version_set,
                "seed": answer_seed(call.caller.session, turn.generation) if turn.generation else None,
                "ended_at": datetime.fromtimestamp(turn.ended_at, UTC),
                "is_spoken": turn.is_spoken,
                "said": turn.said,
                "noted": json.dumps([asdict(one) for one in turn.noted], ensure_ascii=False),
                "instructions": turn.instructions,
                "answer": turn.answer,
                "is_cut": turn.is_cut,
                "speech_started_ms": turn.started_ms,
                "speech_stopped_ms": turn.stopped_ms,
                "transcript_ms": turn.transcript_ms,
                "first_audio_ms": turn.first_audio_ms,
                "answer_ms": turn.answer_ms,
                "played_ms": turn.played_ms,
                "asked_item": asked if asked in items else None,
                "played_item": played if played in items else None,
            }


def _item(row: str, what: str) -> str:
    return f"{row}/{what}"


def _recording(item: str, pcm: bytes, rate: int, *, text: str, row: str, call: RecordedCall) -> MediaItem:
    return MediaItem(
        item_id=item,
        media_type="audio/wav",
        content=wav_of_pcm(pcm, rate),
        duration_seconds=len(pcm) / 2 / rate,
        caption=text,
        row_id=row,
        version_set=call.caller.version_set,
    )


def _whole(hour: CallHour) -> CallHour:
    return CallHour(day=hour.day, service=hour.service, hour=hour.hour)


def _local(hour: CallHour, zone: tzinfo, *, fold: int) -> datetime:
    day = datetime.strptime(hour.day, "%Y-%m-%d")
    return day.replace(hour=hour.hour, tzinfo=zone, fold=fold)
