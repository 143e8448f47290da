"""Judges recordings: by their samples, by how long they take for their text, and by what is heard of them.

| rule | rejects |
|---|---|
| unreadable | bytes that are no WAV any more |
| silent | recordings without a sound |
| noise | recordings that are equally loud all through, as noise and hums are |
| clicks | recordings whose sound is a few moments long, as clicks and pops are |
| clipped | recordings that are cut off at the top |
| too_long | recordings that take longer than their text does |
| too_short | recordings that cannot hold their text |
| unfinished | recordings in which much less is heard than the text says |
| wrong_words | recordings of which something else is heard |

Each sees one recording and its text. Nobody listens to what is silent or noise. Rules without ears know no words: a
wrong text of the same length passes them.
"""

from dataclasses import dataclass

import numpy as np

from headrace.engines.base import EngineFailed
from headrace.engines.media_bytes import sound_of
from headrace.engines.sound_samples import levels_of, mono_of
from headrace.generation.media_review.speech_settings import SpeechReview
from headrace.generation.media_review.spoken_text import letters, readings

# As near to full scale as a cut sample is, whatever a writer rounds.
_FULL_SCALE = 0.9995
_RUN_SAMPLES = 3
_PIECE_SECONDS = 0.032
_MOMENT_SECONDS, _ENERGY_SHARE = 0.004, 0.9
# As most voices speak: what a recording lasts beyond that may be silence around its text.
_USUAL_CHARACTERS_A_SECOND = 12
# What a voice is silent before and after a text, at most.
_PAUSES_SECONDS = 1.0
_WRONG_MAX = 10.0


@dataclass(frozen=True, kw_only=True)
class SpeechVerdict:
    """The rules that a recording breaks, what was measured of it by name, and the words that were heard.

    `heard`: None: nobody listened.
    """

    faults: tuple[str, ...]
    figures: dict[str, float]
    heard: str | None = None


def speech_verdict(content: bytes, text: str, settings: SpeechReview, *, speed: float = 1.0) -> SpeechVerdict:
    """Judges one recording.

    Args:
        text: what it should say.
        speed: of the member that made it; the limits of characters a second are for 1.

    Raises: InvalidInput: a rule listens, and the recognizer is not installed.
    """
    try:
        sound = sound_of(content)
        levels = levels_of(sound)
    except EngineFailed:
        return SpeechVerdict(faults=("unreadable",), figures={})
    if not sound.num_frames:
        return SpeechVerdict(faults=("silent",), figures={"duration_seconds": 0.0, "loudness": 0.0})
    mono = mono_of(levels)
    wanted = readings(text)
    figures = {
        "duration_seconds": sound.duration_seconds,
        "loudness": float(np.sqrt(np.square(mono, dtype=np.float64).mean())),
        "clipped_share": clipped_share(levels),
    }
    if _is_below(figures["loudness"], settings.loudness_min):
        return SpeechVerdict(faults=("silent",), figures=figures)
    faults = []
    variation = loudness_variation(mono, sound.sample_rate)
    if variation is not None:
        figures["loudness_variation"] = variation
        if _is_below(variation, settings.loudness_variation_min):
            faults.append("noise")
    if _is_above(figures["clipped_share"], settings.clipped_share_max):
        faults.append("clipped")
    # As characters: a text has a blank or a sign for about six letters.
    fewest, most = (_characters(text, num) for num in (min(map(len, wanted)), max(map(len, wanted))))
    figures["characters_a_second"] = fewest / (sound.duration_seconds * speed)
    text_seconds = max(fewest, 1) / _USUAL_CHARACTERS_A_SECOND / speed
    figures["sounding_share"] = sounding_seconds(mono, sound.sample_rate) / min(sound.duration_seconds, text_seconds)
    if _is_below(figures["sounding_share"], settings.sounding_share_min):
        faults.append("clicks")
    spoken_seconds = max(sound.duration_seconds * speed - _PAUSES_SECONDS, 0)
    if settings.characters_a_second_min and spoken_seconds * settings.characters_a_second_min > most:
        faults.append("too_long")
    if _is_above(figures["characters_a_second"], settings.characters_a_second_max):
        faults.append("too_short")
    if not settings.listens or {"noise", "clicks"} & {*faults}:
        return SpeechVerdict(faults=tuple(faults), figures=figures)
    # Here, since the recognizer is loaded only where somebody asks for it.
    from headrace.generation.media_review.hearing import heard

    words = heard(mono, sound.sample_rate)
    figures["heard_share"], figures["character_error_rate"] = _compared(wanted, letters(words))
    if _is_below(figures["heard_share"], settings.heard_share_min):
        faults.append("unfinished")
    if _is_above(figures["character_error_rate"], settings.character_error_rate_max):
        faults.append("wrong_words")
    return SpeechVerdict(faults=tuple(faults), figures=figures, heard=words)


def clipped_share(levels: np.ndarray) -> float:
    """Share of samples at full scale, or in flat stretches at a channel's own highest or lowest level."""
    num_clipped = 0
    for channel in levels.T:
        full = np.abs(channel) >= _FULL_SCALE
        flat = np.zeros(len(channel), bool)
        for end in {float(channel.max()), float(channel.min())} - {0.0}:
            flat |= _in_runs(channel == end)
        num_clipped += int((full | flat).sum())
    return num_clipped / levels.size


def loudness_variation(mono: np.ndarray, sample_rate: int) -> float | None:
    """The deviation of the loudness of pieces of 32 ms, as a share of their mean; None: there are less than two.

    Words and pauses vary, a steady noise does not.
    """
    size = int(sample_rate * _PIECE_SECONDS)
    pieces = mono[: len(mono) // size * size].reshape(-1, size)
    if len(pieces) < 2:
        return None
    loudness = np.sqrt(np.square(pieces, dtype=np.float64).mean(axis=1))
    return float(loudness.std() / loudness.mean()) if loudness.any() else 0.0


def sounding_seconds(mono: np.ndarray, sample_rate: int) -> float:
    """The seconds of the loudest moments of 4 ms that nine tenths of the energy lie in.

    A voice sounds through its vowels, a click in one moment.
    """
    size = max(1, int(sample_rate * _MOMENT_SECONDS))
    moments = mono[: len(mono) // size * size].reshape(-1, size)
    if not len(moments):
        return len(mono) / sample_rate
    energy = np.sort(np.square(moments, dtype=np.float64).sum(axis=1))[::-1].cumsum()
    num_sounding = int(np.searchsorted(energy, _ENERGY_SHARE * energy[-1])) + 1
    return min(num_sounding, len(energy)) * size / sample_rate


def _in_runs(is_end: np.ndarray) -> np.ndarray:
    """Samples that stand in a row of at least `_RUN_SAMPLES` such."""
    starts = np.flatnonzero(np.diff(np.concatenate([[False], is_end, [False]]).astype(np.int8)))
    found = np.zeros(len(is_end), bool)
    for start, end in starts.reshape(-1, 2):
        found[start:end] = end - start >= _RUN_SAMPLES
    return found


def _compared(wanted: tuple[str, ...], said: str) -> tuple[float, float]:
    """Of the reading that was heard: the share of its letters that was, and its character error rate."""
    from rapidfuzz.distance import Levenshtein

    nearest = min(wanted, key=lambda one: Levenshtein.distance(one, said) / max(1, len(one)))
    rate = Levenshtein.distance(nearest, said) / max(1, len(nearest))
    return len(said) / max(1, len(nearest)), min(rate, _WRONG_MAX)


def _characters(text: str, num_letters: int) -> int:
    written = sum(sign.isalnum() for sign in text)
    return len(text.strip()) + num_letters - written


def _is_above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


def _is_below(value: float, limit: float | None) -> bool:
    return limit is not None and value < limit
