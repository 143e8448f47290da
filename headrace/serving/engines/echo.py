"""The `echo` engine: words drawn by the turn's seed instead of a model. For tests and dry runs of a whole service.

The words are those that the bulk engine of the same name draws for the same seed and weights. It says nothing about
quality, and costs some ten microseconds a turn.
"""

import asyncio
from collections.abc import AsyncIterator

from headrace.generation.engines.base import GenerationRequest
from headrace.generation.engines.echo import EchoEngine
from headrace.rollout.version_sets import Member
from headrace.serving.engines.base import Answer, FinishReason, Piece, Turn
from headrace.serving.engines.stop_texts import cut_at_stop


class EchoServingEngine:
    name = "echo"

    def __init__(self, member: Member, *, piece_seconds: float = 0.0) -> None:
        """Args: piece_seconds: pause before each word, as a model that thinks would make it."""
        self._echo = EchoEngine(member)
        self._piece_seconds = piece_seconds

    async def answer(self, turn: Turn) -> Answer:
        words, finish_reason = self._words(turn)
        if self._piece_seconds:
            await asyncio.sleep(self._piece_seconds * len(words))
        return Answer(
            text=" ".join(words),
            finish_reason=finish_reason,
            num_prompt_tokens=_num_prompt_words(turn),
            num_output_tokens=len(words),
            replica="echo",
        )

    async def stream(self, turn: Turn) -> AsyncIterator[Piece]:
        words, finish_reason = self._words(turn)
        for index, word in enumerate(words):
            await asyncio.sleep(self._piece_seconds)
            yield Piece(text=f" {word}" if index else word, replica="echo")
        yield Piece(
            text="",
            finish_reason=finish_reason,
            num_prompt_tokens=_num_prompt_words(turn),
            num_output_tokens=len(words),
            replica="echo",
        )

    async def close(self) -> None:
        pass

    def _words(self, turn: Turn) -> tuple[list[str], FinishReason]:
        [drawn] = self._echo.generate([GenerationRequest(row_id=turn.unit, prompt="", seed=turn.seed)])
        words = drawn.text.split()
        finish_reason: FinishReason = "stop"
        if len(words) > turn.max_tokens:
            words, finish_reason = words[: turn.max_tokens], "length"
        if turn.stop:
            text, is_cut = cut_at_stop(" ".join(words), turn.stop)
            words, finish_reason = (text.split(), "stop") if is_cut else (words, finish_reason)
        return words, finish_reason


def _num_prompt_words(turn: Turn) -> int:
    return sum(len(message.content.split()) for message in turn.messages)
