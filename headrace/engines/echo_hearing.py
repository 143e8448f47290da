"""What the `echo` engine hears: words drawn by the samples, without a model. The same samples are the same words."""

import zlib

from headrace.engines.base import Answer
from headrace.engines.echo import drawn_words
from headrace.engines.hearing import HearingEngine, HearingTurn
from headrace.version_sets.sets import Member

_SECONDS_A_WORD = 0.25


class EchoHearingEngine(HearingEngine):
    name = "echo"
    deterministic = True

    def __init__(self, member: Member) -> None:
        self._member = member

    async def hear(self, turn: HearingTurn) -> Answer:
        num_words = int(turn.seconds / _SECONDS_A_WORD)
        if not num_words or not any(turn.pcm):
            return Answer(text="", finish_reason="stop", replica=self.name)
        words = drawn_words(zlib.crc32(turn.pcm), self._member, num_max=num_words)
        return Answer(text=" ".join(words), finish_reason="stop", replica=self.name)
