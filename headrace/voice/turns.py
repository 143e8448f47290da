"""The conversation of one call as a function of its turn events: what was said, how far it was played, what goes on.

An answer has a generation number, the next one each time. Events of an answer carry it, and one that comes for an older
generation, or for an answer that was cut, changes nothing: whatever a slow stage still makes after a barge-in is
dropped here, and nowhere else needs to be trusted. The context of the next answer has of an earlier one what was
played, by the client's word or, until it speaks, by the clock; of a sentence that was cut, the words that fit in.

Pure: no clock, no I/O. Who applies the same events has the same call, on any gateway.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge

from headrace.engines.base import Message
from headrace.errors import InvalidInput

Kind = Literal[
    "speech_started", "speech_stopped", "said", "removed", "answering", "sentence", "played", "cut", "answered"
]
Speaker = Literal["user", "assistant", "system"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnEvent:
    """One thing that happened in a call.

    | kind | item | text | ms | generation |
    |---|---|---|---|---|
    | speech_started, speech_stopped | | | since the call's audio began | |
    | said | the new item | its text | | |
    | removed | which | | | |
    | answering | the answer's item | what the client instructs | 1: as audio, 0: as text | the new one |
    | sentence | the answer's item | a sentence | how long it lasts; 0: as text alone | the answer's |
    | played | whose | | of its audio, so much was played | |
    | cut | | why: `turn_detected`, `client_cancelled`, `failed` | | the answer's |
    | answered | | why it ends too early: `max_output_tokens`; empty: it does not | | the answer's |

    Attributes:
        by: who said it, of `said`.
        at: seconds since the epoch.
    """

    kind: Kind
    at: float = 0.0
    item: str = ""
    by: Speaker = "user"
    text: str = ""
    ms: Annotated[int, Ge(0)] = 0
    generation: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    text: str
    ms: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One message of the call. An answer has `sentences`, any other message `text`.

    Attributes:
        generation: of the answer that it is; 0: a client's.
        played_ms: None: all of it, as far as anybody knows.
        is_cut, reason: of an answer, how it ended: as its last event says.
    """

    id: str
    by: Speaker
    text: str = ""
    generation: int = 0
    sentences: tuple[Sentence, ...] = ()
    played_ms: int | None = None
    is_cut: bool = False
    reason: str = ""

    @property
    def ms(self) -> int:
        """How long its audio is."""
        return sum(sentence.ms for sentence in self.sentences)

    @property
    def heard(self) -> str:
        """Of an answer what was played; of what clients said or wrote, all."""
        if not self.generation:
            return self.text
        return " ".join(filter(None, heard_of(self.sentences, self.played_ms)))


@dataclass(frozen=True, kw_only=True, slots=True)
class CallState:
    """A call so far.

    Attributes:
        sequence: how many events it has seen, those that changed nothing too.
        generation: of the newest answer; 0: there was none.
        is_open: whether that answer goes on.
        instructions, is_spoken: its client's, for that answer.
    """

    sequence: int = 0
    generation: int = 0
    is_open: bool = False
    instructions: str = ""
    is_spoken: bool = True
    items: tuple[Item, ...] = field(default=())

    def item(self, name: str) -> Item | None:
        return next((item for item in self.items if item.id == name), None)

    def before(self, name: str) -> str | None:
        """The item in front of that one, which must be there; None: it is the first."""
        names = [item.id for item in self.items]
        place = names.index(name)
        return names[place - 1] if place else None

    @property
    def answer(self) -> Item | None:
        """The item of the newest answer."""
        found = (item for item in reversed(self.items) if item.generation == self.generation)
        return next(found, None) if self.generation else None

    def is_current(self, generation: int) -> bool:
        """Whether what a stage makes for this generation is still wanted."""
        return self.is_open and generation == self.generation

    def messages(self, *, up_to: str = "") -> tuple[Message, ...]:
        """The context of an answer: the items before that of name `up_to`, or all; items of which nothing was heard are
        left out."""
        found: list[Message] = []
        for item in self.items:
            if item.id == up_to:
                break
            if text := item.heard:
                found.append(Message(role=item.by, content=text))
        return tuple(found)


def applied(state: CallState, events: Iterable[TurnEvent]) -> CallState:
    """The call after these events. One that is not for it as it is now changes only its `sequence`."""
    for event in events:
        state = replace(_after(state, event), sequence=state.sequence + 1)
    return state


def _after(state: CallState, event: TurnEvent) -> CallState:
    match event.kind:
        case "said":
            if state.item(event.item) is not None:
                return state
            return replace(state, items=(*state.items, Item(id=event.item, by=event.by, text=event.text)))
        case "removed":
            return replace(state, items=tuple(item for item in state.items if item.id != event.item))
        case "answering":
            if event.generation != state.generation + 1 or state.item(event.item) is not None:
                return state
            item = Item(id=event.item, by="assistant", generation=event.generation)
            begun = replace(state, generation=event.generation, is_open=True, items=(*state.items, item))
            return replace(begun, instructions=event.text, is_spoken=bool(event.ms))
        case "sentence":
            answer = state.answer
            if not state.is_current(event.generation) or answer is None or answer.id != event.item:
                return state
            sentence = Sentence(text=event.text, ms=event.ms)
            return _with(state, replace(answer, sentences=(*answer.sentences, sentence)))
        case "played":
            item = state.item(event.item)
            if item is None or not item.generation:
                return state
            return _with(state, replace(item, played_ms=min(event.ms, item.ms)))
        case "cut" | "answered":
            return _ended(state, event)
        case "speech_started" | "speech_stopped":
            return state


def _ended(state: CallState, event: TurnEvent) -> CallState:
    """An answer that was made whole can still be cut before its client is told that it was."""
    answer, is_cut = state.answer, event.kind == "cut"
    if event.generation != state.generation or not (state.is_open or (is_cut and answer and not answer.is_cut)):
        return state
    ended = replace(state, is_open=False)
    return _with(ended, replace(answer, is_cut=is_cut, reason=event.text)) if answer else ended


def _with(state: CallState, changed: Item) -> CallState:
    return replace(state, items=tuple(changed if item.id == changed.id else item for item in state.items))


def heard_of(sentences: Sequence[Sentence], played_ms: int | None) -> list[str]:
    """What was heard of each sentence, if so much of their audio was played; None: all. A word counts if its last
    letter was played, its place in the sentence taken for its place in time."""
    if played_ms is None:
        return [sentence.text for sentence in sentences]
    found: list[str] = []
    begins = 0
    for sentence in sentences:
        share = (played_ms - begins) / sentence.ms if sentence.ms else 1.0
        begins += sentence.ms
        found.append(_words_within(sentence.text, share))
    return found


def _words_within(text: str, share: float) -> str:
    if share >= 1:
        return text
    end = int(len(text) * max(share, 0.0))
    if end < len(text) and not text[end].isspace():
        # In the middle of a word.
        end = max(text.rfind(" ", 0, end), 0)
    return text[:end].rstrip()


def check_played(state: CallState, name: str, ms: int) -> Item:
    """The item that a client says it played so much of.

    Raises: InvalidInput: there is no such answer, or it is not so long.
    """
    item = state.item(name)
    if item is None or not item.generation:
        raise InvalidInput(f"item_id must name an answer of this call, got {name[:64]!r}.")
    if ms > item.ms:
        raise InvalidInput(f"audio_end_ms must be at most the {item.ms} ms that {name} has, got {ms}.")
    return item
