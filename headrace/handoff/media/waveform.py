"""The waveform of a sound: peaks of a WAV file's samples."""

import numpy as np

from headrace.engines.base import EngineFailed
from headrace.engines.media_bytes import sound_of
from headrace.engines.sound_samples import levels_of


def wav_peaks(body: bytes, num_columns: int) -> list[float]:
    """The largest amplitude in each of at most `num_columns` equal stretches, in [0, 1], over all channels.

    An empty list if it is no WAV that we read, or has no samples.
    """
    try:
        levels = levels_of(sound_of(body))
    except EngineFailed:
        return []
    num_frames = len(levels)
    if not num_frames:
        return []
    loudest = np.abs(levels).max(axis=1)
    num_columns = min(num_columns, num_frames)
    starts = np.arange(num_columns) * num_frames // num_columns
    return np.minimum(np.maximum.reduceat(loudest, starts), 1.0).tolist()
