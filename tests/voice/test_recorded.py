"""Turns of a call as a function of its turn events: everything that was said, once, and of answers what was played."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.inbox.events import Event
from headrace.voice.recorded import RECORDED_CALL, Caller, Noted, RecordedTurn, begun, recorded_call
from headrace.voice.turns import CallState, TurnEvent, applied

CALLER = Caller(session="sess_1", tenant="ana", version_set="a" * 64)


def turns_of(*events: TurnEvent, ended_at: float | None = None, kept_ms: int = 0) -> tuple[RecordedTurn, ...]:
    first = begun(CALLER, generation=1 if kept_ms else 0, kept_ms=kept_ms)
    call = recorded_call("c" * 64, 1, [first, *events], ended_at=ended_at)
    return call.turns if call else ()


def said(item: str, text: str, at: float = 0.0, **more: str) -> TurnEvent:
    return TurnEvent(kind="said", item=item, text=text, at=at, **more)  # pyright: ignore[reportArgumentType]


def answer(generation: int, *texts: str, at: float = 0.0, is_whole: bool = True) -> list[TurnEvent]:
    """Of a second a sentence, its first audio 400 ms after its turn."""
    item = f"a{generation}"
    made = [TurnEvent(kind="answering", item=item, generation=generation, ms=1, at=at)]
    for place, text in enumerate(texts):
        made.append(TurnEvent(kind="sentence", item=item, text=text, ms=1000, generation=generation, at=at + 0.4))
        made.append(
            TurnEvent(kind="recorded", item=item, text=f"1/{place}/2/{'0' * 16}", ms=1000, generation=generation)
        )
    if is_whole:
        made.append(TurnEvent(kind="answered", generation=generation, ms=400, at=at + 1.0))
    return made


def heard(item: str, text: str, *, at: float) -> list[TurnEvent]:
    """Two seconds of speech that ended then, understood 300 ms later."""
    return [
        TurnEvent(kind="speech_started", item=item, ms=500, at=at - 2.0),
        TurnEvent(kind="speech_stopped", item=item, ms=2500, at=at),
        TurnEvent(kind="recorded", item=item, text="1/0/64000/" + "f" * 16, ms=2000, at=at + 0.3),
        said(item, text, at + 0.3),
    ]


def test_a_spoken_turn_has_its_times_its_audio_and_what_was_played() -> None:
    [turn] = turns_of(*heard("u1", "Hello there.", at=100.0), *answer(1, "One.", "Two.", at=100.3), ended_at=200.0)
    assert turn == RecordedTurn(
        said="Hello there.",
        is_spoken=True,
        started_ms=500,
        stopped_ms=2500,
        ended_at=100.0,
        transcript_ms=300,
        asked_audio="1/0/64000/" + "f" * 16,
        generation=1,
        answer="One. Two.",
        answer_ms=2000,
        played_ms=2000,
        first_audio_ms=400,
        played_audio=(f"1/0/2/{'0' * 16}", f"1/1/2/{'0' * 16}"),
    )


def test_of_a_cut_answer_only_what_was_played_is_its_text() -> None:
    cut = [TurnEvent(kind="cut", generation=1, ms=400), TurnEvent(kind="played", item="a1", ms=1000)]
    stale = TurnEvent(kind="sentence", item="a1", text="Stale.", ms=1000, generation=1)
    [turn] = turns_of(said("u1", "Hello"), *answer(1, "One.", "Two.", is_whole=False), *cut, stale, ended_at=99.0)
    assert (turn.answer, turn.played_ms, turn.answer_ms, turn.is_cut) == ("One.", 1000, 2000, True)
    assert len(turn.played_audio) == 2


def test_who_hangs_up_heard_what_the_clock_allows() -> None:
    [turn] = turns_of(said("u1", "Hello"), *answer(1, "One.", "Two.", at=10.0), ended_at=11.4)
    assert (turn.answer, turn.played_ms, turn.is_cut) == ("One.", 1000, False)


def test_several_written_items_are_one_turn_and_others_are_noted() -> None:
    [turn] = turns_of(
        said("s", "Be brief.", by="system"), said("u1", "One"), said("u2", "Two", 7.0), *answer(1, "Yes."), ended_at=9.0
    )
    assert (turn.said, turn.noted, turn.ended_at) == ("One\nTwo", (Noted(by="system", text="Be brief."),), 7.0)


def test_what_nobody_answered_is_a_turn_too() -> None:
    first, second = turns_of(*heard("u1", "One.", at=1.0), *heard("u2", "Two.", at=5.0), *answer(1, "Yes.", at=5.3))
    assert (first.said, first.generation, second.said, second.generation) == ("One.", 0, "Two.", 1)


def test_an_answer_that_goes_on_from_another_gateway_is_what_was_said_here() -> None:
    sentence = TurnEvent(kind="sentence", item="a1", text="Two.", ms=1000, generation=1, at=5.0)
    [turn] = turns_of(sentence, TurnEvent(kind="answered", generation=1, at=5.1), kept_ms=3000, ended_at=60.0)
    assert (turn.said, turn.answer, turn.before_ms, turn.played_ms, turn.answer_ms) == ("", "Two.", 3000, 4000, 4000)


def test_a_call_in_which_nothing_was_said_is_none() -> None:
    assert recorded_call("c", 1, [begun(CALLER, generation=0, kept_ms=0)]) is None
    assert recorded_call("c", 1, [said("u1", "Its beginning was not recorded.")]) is None


def test_its_event_is_the_same_however_often_it_is_made() -> None:
    events = [begun(CALLER, generation=0, kept_ms=0), *heard("u1", "Hello.", at=3.0), *answer(1, "Yes.", at=3.3)]
    call = recorded_call("c" * 64, 2, events)
    assert call is not None
    event: Event = call.event("voices@f")
    assert (event.id, event.source, event.key, event.tenant) == (f"{'c' * 64}/2", "calls", "sess_1", "ana")
    assert event.time == 4_300_000
    assert RECORDED_CALL.checked(event.data) == call


_PIECES = st.lists(
    st.one_of(
        st.builds(lambda: [("written",)]),
        st.builds(lambda: [("heard",)]),
        st.builds(lambda num: [("answer", num)], st.integers(0, 3)),
        st.builds(lambda num, ms: [("cut", num), ("played", ms)], st.integers(0, 3), st.integers(0, 4000)),
        st.builds(lambda: [("stale",)]),
    ),
    max_size=12,
)


@given(_PIECES)
def test_everything_said_is_in_one_turn_and_answers_agree_with_the_call_itself(pieces: Sequence[list[tuple]]) -> None:
    events, generation, texts = list[TurnEvent](), 0, list[str]()
    for number, (kind, *more) in enumerate(step for piece in pieces for step in piece):
        at = 10.0 * (number + 1)
        match kind:
            case "written":
                texts.append(f"written {number}")
                events.append(said(f"u{number}", texts[-1], at))
            case "heard":
                texts.append(f"heard {number}")
                events += heard(f"u{number}", texts[-1], at=at)
            case "answer":
                generation += 1
                events += answer(generation, *(f"Answer {number} {place}." for place in range(more[0])), at=at)
            case "cut" if generation:
                events += answer(generation + 1, *("Cut off." for _ in range(more[0])), at=at, is_whole=False)
                generation += 1
                events.append(TurnEvent(kind="cut", generation=generation, at=at))
            case "played" if generation:
                events.append(TurnEvent(kind="played", item=f"a{generation}", ms=more[0], at=at))
            case "stale":
                events.append(TurnEvent(kind="sentence", item=f"a{generation}", text="x", ms=9, generation=generation))
            case _:
                pass
    # What stale stages make comes after their answer has ended.
    turns = turns_of(*events, ended_at=1e6)
    assert [text for turn in turns for text in turn.said.split("\n") if text] == texts
    state = applied(CallState(), events)
    answers = {item.generation: item.heard for item in state.items if item.generation}
    assert {turn.generation: turn.answer for turn in turns if turn.generation} == answers


@pytest.mark.parametrize("place", range(1, 9))
def test_a_gateway_that_is_killed_has_recorded_what_it_had(place: int) -> None:
    events = [*heard("u1", "Hello.", at=3.0), *answer(1, "One.", "Two.", at=3.3)]
    assert len(events) == 10
    whole = turns_of(*events, ended_at=1e6)[0]
    part = turns_of(*events[: place + 1], ended_at=1e6)
    if place < 3:
        assert part == ()
    else:
        assert part[0].said == whole.said
        assert whole.answer.startswith(part[0].answer)


def test_an_answer_that_was_made_whole_and_is_cut_before_its_client_knows_is_cut() -> None:
    late = [TurnEvent(kind="cut", generation=1, text="turn_detected"), TurnEvent(kind="played", item="a1", ms=1000)]
    [turn] = turns_of(said("u1", "Hello"), *answer(1, "One.", "Two."), *late, ended_at=99.0)
    assert (turn.answer, turn.is_cut, turn.first_audio_ms) == ("One.", True, 400)
