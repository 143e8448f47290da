"""A chain's stream: its text, and what is held of it while it runs."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace

from headrace.engines.base import Answer, Engine, Piece, Turn
from headrace.engines.chain import Conversation, LoadedRole, RoleChain, Step
from tests.generation.builders import make_member

NUM_WORDS = 5000


class Streaming(Engine):
    """Streams distinct words of 120 characters."""

    name = "streaming"

    async def answer(self, turn: Turn) -> Answer:
        raise NotImplementedError

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        for number in range(NUM_WORDS):
            yield Piece(text=f"ψ{number} ".ljust(120, "x"))
        yield Piece(text="", finish_reason="stop")


def test_a_stream_that_runs_is_held_as_one_text_and_not_as_its_pieces() -> None:
    """Pieces take several times the memory of their characters, and a gateway holds many streams."""
    steps: list[Step] = []

    async def held() -> int:
        member = make_member(decoding=replace(make_member().writing, max_new_tokens=NUM_WORDS))
        chain = RoleChain(id="set", roles=(LoadedRole(member=member, engine=Streaming()),))
        pieces = chain.stream(Conversation.of("a"), unit="u", seed=1, report=steps.append)
        await anext(pieces)
        before = sys.getallocatedblocks()
        async for piece in pieces:
            if piece.finish_reason is not None:
                return sys.getallocatedblocks() - before
        raise AssertionError("The stream has no end.")

    assert asyncio.run(held()) < NUM_WORDS // 10
    assert steps[0].text == "".join(f"ψ{number} ".ljust(120, "x") for number in range(NUM_WORDS))
