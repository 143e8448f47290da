"""The rules for recordings: faults that are made here are caught, what a voice reads is kept, and limits say why."""

from collections.abc import Callable

import numpy as np
import pytest

from headrace.engines.echo_media import EchoMediaEngine
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaTurn
from headrace.engines.media_conformance import speaker
from headrace.engines.sound_samples import wav_of
from headrace.errors import InvalidCampaign
from headrace.generation.media_review import speech_settings
from headrace.generation.media_review.hearing import heard
from headrace.generation.media_review.speech import clipped_share, speech_verdict
from headrace.generation.media_review.speech_settings import SpeechReview

hibari = pytest.importorskip("hibari", reason="the extra speech")
TEXT = "a man made channel that carries water to the wheel of a mill"
OTHER = "the religious and social system of orthodox believers"
RATE = 24_000
DEAF, LISTENING = SpeechReview(), SpeechReview(heard_share_min=0.78, character_error_rate_max=0.55)
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def voice() -> Callable[..., np.ndarray]:
    return hibari.Hibari()


@pytest.fixture(scope="module")
def mono(voice: Callable[..., np.ndarray]) -> np.ndarray:
    return voice(TEXT, seed=1)


def noise(mono: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.05, len(mono))


def clicks(num_samples: int, *, every: float, seconds: float = 0.0) -> np.ndarray:
    """Pops of noise, every so many seconds, that fade within `seconds`; 0: single samples."""
    random, mono = np.random.default_rng(0), np.zeros(num_samples)
    fading = np.exp(-np.arange(max(1, int(seconds * RATE))) / max(1, int(seconds * RATE) / 3))
    for start in range(RATE // 100, num_samples - len(fading), int(every * RATE)):
        mono[start : start + len(fading)] = 0.9 * fading * (random.normal(0, 0.3, len(fading)) if seconds else 1)
    return mono


@pytest.mark.parametrize(
    ("change", "faults"),
    {
        "as it is": (lambda mono: mono, []),
        "softer": (lambda mono: mono / 4, []),
        "as loud as it may be": (lambda mono: mono / np.abs(mono).max() * 0.99, []),
        "silence": (np.zeros_like, ["silent"]),
        "a last bit": (lambda mono: np.sign(mono) / 32767, ["silent"]),
        "noise": (noise, ["noise"]),
        "a hum": (lambda mono: 0.1 * np.sin(np.arange(len(mono)) / 60), ["noise"]),
        "clicks": (lambda mono: clicks(len(mono), every=0.25), ["clicks"]),
        "clicks that fade": (lambda mono: clicks(len(mono), every=0.1, seconds=0.01), ["clicks"]),
        "clicks over a hiss": (lambda mono: clicks(len(mono), every=0.04) + noise(mono) / 50, ["clicks"]),
        "with silence around it": (lambda mono: np.pad(mono, RATE // 3), []),
        "too loud": (lambda mono: np.clip(mono * 20, -1, 1), ["clipped"]),
        "too loud, then softer": (lambda mono: np.clip(mono * 20, -1, 1) / 2, ["clipped"]),
        "half of it": (lambda mono: mono[: len(mono) // 2], ["too_short"]),
        "three times it": (lambda mono: np.tile(mono, 3), ["too_long"]),
        "no sample": (lambda mono: mono[:0], ["silent"]),
    }.values(),
)
def test_samples_and_length_tell_faults_without_ears(mono: np.ndarray, change: Change, faults: list[str]) -> None:
    assert list(speech_verdict(wav_of(change(mono), RATE), TEXT, DEAF).faults) == faults


def test_the_words_that_were_heard_tell_a_wrong_text_and_half_a_sentence(mono: np.ndarray) -> None:
    whole = speech_verdict(wav_of(mono, RATE), TEXT, LISTENING)
    assert whole.faults == ()
    assert whole.heard
    assert "water" in whole.heard
    assert whole.figures["character_error_rate"] < 0.4
    assert list(speech_verdict(wav_of(mono, RATE), OTHER, LISTENING).faults) == ["wrong_words"]
    half = speech_verdict(wav_of(mono[: len(mono) // 2], RATE), TEXT, LISTENING)
    assert {"unfinished", "too_short"} <= {*half.faults}


def test_what_is_heard_depends_on_no_recording_before_it(mono: np.ndarray) -> None:
    part = mono[: RATE * 3 // 2]
    alone = heard(part, RATE)
    heard(np.clip(part[: RATE // 2] * 20, -1, 1), RATE)
    assert heard(part, RATE) == alone


def test_nobody_listens_to_noise_and_silence(mono: np.ndarray) -> None:
    for change in (noise, np.zeros_like):
        assert speech_verdict(wav_of(change(mono), RATE), TEXT, LISTENING).heard is None


def test_bytes_that_are_no_wav_are_unreadable() -> None:
    assert list(speech_verdict(b"OggS and more", TEXT, DEAF).faults) == ["unreadable"]


def test_a_member_that_speaks_faster_is_measured_by_its_speed(voice: Callable[..., np.ndarray]) -> None:
    fast = wav_of(voice(TEXT, seed=1, speed=2.0), RATE)
    assert list(speech_verdict(fast, TEXT, DEAF).faults) == ["too_short"]
    assert list(speech_verdict(fast, TEXT, DEAF, speed=2.0).faults) == []


@pytest.mark.parametrize("text", ["mill", "a", "in 1905", "1,000,000"])
def test_a_short_text_is_not_too_long(voice: Callable[..., np.ndarray], text: str) -> None:
    mono = voice(text, seed=1)
    assert list(speech_verdict(wav_of(mono, RATE), text, DEAF).faults) == []
    # Nor are a few moments of sound in a second clicks, where the text has no more.
    assert "clicks" not in speech_verdict(wav_of(np.pad(mono, (0, RATE)), RATE), text, DEAF).faults


def test_what_echo_speaks_is_kept() -> None:
    engine, loop = EchoMediaEngine(speaker(sample_rate=16_000)), LoopThread()
    for seed in range(20):
        made = loop.run(engine.make(MediaTurn(unit="", text=TEXT[: 12 + seed], seed=seed)))
        assert list(speech_verdict(made.content, TEXT[: 12 + seed], DEAF).faults) == []
    loop.close()


def test_one_loud_sample_is_no_clipping_and_a_channel_of_two_is() -> None:
    tone = 0.5 * np.sin(np.arange(4000) / 9).astype(np.float32)
    assert clipped_share(tone[:, None]) == 0
    cut = np.clip(tone, -0.3, 0.3)
    assert clipped_share(np.stack([tone, cut], axis=1)) == pytest.approx(np.mean(np.abs(cut) == np.float32(0.3)) / 2)


def test_null_turns_a_rule_off_and_rules_names_those_that_are_on(mono: np.ndarray) -> None:
    off = SpeechReview(
        loudness_min=None,
        loudness_variation_min=None,
        sounding_share_min=None,
        clipped_share_max=None,
        characters_a_second_min=None,
        characters_a_second_max=None,
    )
    assert off.rules == ("unreadable",)
    for change in (np.zeros_like, noise, lambda mono: np.clip(mono * 20, -1, 1), lambda mono: np.tile(mono, 3)):
        assert list(speech_verdict(wav_of(change(mono), RATE), TEXT, off).faults) == []
    assert LISTENING.rules[-2:] == ("unfinished", "wrong_words")
    assert "wrong_words" not in DEAF.rules


@pytest.mark.parametrize(
    ("limits", "why"),
    {
        "another language": ({"language": "de", "heard_share_min": 0.7}, "knows English alone, got 'de'"),
        "a range": ({"characters_a_second_min": 21}, "must be below characters_a_second_max, got 21 and 20"),
        "a share": ({"clipped_share_max": 2}, "clipped_share_max must be"),
    }.values(),
)
def test_limits_that_mean_nothing_are_refused(limits: dict[str, object], why: str) -> None:
    with pytest.raises(Exception, match=why):
        SpeechReview(**limits)  # pyright: ignore[reportArgumentType]


def test_another_language_is_judged_without_ears() -> None:
    assert SpeechReview(language="de").listens is False


def test_without_the_recognizer_a_rule_that_listens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_settings, "_is_there", lambda name: name != "pocketsphinx")
    with pytest.raises(InvalidCampaign, match=r"need pocketsphinx, .* Run pip install 'headrace\[ears\]'"):
        SpeechReview(character_error_rate_max=0.55)
    assert SpeechReview().rules
