"""Calls under kills, lost connections and barge-ins anywhere, in simulated time; and that mistakes would be found."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from headrace.engines.base import Piece, Turn
from headrace.serving.gateway.realtime.answers import Answers
from headrace.serving.gateway.realtime.talk import Talk
from headrace.voice.turns import Item, TurnEvent
from simulation.simulated_calls import SimulatedWriter, talk_through
from simulation.talking import Found

pytest.importorskip("websockets", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")

_NUM_SEEDS = 12
_NUM_TRIED = 10


def test_no_sentence_is_stale_and_no_turn_lost_or_said_twice() -> None:
    found = talk_through(range(_NUM_SEEDS))
    assert not found.faults
    # The schedules had something to show.
    assert found.num_turns > 4 * _NUM_SEEDS
    assert found.num_kills >= _NUM_SEEDS
    assert found.num_cut > _NUM_SEEDS
    assert found.num_unheard


def test_a_writer_is_asked_while_a_spoken_question_is_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    is_kept: list[bool] = []
    stream = SimulatedWriter.stream

    async def noted(self: SimulatedWriter, turn: Turn) -> AsyncGenerator[Piece, None]:
        said = turn.messages[-1].content
        in_logs = [text for log in self.world.logs.values() for rows in log.values() for text in rows.values()]
        in_store = [bytes(one.body).decode() for one in self.world.disk.objects.values()]
        is_kept.append(any(f'{said}"' in text or f'{said}\\"' in text for text in (*in_logs, *in_store)))
        async for piece in stream(self, turn):
            yield piece

    monkeypatch.setattr(SimulatedWriter, "stream", noted)
    assert not talk_through(range(3)).faults
    assert is_kept
    assert not all(is_kept)


def believed(kind: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Events of that kind count as kept at once."""
    happened = Talk.happened

    async def nothing() -> None:
        pass

    def hasty(self: Talk, *events: TurnEvent) -> Awaitable[None]:
        waits = happened(self, *events)
        return nothing() if any(event.kind == kind for event in events) else waits

    return lambda patch: patch.setattr(Talk, "happened", hasty)


def nobody_resumes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Answers, "resume", lambda self: None)


def resumes_with_an_end(patch: pytest.MonkeyPatch) -> None:
    """The likeliest hiding place behind turns that clients cut themselves."""
    resume = Answers.resume

    def ends(self: Any) -> None:
        state = self._talk.state
        if state.is_open:
            self._talk.happened(TurnEvent(kind="cut", text="client_cancelled", generation=state.generation))
        resume(self)

    patch.setattr(Answers, "resume", ends)


def never_asks(patch: pytest.MonkeyPatch) -> None:
    """Ends every third answer in silence, as if it had been cut."""
    say = Answers._say  # pyright: ignore[reportPrivateUsage]

    async def dropped(self: Any, reply: Any, item: Item, *rest: Any) -> None:
        if item.generation % 3 == 2:
            await self._talk.happened(TurnEvent(kind="cut", text="client_cancelled", generation=item.generation))
            await reply.end(self._talk.state.item(item.id))
        else:
            await say(self, reply, item, *rest)

    patch.setattr(Answers, "_say", dropped)


def all_is_heard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Item, "heard", property(lambda self: self.text or " ".join(one.text for one in self.sentences)))


@pytest.mark.parametrize(
    ("plant", "kind", "first"),
    [
        pytest.param(believed("said"), "lost", 2, id="a turn is acknowledged before it is kept"),
        pytest.param(believed("cut"), "stale", 37, id="a cut is told before it is kept"),
        pytest.param(believed("sentence"), "twice", 3, id="a sentence is sent before it is kept"),
        pytest.param(nobody_resumes, "twice", 0, id="an answer does not go on after a kill"),
        pytest.param(resumes_with_an_end, "lost", 0, id="an answer is given up after a kill"),
        pytest.param(never_asks, "lost", 0, id="an answer is dropped and called cut"),
        pytest.param(all_is_heard, "context", 0, id="the context has what was not played"),
    ],
)
def test_a_mistake_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[Any], None], kind: str, first: int
) -> None:
    """`first`: a seed that shows it; choose another one if schedules have changed."""
    plant(monkeypatch)
    found: Found = talk_through(range(first, first + _NUM_TRIED), enough=1)
    assert any(fault.startswith(kind) for fault in found.faults), found
