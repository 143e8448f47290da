"""The contract of an engine that hears: a text for the samples of what was said.

Whoever asks brings every recording into one form first, so that each engine hears the same samples, whatever a client
sent.
"""

from abc import abstractmethod
from dataclasses import dataclass

from headrace.engines.base import Answer, LoadedModel

SAMPLE_RATE = 16_000
"""Samples a second of what is heard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HearingTurn:
    """What was said. `pcm`: samples of 16 bits, little-endian, one channel, `SAMPLE_RATE` a second.

    `unit`: the asker's name in logs.
    """

    unit: str
    pcm: bytes

    @property
    def seconds(self) -> float:
        return len(self.pcm) / 2 / SAMPLE_RATE


class HearingEngine(LoadedModel):
    """A loaded model that hears. Another package's engine overrides `hear`.

    If the caller is cancelled, it ends its work at the engine, or lets it end for nobody.
    """

    @abstractmethod
    async def hear(self, turn: HearingTurn) -> Answer:
        """What was said; empty: nothing. Raises: TurnRefused, EngineBusy, EngineFailed."""
