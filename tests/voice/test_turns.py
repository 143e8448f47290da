"""The conversation as a function of its events: no stale sentence, and a context of what was played."""

from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.errors import InvalidInput
from headrace.voice.playing import PlayClock
from headrace.voice.turns import CallState, Sentence, TurnEvent, applied, check_played, heard_of


def said(item: str, text: str) -> TurnEvent:
    return TurnEvent(kind="said", item=item, text=text)


def answering(generation: int) -> TurnEvent:
    return TurnEvent(kind="answering", item=f"a{generation}", generation=generation, ms=1)


def sentence(generation: int, text: str, ms: int = 1000) -> TurnEvent:
    return TurnEvent(kind="sentence", item=f"a{generation}", text=text, ms=ms, generation=generation)


def cut(generation: int) -> TurnEvent:
    return TurnEvent(kind="cut", generation=generation)


def played(item: str, ms: int) -> TurnEvent:
    return TurnEvent(kind="played", item=item, ms=ms)


def call(*events: TurnEvent) -> CallState:
    return applied(CallState(), events)


def context(state: CallState) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in state.messages()]


def test_a_sentence_of_a_cut_answer_changes_nothing() -> None:
    state = call(said("u", "Hello"), answering(1), sentence(1, "One."), cut(1), sentence(1, "Two."))
    assert context(state) == [("user", "Hello"), ("assistant", "One.")]
    assert state.sequence == 5


def test_a_sentence_of_an_earlier_answer_does_not_reach_the_next_one() -> None:
    state = call(answering(1), cut(1), answering(2), sentence(1, "Stale."), sentence(2, "Fresh."))
    assert context(state) == [("assistant", "Fresh.")]


def test_what_was_not_played_is_not_in_the_context() -> None:
    # Pipecat's issue 4996: the context had the whole answer, though its client had heard a second of it.
    events = [answering(1), sentence(1, "The mill turns."), sentence(1, "The river falls under the bridge.", 2000)]
    state = call(said("u", "Tell me."), *events, cut(1), played("a1", 2000))
    assert context(state) == [("user", "Tell me."), ("assistant", "The mill turns. The river falls")]


def test_an_answer_of_which_nothing_was_played_is_left_out() -> None:
    state = call(
        said("u", "Hello"), answering(1), sentence(1, "Never heard."), cut(1), played("a1", 0), said("v", "Hm")
    )
    assert context(state) == [("user", "Hello"), ("user", "Hm")]


def test_an_answer_begins_only_as_the_next_one() -> None:
    assert call(answering(2)) == CallState(sequence=1)
    assert call(answering(1), answering(1)).generation == 1


def test_a_clients_word_on_what_it_played_replaces_the_clocks() -> None:
    state = call(answering(1), sentence(1, "One two three four."), cut(1), played("a1", 250), played("a1", 1000))
    assert context(state) == [("assistant", "One two three four.")]


def test_the_context_of_an_answer_ends_before_it() -> None:
    state = call(said("u", "Hello"), answering(1), sentence(1, "One."))
    assert [message.content for message in state.messages(up_to="a1")] == ["Hello"]


def test_a_client_cannot_have_played_more_than_there_is() -> None:
    state = call(said("u", "Hello"), answering(1), sentence(1, "One.", 700))
    assert check_played(state, "a1", 700).id == "a1"
    with pytest.raises(InvalidInput, match="audio_end_ms must be at most the 700 ms that a1 has, got 701"):
        check_played(state, "a1", 701)
    with pytest.raises(InvalidInput, match="item_id must name an answer of this call, got 'u'"):
        check_played(state, "u", 0)


@pytest.mark.parametrize(
    ("played_ms", "heard"),
    [
        (None, ["One two.", "Three four."]),
        (0, ["", ""]),
        (499, ["One", ""]),
        (1000, ["One two.", ""]),
        (1600, ["One two.", "Three"]),
        (9999, ["One two.", "Three four."]),
    ],
)
def test_a_word_counts_once_its_end_was_played(played_ms: int | None, heard: list[str]) -> None:
    assert heard_of([Sentence(text="One two.", ms=1000), Sentence(text="Three four.", ms=1000)], played_ms) == heard


def test_a_text_answer_is_read_as_soon_as_it_is_there() -> None:
    assert heard_of([Sentence(text="Without sound.", ms=0)], 0) == ["Without sound."]


def test_the_clock_plays_what_was_sent_one_after_another() -> None:
    clock = PlayClock()
    clock.sent(400, 10.0)
    clock.sent(600, 10.1)
    assert [clock.played_ms(10.0 + late) for late in (0.0, 0.3, 0.9, 2.0)] == [0, 300, 900, 1000]
    # It ran dry: what comes later plays from then on.
    clock.sent(500, 12.0)
    assert clock.played_ms(12.2) == 1200
    assert clock.is_playing(12.4)
    assert not clock.is_playing(12.6)


class Barging(RuleBasedStateMachine):
    """Stages that make things at their own pace, for whichever generation, against what a listener would note."""

    def __init__(self) -> None:
        super().__init__()
        self.state = CallState()
        self.events: list[TurnEvent] = []
        # Generation → what was accepted while it was open.
        self.accepted: dict[int, list[tuple[str, int]]] = {}
        self.played: dict[int, int] = {}
        self.open = 0

    def happens(self, *events: TurnEvent) -> None:
        self.events += events
        self.state = applied(self.state, events)

    @rule(text=st.sampled_from(["What?", "Go on.", "Stop there, please."]))
    def a_client_speaks(self, text: str) -> None:
        self.happens(said(f"u{len(self.events)}", text))

    @rule()
    def an_answer_begins(self) -> None:
        generation = len(self.accepted) + 1
        self.happens(answering(generation))
        self.accepted[generation], self.open = [], generation

    @precondition(lambda self: self.accepted)
    @rule(back=st.integers(0, 3), words=st.integers(1, 6), ms=st.integers(1, 3000))
    def a_stage_makes_a_sentence(self, back: int, words: int, ms: int) -> None:
        generation = max(1, len(self.accepted) - back)
        text = " ".join(f"g{generation}n{len(self.events)}w{word}" for word in range(words))
        self.happens(sentence(generation, text, ms))
        if generation == self.open:
            self.accepted[generation].append((text, ms))

    @precondition(lambda self: self.accepted)
    @rule(back=st.integers(0, 3), kind=st.sampled_from(["cut", "answered"]), share=st.floats(0, 1))
    def an_answer_ends(self, back: int, kind: str, share: float) -> None:
        generation = max(1, len(self.accepted) - back)
        self.happens(TurnEvent(kind=kind, generation=generation))  # pyright: ignore[reportArgumentType]
        if generation != self.open:
            return
        self.open = 0
        if kind == "cut":
            self.played[generation] = int(share * sum(ms for _, ms in self.accepted[generation]))
            self.happens(played(f"a{generation}", self.played[generation]))

    @rule()
    def another_process_takes_the_call(self) -> None:
        self.state = applied(CallState(), self.events)

    @invariant()
    def every_sentence_was_made_for_an_answer_that_went_on(self) -> None:
        for item in self.state.items:
            if item.generation:
                kept = [(one.text, one.ms) for one in item.sentences]
                assert kept == self.accepted[item.generation]
        assert self.state.is_open == bool(self.open)
        assert self.state.sequence == len(self.events)

    @invariant()
    def the_context_is_what_was_played(self) -> None:
        words = [
            word for message in self.state.messages() if message.role == "assistant" for word in message.content.split()
        ]
        assert words == [word for generation in self.accepted for word in self.heard(generation)]

    def heard(self, generation: int) -> Sequence[str]:
        """By hand: each letter takes an equal part of its sentence's time."""
        left = self.played.get(generation)
        found: list[str] = []
        for text, ms in self.accepted[generation]:
            place = 0
            for word in text.split():
                place += len(word)
                if left is None or left >= ms or int(len(text) * max(left, 0) / ms) >= place:
                    found.append(word)
                place += 1
            left = None if left is None else left - ms
        return found


TestBarging = Barging.TestCase
