"""What the suite says to the author of an engine that breaks the contract: the rule, and what the engine answered."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import pytest

from headrace.engines import conformance
from headrace.engines.base import Answer, Engine, EngineFailed, Piece, Turn
from headrace.engines.event_loop import LoopThread


class Broken(Engine):
    name = "broken"
    deterministic = True

    async def answer(self, turn: Turn) -> Any:
        return Answer(text="two words", finish_reason="stop", num_output_tokens=2)


class Wordless(Broken):
    async def answer(self, turn: Turn) -> Any:
        return Answer(text=None, finish_reason="stop")  # pyright: ignore[reportArgumentType]


class Endless(Broken):
    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        yield Piece(text="two")


class Ended(Broken):
    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        for word in "two", " words":
            yield Piece(text=word, finish_reason="stop")


class Other(Broken):
    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        yield Piece(text="else", finish_reason="stop")


class Short(Broken):
    async def answer_together(self, turns: Sequence[Turn]) -> Any:
        return []


class Placed(Broken):
    async def answer_together(self, turns: Sequence[Turn]) -> Any:
        return [Answer(text=str(place), finish_reason="stop") for place, _ in enumerate(turns)]


@pytest.fixture
def ask() -> Iterator[conformance.Ask]:
    loop = LoopThread()
    yield loop.run
    loop.close()


@pytest.mark.parametrize(
    ("engine", "check", "why"),
    [
        (Wordless(), conformance.test_turns_at_once_are_all_answered, "answered text None, which must be a string"),
        (Endless(), conformance.test_pieces_make_up_an_answer_and_the_last_one_ends_it, "of 1 pieces .*text='two'"),
        (Ended(), conformance.test_pieces_make_up_an_answer_and_the_last_one_ends_it, r"got \['stop', 'stop'\]"),
        (Other(), conformance.test_pieces_make_up_an_answer_and_the_last_one_ends_it, "'else', .* is 'two words'"),
        (Short(), conformance.test_a_turn_gets_the_same_bytes_in_any_batch, "0 answers to a batch, which must be 8"),
        (Placed(), conformance.test_a_turn_gets_the_same_bytes_in_any_batch, "a batch gives .*, turned it gives "),
        (Broken(), conformance.test_an_answer_has_at_most_as_many_tokens_as_were_asked_for, "is 1, got .*'two words'"),
        (Broken(), conformance.test_an_answer_ends_before_a_stop_text, "stop is 'ds', got .*'two words'"),
    ],
)
def test_a_broken_engine_is_told_the_rule_and_its_answer(
    engine: Engine, check: Callable[[Engine, conformance.Ask], None], why: str, ask: conformance.Ask
) -> None:
    with pytest.raises((AssertionError, EngineFailed), match=why):
        check(engine, ask)
