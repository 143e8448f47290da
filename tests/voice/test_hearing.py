"""Lanes read rings: frames in order, turns where speech begins and ends, and a failing stage ends its calls alone."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.voice.hearing import Collecting, Heard, HearingTap, Resampling, TurnDetection
from headrace.voice.lanes import Lane, Stage
from headrace.voice.rings import FRAME_SAMPLES, SAMPLE_RATE, Ring
from tests.waiting import eventually


@given(sizes=st.lists(st.integers(0, 3 * FRAME_SAMPLES), max_size=60), patience=st.integers(1, 5))
def test_a_ring_gives_what_was_written_in_order(sizes: list[int], patience: int) -> None:
    ring, written, read = Ring(), 0, []
    for place, size in enumerate(sizes):
        samples = (np.arange(written, written + size) % 30_000).astype("<i2")
        assert ring.write(samples.tobytes()) == 2 * size
        written += size
        while ring.has_frame and (place % patience == 0 or ring.num_free < 4 * FRAME_SAMPLES):
            read.append(ring.frame().copy())
            ring.taken()
    whole = np.concatenate(read) if read else np.zeros(0)
    assert (whole == np.arange(len(whole)) % 30_000).all()
    assert ring.read == len(whole)


def test_a_full_ring_takes_only_what_it_has_room_for() -> None:
    ring = Ring()
    pcm = bytes(2 * ring.num_free + 10)
    assert ring.write(pcm) == len(pcm) - 10
    assert ring.write(pcm) == 0


@pytest.mark.parametrize("hertz", [200, 1000, 3400, 6000])
def test_speech_keeps_its_pitch_and_loudness_when_resampled(hertz: int) -> None:
    tap, resampling = HearingTap(tell=lambda heard: None), Resampling()
    wave = np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE) * 16_000
    frames = wave.astype("<i2").reshape(-1, 1, FRAME_SAMPLES)
    made = np.concatenate([resampling([tap], frame)[0] for frame in frames])[4000:12_000]
    loudness = np.abs(np.fft.rfft(made * np.hanning(len(made))))
    assert np.argmax(loudness) == hertz // 2
    # Whatever else is in it is forty decibels below.
    beside = np.delete(loudness, range(hertz // 2 - 4, hertz // 2 + 5))
    assert beside.max() < loudness.max() / 100
    assert np.abs(made).max() == pytest.approx(16_000 / 32_768, rel=0.1)


def test_calls_of_one_batch_do_not_hear_each_other() -> None:
    draw = np.random.default_rng(1)
    frames = draw.integers(-9000, 9000, (5, 3, FRAME_SAMPLES)).astype("<i2")
    together = [HearingTap(tell=lambda heard: None) for _ in range(3)]
    alone = HearingTap(tell=lambda heard: None)
    for batch in frames:
        made = Resampling()(together, batch)
        assert np.array_equal(made[1], Resampling()([alone], batch[1:2])[0])


def collected(probabilities: Sequence[float], detection: TurnDetection | None, **marks: Any) -> list[Heard]:
    """What is told of a call whose windows, one of 32 ms in each frame, have these probabilities."""
    told: list[Heard] = []
    tap = HearingTap(tell=lambda heard: told.append(heard), detection=detection, **marks)
    for place, probability in enumerate(probabilities):
        tap.ring.write(bytes(2 * FRAME_SAMPLES))
        tap.ring.taken()
        tap.probability, tap.num_windows = probability, 1
        Collecting()([tap], np.full((1, 320), place / 1000, np.float32))
    return told


def test_a_turn_begins_with_speech_and_ends_with_silence() -> None:
    told = collected([0.0] * 40 + [0.9] * 30 + [0.0] * 20, TurnDetection(silence_ms=320, prefix_ms=100))
    assert [heard.what for heard in told] == ["started", "stopped"]
    started, stopped = told
    # Three windows of speech, and before them a hundred milliseconds.
    assert 600 <= started.ms <= 760
    assert stopped.ms == 20 * (40 + 30 + 10)
    first = np.frombuffer(stopped.pcm, "<i2")[0] / 32_767
    assert first == pytest.approx(started.ms / 20 / 1000, abs=2e-3)


def test_a_click_is_no_turn_and_a_breath_ends_none() -> None:
    assert collected([0.0] * 10 + [0.9] * 2 + [0.0] * 40, TurnDetection()) == []
    breath = [0.9] * 20 + [0.1] * 5 + [0.9] * 20
    assert [heard.what for heard in collected(breath, TurnDetection())] == ["started"]


def test_without_detection_a_turn_is_what_its_client_commits() -> None:
    told = collected([0.9] * 30, None, commit_at=20 * FRAME_SAMPLES)
    assert [(heard.what, len(heard.pcm)) for heard in told] == [("committed", 20 * 320 * 2)]


def test_what_was_cleared_is_in_no_turn() -> None:
    told: list[Heard] = []
    tap = HearingTap(
        tell=lambda heard: told.append(heard), detection=None, clear_at=10 * FRAME_SAMPLES, commit_at=15 * FRAME_SAMPLES
    )
    for place in range(15):
        tap.ring.write(bytes(2 * FRAME_SAMPLES))
        tap.ring.taken()
        Collecting()([tap], np.full((1, 320), place, np.float32))
    assert [(heard.what, len(heard.pcm)) for heard in told] == [("cleared", 0), ("committed", 5 * 320 * 2)]


@dataclass(eq=False)
class Tap:
    ring: Ring = field(default_factory=Ring)
    seen: list[int] = field(default_factory=list)


def test_a_stage_that_fails_ends_the_calls_that_it_was_given_and_the_lane_goes_on() -> None:
    gone: list[Any] = []
    failed = threading.Event()

    def noting(taps: Sequence[Any], frames: np.ndarray) -> np.ndarray:
        for tap, frame in zip(taps, frames, strict=True):
            tap.seen.append(int(frame[0]))
        return frames

    def picky(taps: Sequence[Any], frames: np.ndarray) -> np.ndarray:
        if (frames == 13).any():
            raise ValueError("thirteen")
        return frames

    def note(taps: Sequence[Any], error: Exception) -> None:
        gone.extend(taps)
        failed.set()

    stages: list[Stage] = [noting, picky]
    lane = Lane(lambda: stages, failed=note)
    lane.start()
    try:
        bad, good = Tap(), Tap()
        bad.ring.write(np.full(FRAME_SAMPLES, 13, "<i2").tobytes())
        lane.add(bad)
        assert failed.wait(30)
        assert gone == [bad]
        lane.add(good)
        for number in (1, 2, 3):
            good.ring.write(np.full(FRAME_SAMPLES, number, "<i2").tobytes())
        eventually(lambda: good.seen == [1, 2, 3])
        bad.ring.write(bytes(2 * FRAME_SAMPLES))
        lane.remove(good)
        assert lane.num_taps == 0
    finally:
        lane.close()
    assert bad.seen == [13]
