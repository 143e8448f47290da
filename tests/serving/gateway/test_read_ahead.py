"""Reading an answer ahead of its client: the same text however late it is taken, and the engine's end in any case."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from headrace.engines.base import EngineFailed, Piece
from headrace.serving.gateway.read_ahead import ReadAhead

WORDS = [f"word{number} " for number in range(3000)]


class Made:
    """Pieces of an engine, and whether it was ended."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.fails_after = fails_after
        self.is_ended = False

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        try:
            for number, word in enumerate(WORDS):
                if number == self.fails_after:
                    raise EngineFailed("the server is gone")
                yield Piece(text=word, replica="a")
            yield Piece(text="end", finish_reason="stop", num_prompt_tokens=2, num_output_tokens=3001, replica="a")
        finally:
            self.is_ended = True


def run(act: Any, made: Made | None = None) -> Any:
    async def main() -> Any:
        ahead = ReadAhead((made or Made()).pieces())
        try:
            return await act(ahead)
        finally:
            await ahead.aclose()

    return asyncio.run(main())


async def taken(ahead: ReadAhead) -> list[Piece]:
    return [piece async for piece in ahead]


async def taken_late(ahead: ReadAhead) -> list[Piece]:
    while ahead.whole_at is None:
        await asyncio.sleep(0)
    return await taken(ahead)


@pytest.mark.parametrize("take", [taken, taken_late])
def test_the_text_is_the_engines_however_late_it_is_taken(take: Any) -> None:
    *before, last = run(take)
    assert "".join(piece.text for piece in [*before, last]) == "".join(WORDS) + "end"
    assert {piece.finish_reason for piece in before} == {None}
    assert (last.finish_reason, last.num_prompt_tokens, last.num_output_tokens) == ("stop", 2, 3001)
    assert {piece.replica for piece in [*before, last]} == {"a"}


def test_who_is_far_behind_gets_larger_pieces() -> None:
    assert len(run(taken_late)) < 30


def test_an_answer_that_its_client_left_is_read_to_its_end_and_not_kept() -> None:
    async def left(ahead: ReadAhead) -> tuple[bool, list[str]]:
        await anext(ahead)
        await ahead.to_the_end()
        return ahead.whole_at is not None, [piece.text async for piece in ahead]

    assert run(left) == (True, [""])


def test_what_the_engine_raises_comes_after_the_pieces_before_it() -> None:
    async def until_it_fails(ahead: ReadAhead) -> str:
        texts = [(await anext(ahead)).text for _ in range(10)]
        with pytest.raises(EngineFailed, match="the server is gone"):
            await anext(ahead)
        return "".join(texts)

    assert run(until_it_fails, Made(fails_after=10)) == "".join(WORDS[:10])


def test_closing_ends_the_work_at_the_engine() -> None:
    made = Made()
    run(lambda ahead: anext(ahead), made)
    assert made.is_ended
