"""One answer of a call: written, cut into sentences, each spoken, kept, and only then sent.

Three stages run at once, each some sentences ahead of the next: the writer, the speaker, the sending. Each looks if its
generation is still the call's before it hands anything on; after a barge-in all three stop where they are. A sentence
is sent once it is kept, so nobody hears what a gateway that takes the call over does not know of.

An answer that another process began goes on after the sentences that were kept: it is written anew from the same seed,
and as many sentences are passed over. Where the writer is not deterministic, the seam may not fit; none is said twice.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from headrace.engines.base import EngineFailed, Message
from headrace.engines.chain import Step
from headrace.engines.media_bytes import sound_of
from headrace.engines.sound_samples import levels_of, mono_of, pcm_of, resampled
from headrace.engines.spoken_chain import SpokenChain
from headrace.voice.rings import SAMPLE_RATE
from headrace.voice.sentences import Sentences

# Sentences that wait for the speaker, or spoken ones that wait for being sent.
_NUM_AHEAD = 2
# What one event carries: a fifth of a second.
MS_BYTES = SAMPLE_RATE * 2 // 1000
PIECE_BYTES = 200 * MS_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenSentence:
    """`pcm`: as clients get it, of whole milliseconds; empty in an answer of text alone."""

    text: str
    pcm: bytes = b""

    @property
    def ms(self) -> int:
        return len(self.pcm) // MS_BYTES


@dataclass(frozen=True, kw_only=True)
class Answering:
    """One answer.

    Attributes:
        is_current: whether it is still wanted.
        num_kept: sentences of it that were kept before this process had it.
    """

    chain: SpokenChain
    messages: Sequence[Message]
    unit: str
    seed: int
    speaks: bool
    is_current: Callable[[], bool]
    num_kept: int = 0
    report: Callable[[Step], None] = field(default=lambda step: None)

    async def run(self, sentence: Callable[[SpokenSentence], Awaitable[None]]) -> str:
        """Gives each sentence to `sentence`, in order. Returns the writer's finish reason; empty: it was cut.

        Raises: TurnRefused, EngineBusy, EngineFailed; what `sentence` raises.
        """
        written: asyncio.Queue[tuple[int, str] | str] = asyncio.Queue(_NUM_AHEAD)
        spoken: asyncio.Queue[SpokenSentence | str] = asyncio.Queue(_NUM_AHEAD)
        stages = [
            asyncio.ensure_future(self._write(written)),
            asyncio.ensure_future(self._speak(written, spoken)),
            asyncio.ensure_future(self._send(spoken, sentence)),
        ]
        try:
            *_, finish = await asyncio.gather(*stages)
            return finish
        finally:
            for stage in stages:
                stage.cancel()
            await asyncio.gather(*stages, return_exceptions=True)

    async def say_again(self, place: int, text: str) -> SpokenSentence:
        """A sentence that was kept, once more: with the same bytes, if its voice is deterministic."""
        return await self._spoken(place, text)

    async def _write(self, written: "asyncio.Queue[tuple[int, str] | str]") -> None:
        place = 0
        async with aclosing(self._sentences()) as sentences:
            async for text, finish in sentences:
                if not self.is_current():
                    break
                if finish is not None:
                    await written.put(finish)
                    return
                if place >= self.num_kept:
                    await written.put((place, text))
                place += 1
        await written.put("")

    async def _sentences(self) -> AsyncGenerator[tuple[str, str | None], None]:
        """Sentences, then the finish reason."""
        cutter = Sentences()
        pieces = self.chain.written(self.messages, unit=self.unit, seed=self.seed, report=self.report)
        finish: str | None = None
        async with aclosing(pieces):
            async for piece in pieces:
                for text in cutter.add(piece.text):
                    yield text, None
                finish = piece.finish_reason
        if finish is None:
            raise EngineFailed("The answer broke off before its end.")
        for text in cutter.end():
            yield text, None
        yield "", finish

    async def _speak(
        self, written: "asyncio.Queue[tuple[int, str] | str]", spoken: "asyncio.Queue[SpokenSentence | str]"
    ) -> None:
        while not isinstance(given := await written.get(), str):
            place, text = given
            if not self.is_current():
                given = ""
                break
            await spoken.put(await self._spoken(place, text))
        await spoken.put(given)

    async def _send(
        self, spoken: "asyncio.Queue[SpokenSentence | str]", sentence: Callable[[SpokenSentence], Awaitable[None]]
    ) -> str:
        while not isinstance(given := await spoken.get(), str):
            if not self.is_current():
                return ""
            await sentence(given)
        return given

    async def _spoken(self, place: int, text: str) -> SpokenSentence:
        if not self.speaks:
            return SpokenSentence(text=text)
        wav, _ = await self.chain.spoken(text, place, unit=self.unit, seed=self.seed, report=self.report)
        return SpokenSentence(text=text, pcm=await asyncio.to_thread(_sent_form, wav))


def _sent_form(wav: bytes) -> bytes:
    sound = sound_of(wav)
    pcm = pcm_of(resampled(mono_of(levels_of(sound)), sound.sample_rate, SAMPLE_RATE))
    return pcm + bytes(-len(pcm) % MS_BYTES)
