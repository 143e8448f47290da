"""What a lane hears of each call: when speech begins and ends, and the samples between.

Stages, in this order: `Resampling` to what models hear, `Activity` (Silero's probability of speech, 32 ms a time),
`Collecting` (when a turn begins and ends, and its samples, with some from before its beginning).

Silero's file, which faster-whisper brings, takes windows of one call in a row and not of several calls side by side:
calls take turns within a batch, at some 0.2 ms a window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headrace.engines.hearing import SAMPLE_RATE
from headrace.errors import InvalidInput, reason_of
from headrace.voice.lanes import Stage
from headrace.voice.rings import FRAME_MS, FRAME_SAMPLES, Ring
from headrace.voice.rings import SAMPLE_RATE as SENT_RATE

_WINDOW, _CONTEXT = 512, 64
_WINDOW_MS = _WINDOW * 1000 // SAMPLE_RATE
# Speech goes on while it is this much less likely than it must be to begin.
_HYSTERESIS = 0.15
# Windows of speech before a turn begins: a click has fewer.
_NUM_BEGINNING = 3
# Whisper reads thirty seconds at once; whoever speaks without a pause for so long is answered.
_TURN_MS_MAX = 60_000
_TAPS = 36


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnDetection:
    """When a turn begins and ends. As OpenAI's `server_vad`.

    Attributes:
        threshold: of the probability of speech.
        prefix_ms: of audio before its beginning that belong to a turn.
        silence_ms: that end it.
    """

    threshold: float = 0.5
    prefix_ms: int = 300
    silence_ms: int = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What a lane tells of a call. `pcm`: of a turn that ended, as engines hear it. `ms`: since the call began."""

    what: str
    ms: int
    pcm: bytes = b""


class Listener(Protocol):
    def __call__(self, heard: Heard) -> None:
        """In the lane's thread."""
        ...


@dataclass(eq=False)
class HearingTap:
    """One call's ears. `detection`: None: a turn ends where its client says.

    The event loop sets `detection`, `commit_at` and `clear_at` (samples written when it was asked); all else is the
    lane's.
    """

    tell: Listener
    detection: TurnDetection | None = field(default_factory=TurnDetection)
    ring: Ring = field(default_factory=Ring)
    commit_at: int | None = None
    clear_at: int | None = None
    # --- the lane's ---
    tail: np.ndarray = field(default_factory=lambda: np.zeros(_TAPS, np.float32))
    windows: np.ndarray = field(default_factory=lambda: np.zeros(_CONTEXT, np.float32))
    memory: np.ndarray = field(default_factory=lambda: np.zeros((2, 1, 1, 128), np.float32))
    probability: float = 0.0
    num_windows: int = 0
    frames: list[np.ndarray] = field(default_factory=list)
    is_speech: bool = False
    num_loud: int = 0
    quiet_ms: int = 0


class Resampling:
    """24,000 samples a second to 16,000: of three samples come two, each from the same low-pass filter."""

    def __init__(self) -> None:
        half = _TAPS // 2
        # At twice the rate sent, where both rates meet: its odd and even samples make the two kinds of output.
        places = (np.arange(2 * _TAPS) - (2 * _TAPS - 1) / 2) / 2
        low = np.sinc(places * 2 / 3) * np.hamming(2 * _TAPS)
        self._filters = np.stack([low[1::2] / low[1::2].sum(), low[0::2] / low[0::2].sum()]).astype(np.float32)
        assert half * 2 == _TAPS

    def __call__(self, taps: Sequence[HearingTap], frames: np.ndarray) -> np.ndarray:
        sent = frames.astype(np.float32) / 32768
        whole = np.concatenate([np.stack([tap.tail for tap in taps]), sent], axis=1)
        for tap, tail in zip(taps, whole[:, -_TAPS:], strict=True):
            tap.tail = tail.copy()
        views = np.lib.stride_tricks.sliding_window_view(whole, _TAPS, axis=1)
        made = np.empty((len(taps), FRAME_SAMPLES * 2 // 3), np.float32)
        made[:, 0::2] = views[:, 0:FRAME_SAMPLES:3] @ self._filters[0]
        made[:, 1::2] = views[:, 1 : FRAME_SAMPLES + 1 : 3] @ self._filters[1]
        return made


class Activity:
    """Silero's probability of speech, kept with each call."""

    def __init__(self) -> None:
        self._session = _silero()

    def __call__(self, taps: Sequence[HearingTap], frames: np.ndarray) -> np.ndarray:
        for tap, frame in zip(taps, frames, strict=True):
            tap.windows = np.concatenate([tap.windows, frame])
            tap.num_windows = 0
            while tap.detection is not None and len(tap.windows) >= _CONTEXT + _WINDOW:
                window = tap.windows[None, : _CONTEXT + _WINDOW]
                given = {"input": window, "h": tap.memory[0], "c": tap.memory[1]}
                (probability,), *memory = self._session.run(None, given)
                tap.memory = np.stack(memory)
                tap.probability = float(probability)
                tap.num_windows += 1
                tap.windows = tap.windows[_WINDOW:]
            if tap.detection is None:
                tap.windows = tap.windows[-_CONTEXT:]
        return frames


class Collecting:
    """Turns, by what was detected or by what clients say."""

    def __call__(self, taps: Sequence[HearingTap], frames: np.ndarray) -> np.ndarray:
        for tap, frame in zip(taps, frames, strict=True):
            tap.frames.append(frame.copy())
            if tap.clear_at is not None and tap.ring.read >= tap.clear_at:
                tap.clear_at = None
                _forget(tap)
                tap.tell(Heard(what="cleared", ms=_ms(tap)))
            elif tap.commit_at is not None and tap.ring.read >= tap.commit_at:
                tap.commit_at = None
                _end(tap, "committed")
            elif tap.detection is not None:
                _detect(tap, tap.detection)
            elif len(tap.frames) * FRAME_MS >= 2 * _TURN_MS_MAX:
                del tap.frames[: -_TURN_MS_MAX // FRAME_MS]
        return frames


def _detect(tap: HearingTap, detection: TurnDetection) -> None:
    if not tap.is_speech:
        if tap.num_windows:
            tap.num_loud = tap.num_loud + tap.num_windows if tap.probability >= detection.threshold else 0
        most = math.ceil((detection.prefix_ms + _NUM_BEGINNING * _WINDOW_MS) / FRAME_MS) + 1
        del tap.frames[:-most]
        if tap.num_loud >= _NUM_BEGINNING:
            tap.is_speech, tap.quiet_ms = True, 0
            begins = max(0, _ms(tap) - len(tap.frames) * FRAME_MS)
            tap.tell(Heard(what="started", ms=begins))
        return
    if tap.num_windows:
        is_quiet = tap.probability < detection.threshold - _HYSTERESIS
        tap.quiet_ms = tap.quiet_ms + tap.num_windows * _WINDOW_MS if is_quiet else 0
    if tap.quiet_ms >= detection.silence_ms or len(tap.frames) * FRAME_MS >= _TURN_MS_MAX:
        _end(tap, "stopped")


def _end(tap: HearingTap, what: str) -> None:
    samples = np.concatenate(tap.frames) if tap.frames else np.zeros(0, np.float32)
    _forget(tap)
    pcm = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    tap.tell(Heard(what=what, ms=_ms(tap), pcm=pcm))


def _forget(tap: HearingTap) -> None:
    tap.frames = []
    tap.is_speech, tap.num_loud, tap.quiet_ms = False, 0, 0
    tap.memory = np.zeros_like(tap.memory)


def _ms(tap: HearingTap) -> int:
    return tap.ring.read * 1000 // SENT_RATE


def hearing_stages() -> list[Stage]:
    return [Resampling(), Activity(), Collecting()]


def check_installed() -> None:
    """Raises: InvalidInput: what spoken turns need is not installed."""
    _silero()


def _silero() -> Any:
    try:
        import onnxruntime
        from faster_whisper.utils import get_assets_path

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        (file,) = Path(get_assets_path()).glob("silero_vad*.onnx")
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has errors of its own
        raise InvalidInput(
            f"Spoken turns need Silero's file of faster-whisper and onnxruntime: {reason_of(error)}. Run pip install "
            "'headrace[voice]'."
        ) from error
