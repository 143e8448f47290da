"""A recording's samples as numbers, and numbers as a WAV: of every width that `media_bytes.sound_of` takes.

One place, so that what an engine writes is what the review measures and the waveform shows.
"""

import struct
from math import gcd

import numpy as np

from headrace.engines.base import EngineFailed
from headrace.engines.media_bytes import Sound

_TYPES = {(8, False): "u1", (16, False): "<i2", (32, False): "<i4", (32, True): "<f4", (64, True): "<f8"}
_FULL_SCALE = 32767


def levels_of(sound: Sound) -> np.ndarray:
    """Its samples: float32 (frames, channels); of whole numbers in [-1, 1], floats as they are.

    Raises: EngineFailed: some are no numbers, or too large for float32.
    """
    if sound.bits == 24:
        octets = np.frombuffer(sound.data, "u1").reshape(-1, 3).astype(np.int32)
        whole = octets[:, 0] << 8 | octets[:, 1] << 16 | octets[:, 2] << 24
        levels = (whole / 2.0**31).astype(np.float32)
    else:
        samples = np.frombuffer(sound.data, _TYPES[sound.bits, sound.is_float])
        if sound.is_float:
            with np.errstate(over="ignore"):
                levels = samples.astype(np.float32)
        elif sound.bits == 8:
            # Unsigned in WAV, unlike all wider ones.
            levels = (samples.astype(np.float32) - 128) / 128
        else:
            levels = (samples / 2.0 ** (sound.bits - 1)).astype(np.float32)
    if sound.is_float and not np.isfinite(levels).all():
        raise EngineFailed("A recording must be made of numbers, got a WAV of floats with infinity or NaN in it.")
    return levels.reshape(-1, sound.num_channels)


def mono_of(levels: np.ndarray) -> np.ndarray:
    """The mean of the channels: float32 (frames,)."""
    return levels[:, 0] if levels.shape[1] == 1 else levels.mean(axis=1, dtype=np.float32)


def resampled(mono: np.ndarray, sample_rate: int, wanted: int) -> np.ndarray:
    """One channel at another rate, without frequencies that it cannot hold; float32 (frames,)."""
    if sample_rate == wanted:
        return mono
    from scipy.signal import resample_poly

    common = gcd(sample_rate, wanted)
    return resample_poly(mono, wanted // common, sample_rate // common).astype(np.float32)


def pcm_of(mono: np.ndarray) -> bytes:
    """Samples of 16 bits; what is louder than full scale is cut off there."""
    return np.round(np.clip(mono, -1, 1) * _FULL_SCALE).astype("<i2").tobytes()


def wav_of(mono: np.ndarray, sample_rate: int) -> bytes:
    """A WAV of 16 bits and one channel."""
    return wav_of_pcm(pcm_of(mono), sample_rate)


def wav_of_pcm(data: bytes, sample_rate: int) -> bytes:
    """The same of samples as `pcm_of` gives them."""
    form = struct.pack("<HHIIHH", 1, 1, sample_rate, sample_rate * 2, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body
