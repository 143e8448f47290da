"""The `echo` engine: words drawn by the turn's seed, without a model. For tests and dry runs of a whole pipeline.

No weights, some ten microseconds a turn, and the same bytes for the same version set, as tests of claims, retries and
rollouts need. It shows nothing about quality; its outputs pass the review's default rules.
"""

import asyncio
import random
from collections.abc import AsyncGenerator

from headrace.engines.base import Answer, Engine, FinishReason, Piece, Turn
from headrace.engines.local.stop_texts import cut_at_stop
from headrace.version_sets.sets import Member

_WORDS = (
    "channel", "vessel", "wheel", "mill", "river", "grain", "stone", "miller", "axle", "current", "bridge", "basin",
    "gate", "flume", "weir", "carries", "turns", "grinds", "lifts", "holds", "moves", "falls", "near", "under", "over",
    "beside", "slow", "quick", "narrow", "broad", "old", "wooden", "iron", "of", "the", "that", "a", "and", "from",
)  # fmt: skip


class EchoEngine(Engine):
    name = "echo"
    deterministic = True

    def __init__(self, member: Member, *, piece_seconds: float = 0.0) -> None:
        """Args: piece_seconds: pause before each word, to imitate a model's time."""
        self._member = member
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
            replica=self.name,
        )

    async def stream(self, turn: Turn) -> AsyncGenerator[Piece, None]:
        words, finish_reason = self._words(turn)
        for index, word in enumerate(words):
            await asyncio.sleep(self._piece_seconds)
            yield Piece(text=f" {word}" if index else word, replica=self.name)
        yield Piece(
            text="",
            finish_reason=finish_reason,
            num_prompt_tokens=_num_prompt_words(turn),
            num_output_tokens=len(words),
            replica=self.name,
        )

    def _words(self, turn: Turn) -> tuple[list[str], FinishReason]:
        words = drawn_words(turn.seed, self._member, num_max=self._member.writing.max_new_tokens)
        finish_reason: FinishReason = "stop"
        if len(words) > turn.max_tokens:
            words, finish_reason = words[: turn.max_tokens], "length"
        if turn.stop:
            text, is_cut = cut_at_stop(" ".join(words), turn.stop)
            words, finish_reason = (text.split(), "stop") if is_cut else (words, finish_reason)
        return words, finish_reason


def drawn_words(seed: int, member: Member, *, num_max: int) -> list[str]:
    """6 to 14 words, or as many as there may be, that follow from the seed and the member's model."""
    draw = random.Random(f"{seed} {member.weights_digest}")
    num_words = min(draw.randint(6, 14), num_max)
    return list(draw.sample(_WORDS, num_words))


def _num_prompt_words(turn: Turn) -> int:
    """Counts the question's words without the system prompt, which is the same for all."""
    return sum(len(message.content.split()) for message in turn.messages if message.role != "system")
