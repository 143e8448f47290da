"""What one gateway had of a call, as turns: who said what, what was answered and played, and when. Pure.

A call that is recorded has all its turn events in the gateway's log until its end: at its end, or when the gateway
starts again after it was killed, they become one event of the log's inbox of calls (`headrace.keys.call_feed`), with a
turn for everything that was said. Audio is named here and is elsewhere (`headrace.voice.audio`).

A call that went on at another gateway has one such part at each; its turns there follow those here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from headrace.inbox.events import Event
from headrace.inbox.rules import ClockRules, InboxRules
from headrace.keys import call_feed, digest_text, feed_event
from headrace.store.small_objects import Record
from headrace.user_files.ranges import check_ranges
from headrace.voice.turns import Sentence, Speaker, TurnEvent, heard_of

SOURCE = "calls"
HOUR_SECONDS = 3_600
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is kept of calls for good: hours of them, sealed as partitions of the asset recorded_calls."""

    audio: bool = True
    """What was said and what was played, as recordings; false: texts and times alone."""
    lateness_seconds: Annotated[float, Ge(0), Le(86_400)] = 300.0
    """So long after its end an hour is sealed. Calls that are known later are sealed as late ones of their hour."""
    audio_days: Annotated[float, Gt(0)] = 7.0
    """Audio that waits for its hour to be sealed is deleted after so many days."""
    references: str | None = None
    """File of the project, with the columns row_id and text: what was said in turns to which somebody has listened.
    Mirrors measure word errors by it; null: by what the set of the call heard."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def rules(self) -> InboxRules:
        """Of the inbox in which a log has its calls."""
        # Late ones wait for others of their hour as long as an hour does.
        return ClockRules(window_seconds=HOUR_SECONDS, lateness_seconds=self.lateness_seconds, idle_seconds=1.0)

    def feed_rules(self, service: str, log: str) -> dict[str, InboxRules]:
        """The inbox of a log, by its name."""
        return {call_feed(service, log): self.rules()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who calls: the text of an event `begun`. `session`: as its client names it. `tenant`: its API key's name."""

    session: str
    tenant: str
    version_set: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """An item that is no turn: what a client had said by somebody else, such as instructions."""

    by: Speaker
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedTurn:
    """What a caller said once, and the answer to it, if it was answered here. Milliseconds, unless a name says seconds.

    Attributes:
        said: the transcript, or the text that a client sent; empty: an answer that nothing new was said for, or that
            goes on from another gateway.
        is_spoken: it was heard.
        noted: items since the turn before.
        started_ms, stopped_ms: of the speech, since the call's audio began here.
        ended_at: when the turn was said, seconds since the epoch.
        transcript_ms: from its end until it was understood.
        asked_audio, played_audio: where what was heard, and each sentence of the answer, is.
        generation: the answer's number in its call; 0: none.
        answer: as far as it was played.
        answer_ms, played_ms: how long the answer's audio is, and how much of it was played, from its beginning.
        before_ms: how much of that audio is another gateway's.
        first_audio_ms: from the turn's end until the first audio was sent.
    """

    said: str = ""
    is_spoken: bool = False
    noted: tuple[Noted, ...] = ()
    started_ms: Annotated[int, Ge(0)] | None = None
    stopped_ms: Annotated[int, Ge(0)] | None = None
    ended_at: float = 0.0
    transcript_ms: Annotated[int, Ge(0)] | None = None
    asked_audio: str = ""
    generation: Annotated[int, Ge(0)] = 0
    instructions: str = ""
    answer: str = ""
    answer_ms: Annotated[int, Ge(0)] = 0
    played_ms: Annotated[int, Ge(0)] = 0
    before_ms: Annotated[int, Ge(0)] = 0
    first_audio_ms: Annotated[int, Ge(0)] | None = None
    is_cut: bool = False
    played_audio: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedCall:
    """The data of an event of a service's calls. `call`, `epoch`: whose turn events they were."""

    call: str
    epoch: Annotated[int, Ge(1)]
    caller: Caller
    ended_at: float
    turns: tuple[RecordedTurn, ...]

    def event(self, feed: str) -> Event:
        """Its event: the same, however often it is made of one call and epoch."""
        return Event(
            campaign=feed,
            id=feed_event(self.call, self.epoch),
            source=SOURCE,
            time=int(self.ended_at * _MICROSECONDS),
            key=self.caller.session,
            sequence=self.epoch,
            tenant=self.caller.tenant,
            event_class="batch",
            deadline=None,
            data=json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")),
        )


def turn_row(service: str, call: RecordedCall, turn: int) -> str:
    """The row of a call's turn, from 1 on, in its hour."""
    return digest_text("call turn", service, call.call, str(call.epoch), str(turn))


CALLER = Record("Caller", Caller)
RECORDED_CALL = Record("Recorded call", RecordedCall)


def begun(caller: Caller, *, generation: int, kept_ms: int) -> TurnEvent:
    """The first event of a call that is recorded. Args: of its newest answer, which may go on here."""
    return TurnEvent(kind="begun", text=json.dumps(asdict(caller)), generation=generation, ms=kept_ms)


def recorded_call(
    call: str, epoch: int, events: Sequence[TurnEvent], *, ended_at: float | None = None
) -> RecordedCall | None:
    """Args: ended_at: None: with its last event. None: nobody said anything, or its beginning was not recorded.

    Raises: ValueError: its first event is none of ours.
    """
    if not events or events[0].kind != "begun":
        return None
    ended_at = max(event.at for event in events) if ended_at is None else ended_at
    turns = _turns(events, ended_at)
    if not turns:
        return None
    caller = CALLER.checked(events[0].text)
    return RecordedCall(call=call, epoch=epoch, caller=caller, ended_at=ended_at, turns=turns)


@dataclass(kw_only=True)
class _Turn:
    """A turn that goes on. `told`: what its `RecordedTurn` has so far; `first_at`: when its first sentence was sent."""

    told: RecordedTurn
    item: str = ""
    sentences: list[Sentence] = field(default_factory=list)
    first_at: float = 0.0
    played: int | None = None
    is_open: bool = False

    def note(self, **facts: Any) -> None:
        self.told = replace(self.told, **facts)

    def ended(self, at: float) -> RecordedTurn:
        """Args: at: when the call ended: of what nobody said anything, so much can have been played."""
        before = self.told.before_ms
        whole = before + sum(sentence.ms for sentence in self.sentences)
        by_clock = before + max(0, round((at - self.first_at) * 1000)) if self.sentences else whole
        played = max(before, min(whole, by_clock if self.played is None else self.played))
        heard = heard_of(self.sentences, played - before if whole > before else None)
        self.note(answer=" ".join(filter(None, heard)), answer_ms=whole, played_ms=played)
        if self.is_open:
            self.note(is_cut=True)
        return self.told


def _turns(events: Sequence[TurnEvent], ended_at: float) -> tuple[RecordedTurn, ...]:
    turns: list[_Turn] = []
    answers: dict[int, _Turn] = {}
    speech: dict[str, dict[str, TurnEvent]] = {}
    noted: list[Noted] = []

    def begin() -> _Turn:
        turns.append(_Turn(told=RecordedTurn(noted=tuple(noted))))
        noted.clear()
        return turns[-1]

    for event in events:
        match event.kind:
            case "speech_started" | "speech_stopped":
                speech.setdefault(event.item, {})[event.kind] = event
            case "recorded" if not event.generation:
                speech.setdefault(event.item, {})[event.kind] = event
            case "said" if event.by != "user":
                noted.append(Noted(by=event.by, text=event.text))
            case "said":
                heard = speech.get(event.item)
                last = turns[-1] if turns else None
                if heard is None and last and _is_written(last.told) and not noted:
                    # In several items: one turn.
                    last.note(said=f"{last.told.said}\n{event.text}", ended_at=event.at)
                else:
                    _say(begin(), event, heard)
            case "answering":
                last = turns[-1] if turns and not turns[-1].told.generation else begin()
                last.note(generation=event.generation, instructions=event.text)
                last.note(ended_at=last.told.ended_at or event.at)
                last.item, last.is_open = event.item, True
                answers[event.generation] = last
            case "sentence":
                turn = answers.get(event.generation)
                if turn is None and event.generation and event.generation == events[0].generation:
                    # Another gateway began it.
                    turn = answers[event.generation] = begin()
                    turn.note(generation=event.generation, ended_at=event.at, before_ms=events[0].ms)
                    turn.item, turn.is_open = event.item, True
                # What a stage made for an answer that was cut changes nothing.
                if turn is not None and turn.is_open:
                    turn.first_at = turn.first_at or event.at
                    turn.sentences.append(Sentence(text=event.text, ms=event.ms))
            case "recorded":
                turn = answers.get(event.generation)
                if turn is not None and turn.is_open:
                    turn.note(played_audio=(*turn.told.played_audio, event.text))
            case "played":
                for turn in answers.values():
                    if turn.item == event.item:
                        turn.played = event.ms
            case "cut" | "answered":
                turn = answers.get(event.generation)
                # One that was made whole can still be cut before its client is told that it was.
                is_late_cut = event.kind == "cut" and event.generation == max(answers, default=0)
                if turn is not None and (turn.is_open or is_late_cut):
                    turn.is_open = False
                    turn.note(is_cut=event.kind == "cut", first_audio_ms=event.ms or turn.told.first_audio_ms)
            case "removed" | "begun":
                pass
    return tuple(turn.ended(ended_at) for turn in turns)


def _is_written(turn: RecordedTurn) -> bool:
    """A turn of text that waits for its answer."""
    return bool(turn.said) and not (turn.is_spoken or turn.generation)


def _say(turn: _Turn, said: TurnEvent, heard: dict[str, TurnEvent] | None) -> None:
    turn.note(said=said.text, ended_at=said.at, is_spoken=heard is not None)
    heard = heard or {}
    if started := heard.get("speech_started"):
        turn.note(started_ms=started.ms)
    if stopped := heard.get("speech_stopped"):
        waited_ms = max(0, round((said.at - stopped.at) * 1000))
        turn.note(stopped_ms=stopped.ms, ended_at=stopped.at, transcript_ms=waited_ms)
    if recorded := heard.get("recorded"):
        turn.note(asked_audio=recorded.text)
