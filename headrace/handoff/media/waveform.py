"""The waveform of a sound: peaks of a WAV file's samples."""

import io
import wave

import numpy as np

# Little-endian signed samples, except 8-bit ones, which are unsigned in WAV.
_TYPES = {1: np.dtype("u1"), 2: np.dtype("<i2"), 4: np.dtype("<i4")}


def wav_peaks(body: bytes, num_columns: int) -> list[float]:
    """The largest amplitude in each of at most `num_columns` equal stretches, in [0, 1], over all channels.

    An empty list if it is not PCM of 8, 16 or 32 bits, or has no samples.
    """
    try:
        with wave.open(io.BytesIO(body)) as sound:
            kind = _TYPES.get(sound.getsampwidth())
            num_channels, frames = sound.getnchannels(), sound.readframes(sound.getnframes())
    except (wave.Error, EOFError, RuntimeError, ValueError):
        return []
    if kind is None or not num_channels:
        return []
    num_frames = len(frames) // (kind.itemsize * num_channels)
    if not num_frames:
        return []
    samples = np.frombuffer(frames, kind, num_frames * num_channels).astype(np.float32)
    levels = (samples - 128) / 128 if kind.itemsize == 1 else samples / np.float32(2.0 ** (8 * kind.itemsize - 1))
    loudest = np.abs(levels).reshape(num_frames, num_channels).max(axis=1)
    num_columns = min(num_columns, num_frames)
    starts = np.arange(num_columns) * num_frames // num_columns
    return np.minimum(np.maximum.reduceat(loudest, starts), 1.0).tolist()
