"""What the `echo` engine paints and speaks: true PNG and WAV files drawn by the turn's seed, without a model.

A picture has soft shapes in the seed's colours, and a recording has a tone for each syllable or so of its text: neither
is blank, noise, silent or clipped, so the review's default rules keep both. They show nothing about quality.
"""

import asyncio
import struct
import zlib

import numpy as np

from headrace.engines.base import TurnRefused
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.sound_samples import wav_of
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import Member

_SAMPLE_RATE = 16_000
_CHARACTERS_A_SECOND = 14
_TONE_CHARACTERS = 4
_NUM_SHAPES = 4
_LOUDNESS = 0.25


class EchoMediaEngine(MediaEngine):
    name = "echo"
    deterministic = True

    def __init__(self, member: Member, *, item_seconds: float = 0.0) -> None:
        """Args: item_seconds: pause before each item, to imitate a model's time."""
        self._member, self._item_seconds = member, item_seconds

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        if not turn.text.strip():
            raise TurnRefused("There is nothing to make a picture or a recording of.")
        if self._item_seconds:
            await asyncio.sleep(self._item_seconds)
        # Of the text, the seed and the weights, so that another model makes something else of them.
        draw = np.random.default_rng([turn.seed, zlib.crc32(f"{self._member.weights_digest}\0{turn.text}".encode())])
        if self._member.picture:
            return MediaAnswer(content=_picture(self._member.picture, draw), replica=self.name)
        assert self._member.speech, "a member that writes is opened as another engine"
        return MediaAnswer(content=_recording(turn, self._member.speech, draw), replica=self.name)


def _picture(asked: Picture, draw: np.random.Generator) -> bytes:
    """An RGB PNG: soft discs on a slope from one colour to another."""
    y, x = np.mgrid[0 : asked.height, 0 : asked.width]
    y, x = y / asked.height, x / asked.width
    one, other = draw.uniform(40, 230, (2, 3))
    pixels = one + (other - one) * ((x + y) / 2)[..., None]
    for _ in range(_NUM_SHAPES):
        middle_x, middle_y, radius = draw.uniform(0.2, 0.8), draw.uniform(0.2, 0.8), draw.uniform(0.1, 0.3)
        inside = np.clip((radius - np.hypot(x - middle_x, y - middle_y)) * 12 + 0.5, 0, 1)[..., None]
        pixels = pixels * (1 - inside) + draw.uniform(0, 255, 3) * inside
    rows = np.zeros((asked.height, 1 + 3 * asked.width), np.uint8)
    rows[:, 1:] = np.round(pixels).astype(np.uint8).reshape(asked.height, -1)
    header = struct.pack(">IIBBBBB", asked.width, asked.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _recording(turn: MediaTurn, asked: Speech, draw: np.random.Generator) -> bytes:
    """A WAV of 16 bits and one channel, as long as the text takes to say."""
    rate = asked.sample_rate or _SAMPLE_RATE
    seconds = len(turn.text) / _CHARACTERS_A_SECOND / (turn.speed or asked.speed)
    seconds = min(max(seconds, 0.2), asked.duration_seconds_max)
    num_samples = int(seconds * rate)
    times = np.arange(num_samples) / rate
    num_tones = max(1, len(turn.text) // _TONE_CHARACTERS)
    tone = np.minimum((times / seconds * num_tones).astype(int), num_tones - 1)
    within = times / seconds * num_tones - tone
    wave = np.sin(2 * np.pi * draw.uniform(110, 330, num_tones)[tone] * times) * np.sin(np.pi * within)
    return wav_of(wave * _LOUDNESS, rate)
