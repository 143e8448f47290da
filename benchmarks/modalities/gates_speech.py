"""The rules for recordings on sabotage: what share of faulty ones they catch, and what share of true ones they take.

True recordings are WordNet's glosses
of 25 to 80 characters, read by hibari's voice. The fixing recordings show where true ones and half sentences lie,
beside the limits; sabotage is made of others, drawn apart, `--each` of each kind. A fault counts as caught only
by rules that name it. Beside it: whether a recording is as long as true ones are, which is what is commonly checked.
Outside the bars: a quarter as many of faults that the rules were not made for. Listening takes nearly all the time,
about 0.3 CPU seconds a recording; nobody listens to silence, noise and what is clipped.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import (
    Bars,
    at_least,
    at_most,
    print_table,
    progress,
    require_peers,
    rounded,
)
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome
from headrace.engines.sound_samples import wav_of
from headrace.generation.media_review.speech import SpeechVerdict, speech_verdict
from headrace.generation.media_review.speech_settings import SpeechReview
from headrace.keys import digest_text
from headrace.prep.wordnet import installed_database, read_glosses

_CAUGHT_BAR, _TRUE_REJECTED_BAR = 0.98, 0.02
_SAMPLE_RATE = 24_000
_CHARACTERS = range(25, 81)
_SHOWN = 5
_SEED, _NUM_PROCESSES = 0, 2
_DEAF = SpeechReview()
_LISTENING = SpeechReview(heard_share_min=0.78, character_error_rate_max=0.55)
# The rules that name a fault.
_RULES_OF = {
    "silence": {"silent"},
    "noise": {"noise"},
    "clicks": {"clicks"},
    "half_sentence": {"too_short", "unfinished"},
    "wrong_text": {"wrong_words"},
    "clipping": {"clipped"},
}
# Shares and percentiles of true ones and of half sentences, by figure.
_FIGURES = (
    "loudness",
    "loudness_variation",
    "sounding_share",
    "clipped_share",
    "characters_a_second",
    "heard_share",
    "character_error_rate",
)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One gloss and its recording: float32 at 24 kHz."""

    text: str
    mono: np.ndarray


Change = Callable[[Spoken, int, np.random.Generator], Spoken]


def run(given: Given, directory: Path) -> Outcome:
    require_peers({"hibari-tts": "hibari", "pocketsphinx": "pocketsphinx", "rapidfuzz": "rapidfuzz", "wn": "wn"})
    num, random = given.each, np.random.default_rng(_SEED)
    texts = _texts(_SEED)
    voice = _voice()
    fixing = [Spoken(text=text, mono=voice(text, seed=place)) for place, text in enumerate(texts[:num])]
    true = [Spoken(text=text, mono=voice(text, seed=place)) for place, text in enumerate(texts[-num:])]
    fewer = true[: max(1, num // 4)]
    with ProcessPoolExecutor(_NUM_PROCESSES) as pool:

        def judged(what: str, spoken: Sequence[Spoken], settings: SpeechReview = _LISTENING) -> list[SpeechVerdict]:
            started = time.perf_counter()
            pairs = list(pool.map(partial(_judged, settings=settings), spoken, chunksize=5))
            cpu_seconds[what] = sum(seconds for _, seconds in pairs)
            progress.print(f"{what}: {len(pairs)} judged in {time.perf_counter() - started:.0f} s")
            return [verdict for verdict, _ in pairs]

        cpu_seconds: dict[str, float] = {}
        fixed = judged("fixing", fixing)
        halves = judged("fixing, halves", _changed(_half, fixing, random))
        kept = judged("true", true)
        found = {
            kind: judged(kind, _changed(change, true, random), _LISTENING if kind == "half_sentence" else _DEAF)
            for kind, change in _SABOTAGE.items()
        }
        found["wrong_text"] = judged("wrong_text", _exchanged(true))
        others = {kind: judged(kind, _changed(change, fewer, random)) for kind, change in _OTHERS.items()}
    durations = sorted(len(one.mono) / _SAMPLE_RATE for one in fixing)
    body: dict[str, Any] = {
        "limits": asdict(_LISTENING),
        "num_each": num,
        "fixing": {"true": _spread(fixed), "half_sentence": _spread(halves), "true_rejected": _share(fixed)},
        "true": _spread(kept),
        "true_rejected": _share(kept),
        "true_rejected_by": _by_rule(kept),
        "true_rejected_examples": _examples(true, kept),
        "caught": {kind: _share(found[kind], rules) for kind, rules in _RULES_OF.items()},
        "caught_by": {kind: _by_rule(verdicts) for kind, verdicts in found.items()},
        "caught_without_ears": {
            kind: _share(found[kind], rules - {"unfinished", "wrong_words"}) for kind, rules in _RULES_OF.items()
        },
        "caught_by_duration_alone": {
            kind: rounded(
                float(np.mean([not durations[0] <= one.figures["duration_seconds"] <= durations[-1] for one in them]))
            )
            for kind, them in found.items()
        },
        "outside_the_bars_caught": {kind: _share(them) for kind, them in others.items()},
        "outside_the_bars_caught_by": {kind: _by_rule(them) for kind, them in others.items()},
        "cpu_seconds_a_recording": rounded(cpu_seconds["true"] / num),
        "cpu_seconds_a_second": rounded(cpu_seconds["true"] / sum(len(one.mono) / _SAMPLE_RATE for one in true)),
    }
    bars: Bars = {f"{kind}_caught": at_least(share, _CAUGHT_BAR) for kind, share in body["caught"].items()}
    bars["true_speech_rejected"] = at_most(body["true_rejected"], _TRUE_REJECTED_BAR)
    print_table(
        f"{num} recordings of each",
        ["", "caught", "without ears", "by duration alone"],
        [
            [kind, *(f"{body[way][kind]:.1%}" for way in ("caught", "caught_without_ears", "caught_by_duration_alone"))]
            for kind in _RULES_OF
        ],
        caption=f"of {num} true recordings {body['true_rejected']:.1%} are rejected",
    )
    return Outcome(body=body, bars=bars)


def _texts(seed: int) -> list[str]:
    """Glosses in an order of their own."""
    there = {one.gloss for one in read_glosses(installed_database()) if len(one.gloss) in _CHARACTERS}
    return sorted(there, key=lambda text: digest_text("speech gates", str(seed), text))


def _voice() -> Any:
    from hibari import Hibari

    return Hibari()


def _judged(one: Spoken, settings: SpeechReview) -> tuple[SpeechVerdict, float]:
    """With its CPU seconds."""
    started = time.process_time()
    return speech_verdict(wav_of(one.mono, _SAMPLE_RATE), one.text, settings), time.process_time() - started


def _changed(change: Change, spoken: Sequence[Spoken], random: np.random.Generator) -> list[Spoken]:
    return [change(one, place, random) for place, one in enumerate(spoken)]


def _exchanged(spoken: Sequence[Spoken]) -> list[Spoken]:
    """Each text gets the recording of another that is about as long: the hardest to tell."""
    by_length = sorted(spoken, key=lambda one: len(one.mono))
    following = [*by_length[1:], by_length[-2]]
    return [Spoken(text=one.text, mono=other.mono) for one, other in zip(by_length, following, strict=True)]


def _silence(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    """Nothing, a last bit that flickers, or a faint hum."""
    mono = np.zeros_like(one.mono)
    if place % 3 == 1:
        mono = random.integers(-1, 2, len(mono)).astype(np.float32) / 32767
    elif place % 3 == 2:
        mono = 0.004 * np.sin(2 * np.pi * 50 * np.arange(len(mono)) / _SAMPLE_RATE)
    return Spoken(text=one.text, mono=mono.astype(np.float32))


def _noise(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    """As loud as the speech: white, pink, or with the speech's own spectrum."""
    loudness = np.sqrt(np.mean(one.mono**2))
    spectrum = np.fft.rfft(random.standard_normal(len(one.mono)))
    if place % 3 == 1:
        spectrum /= np.sqrt(np.arange(len(spectrum)) + 1)
    elif place % 3 == 2:
        spectrum *= np.abs(np.fft.rfft(one.mono))
    mono = np.fft.irfft(spectrum, len(one.mono))
    return Spoken(text=one.text, mono=(mono * loudness / np.sqrt(np.mean(mono**2))).astype(np.float32))


def _clicks(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    """Single samples or pops that fade within 10 ms, 2 to 25 a second, every other time over a hiss at -50 dB."""
    every = int(_SAMPLE_RATE / random.uniform(2, 25))
    fading = np.exp(-np.arange(240) / 80) * random.normal(0, 0.3, 240) if place % 3 else np.ones(1)
    mono = random.normal(0, 0.003, len(one.mono)) if place % 2 else np.zeros(len(one.mono))
    for start in range(every // 2, len(mono) - len(fading), every):
        mono[start : start + len(fading)] += 0.9 * fading
    return Spoken(text=one.text, mono=mono.astype(np.float32))


def _half(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    return Spoken(text=one.text, mono=one.mono[: len(one.mono) // 2])


def _clipped(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    """0.5% to 20% of the samples too loud; every other one made softer afterwards."""
    share = np.exp(random.uniform(np.log(0.005), np.log(0.2)))
    mono = np.clip(one.mono / np.quantile(np.abs(one.mono), 1 - share), -1, 1)
    return Spoken(text=one.text, mono=(mono * (0.6 if place % 2 else 1)).astype(np.float32))


def _half_and_silence(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    mono = one.mono.copy()
    mono[len(mono) // 2 :] = 0
    return Spoken(text=one.text, mono=mono)


def _three_quarters(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    return Spoken(text=one.text, mono=one.mono[: len(one.mono) * 3 // 4])


def _twice(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    return Spoken(text=one.text, mono=np.concatenate([one.mono, one.mono]))


def _one_word_missing(one: Spoken, place: int, random: np.random.Generator) -> Spoken:
    """The text has a word that the recording has not."""
    words = one.text.split()
    words.insert(int(random.integers(0, len(words) + 1)), "never")
    return Spoken(text=" ".join(words), mono=one.mono)


_SABOTAGE: dict[str, Change] = {
    "silence": _silence,
    "noise": _noise,
    "clicks": _clicks,
    "half_sentence": _half,
    "clipping": _clipped,
}
_OTHERS: dict[str, Change] = {
    "half_then_silence": _half_and_silence,
    "last_quarter_missing": _three_quarters,
    "said_twice": _twice,
    "one_word_missing": _one_word_missing,
}


def _share(verdicts: Sequence[SpeechVerdict], rules: set[str] | None = None) -> float:
    """Of those that a rule rejects; None: any."""
    caught = [bool(one.faults if rules is None else rules.intersection(one.faults)) for one in verdicts]
    return rounded(float(np.mean(caught)), 4)


def _by_rule(verdicts: Sequence[SpeechVerdict]) -> dict[str, int]:
    return dict(Counter(rule for one in verdicts for rule in one.faults))


def _spread(verdicts: Sequence[SpeechVerdict]) -> dict[str, list[float]]:
    """Figure → least, 1st, 50th and 99th percentile, most."""
    found = {}
    for name in _FIGURES:
        values = [one.figures[name] for one in verdicts if name in one.figures]
        found[name] = [rounded(float(value)) for value in np.percentile(values, [0, 1, 50, 99, 100])]
    return found


def _examples(spoken: Sequence[Spoken], verdicts: Sequence[SpeechVerdict]) -> list[list[str]]:
    """Of true recordings that are rejected: text, what was heard, rules."""
    pairs = zip(spoken, verdicts, strict=True)
    rejected = [[one.text, verdict.heard or "", *verdict.faults] for one, verdict in pairs if verdict.faults]
    return rejected[:_SHOWN]
