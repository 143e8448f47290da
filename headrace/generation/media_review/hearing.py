"""Hears what a recording says: an offline recognizer of English, with its model in its package.

It mishears a tenth of the letters of a synthetic voice, and nearly all of a rare name: what it says is good for telling
a text from another, not for finding a slip of the tongue. A second of speech costs 0.04 to 0.1 CPU seconds. A recording
is heard by itself: what was heard before it has no influence, so a verdict does not depend on the order of rows.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from headrace.engines.sound_samples import pcm_of, resampled
from headrace.errors import InvalidInput

SAMPLE_RATE = 16_000
# Frames of the recognizer are 25 ms; of less it makes nothing.
_SAMPLES_MIN = SAMPLE_RATE // 20
# A narrower search, as its makers advise for speed, and no second pass over what it found. Of 98 recordings of a
# synthetic voice, 470 s, in 0.44 times the CPU time: character error rate 0.143 (0.145 without), nothing that a review
# rejects for its words is kept, and the same 97 are kept.
_SEARCH = {"topn": 2, "maxhmmpf": 3000, "maxwpf": 5, "pl_window": 10, "fwdflat": False}


def heard(mono: np.ndarray, sample_rate: int) -> str:
    """The words, in lower case; empty if there are none. One decoder a process, of one thread.

    Args: mono: float32 (frames,).

    Raises: InvalidInput: the recognizer is not installed.
    """
    decoder = _decoder()
    samples = resampled(mono, sample_rate, SAMPLE_RATE)
    if len(samples) < _SAMPLES_MIN:
        return ""
    # Else it knows the noise and the level of the recordings before, and hears other words after other neighbours.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(pcm_of(samples), no_search=False, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found else ""


@lru_cache(maxsize=1)
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise InvalidInput(
            "To hear recordings needs pocketsphinx, which is not installed. Run pip install 'headrace[ears]', or set "
            "heard_share_min and character_error_rate_max to null."
        ) from error
    return Decoder(samprate=float(SAMPLE_RATE), loglevel="FATAL", **_SEARCH)
