"""Samples of WAVs of every width, against Python's own `wave` and by hand for what that cannot read."""

import io
import struct
import wave

import numpy as np
import pytest

from headrace.engines.base import EngineFailed
from headrace.engines.media_bytes import Sound, sound_of
from headrace.engines.sound_samples import levels_of, mono_of, resampled, wav_of

LEVELS = np.array([0, 0.5, -0.5, 0.25, -1, 0.75], np.float32)


def make_sound(data: bytes, bits: int, *, is_float: bool = False, num_channels: int = 1) -> Sound:
    return Sound(sample_rate=8000, num_channels=num_channels, bits=bits, is_float=is_float, data=memoryview(data))


@pytest.mark.parametrize(
    ("data", "bits", "is_float"),
    {
        "8": (bytes([128, 192, 64, 160, 0, 224]), 8, False),
        "16": (struct.pack("<6h", 0, 1 << 14, -(1 << 14), 1 << 13, -(1 << 15), 3 << 13), 16, False),
        "24": (
            b"".join((int(level * 2**23)).to_bytes(3, "little", signed=True) for level in LEVELS.tolist()),
            24,
            False,
        ),
        "32": (struct.pack("<6i", *(int(level * 2**31) for level in LEVELS.tolist())), 32, False),
        "float": (struct.pack("<6f", *LEVELS), 32, True),
        "double": (struct.pack("<6d", *LEVELS), 64, True),
    }.values(),
)
def test_samples_of_every_width_have_the_same_levels(data: bytes, bits: int, is_float: bool) -> None:
    assert levels_of(make_sound(data, bits, is_float=is_float))[:, 0].tolist() == LEVELS.tolist()


def test_channels_lie_beside_each_other_and_have_one_mean() -> None:
    levels = levels_of(make_sound(struct.pack("<4f", 0.5, -0.5, 1, 0), 32, is_float=True, num_channels=2))
    assert levels.tolist() == [[0.5, -0.5], [1, 0]]
    assert mono_of(levels).tolist() == [0, 0.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_what_is_no_number_is_no_recording(value: float) -> None:
    with pytest.raises(EngineFailed, match="must be made of numbers"):
        levels_of(make_sound(struct.pack("<2d", 0.5, value), 64, is_float=True))


def test_a_wav_is_what_the_standard_library_reads() -> None:
    content = wav_of(np.append(LEVELS, np.float32(1.5)), 22_050)
    with wave.open(io.BytesIO(content)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (22_050, 1, 2)
        samples = np.frombuffer(sound.readframes(9), "<i2")
    assert samples.tolist() == [0, 16384, -16384, 8192, -32767, 24575, 32767]
    assert np.abs(levels_of(sound_of(content))[:-1, 0] - LEVELS).max() < 1 / 16_000


def test_a_tone_at_another_rate_is_the_same_tone() -> None:
    times, wanted = (np.arange(rate) / rate for rate in (24_000, 16_000))
    tone = resampled(np.sin(2 * np.pi * 440 * times).astype(np.float32), 24_000, 16_000)
    assert tone.dtype == np.float32
    assert np.abs(tone - np.sin(2 * np.pi * 440 * wanted))[200:-200].max() < 2e-3
