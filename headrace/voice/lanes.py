"""The threads that read calls' audio: each takes a frame from every ring that has one, and gives them to its stages.

One thread a core, however many calls: a batch of frames goes from stage to stage as one array, so a stage's own cost is
paid a batch and not a frame, and nothing waits in a queue between two stages. What a stage finds out about a call, it
tells the event loop as an event; audio stays here.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from headrace.voice.rings import FRAME_SAMPLES, Ring

# Half a frame: what a frame may wait for its batch, so that calls whose frames come apart are read together.
_ROUND_SECONDS = 0.01


class Tap(Protocol):
    """One call, as a lane reads it. `ring` is the lane's to read while it is added."""

    ring: Ring


Stage = Callable[[Sequence[Any], np.ndarray], np.ndarray]
"""A step of a lane, called in its thread: gets calls and their frames (calls, samples), and returns the frames for the
next step, in the same order."""


class Lane:
    """One thread. `add` and `remove` from any other.

    Args:
        stages: made in the lane's thread, where they stay.
        failed: told what a stage raised, by the taps that it was given; they are removed.
    """

    def __init__(
        self,
        stages: Callable[[], Sequence[Stage]],
        *,
        failed: Callable[[Sequence[Any], Exception], None],
        name: str = "listening",
    ) -> None:
        self._make, self._failed = stages, failed
        self._taps: dict[Tap, None] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._batch = np.zeros((0, FRAME_SAMPLES), "<i2")

    @property
    def num_taps(self) -> int:
        return len(self._taps)

    def start(self) -> None:
        self._thread.start()

    def add(self, tap: Tap) -> None:
        with self._lock:
            self._taps[tap] = None
        self._wake.set()

    def remove(self, tap: Tap) -> None:
        """It is not read after the round that may be under way."""
        with self._lock:
            self._taps.pop(tap, None)

    def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        stages = self._make()
        pause = threading.Event()
        while not self._is_closing:
            if not self._taps:
                self._wake.wait()
                self._wake.clear()
                continue
            if not self._round(stages):
                pause.wait(_ROUND_SECONDS)

    def _round(self, stages: Sequence[Stage]) -> bool:
        """Reads one frame of each ring that has one. False: none had."""
        with self._lock:
            ready = [tap for tap in self._taps if tap.ring.has_frame]
        if not ready:
            return False
        if len(self._batch) < len(ready):
            self._batch = np.zeros((2 * len(ready), FRAME_SAMPLES), "<i2")
        frames = self._batch[: len(ready)]
        for place, tap in enumerate(ready):
            frames[place] = tap.ring.frame()
            tap.ring.taken()
        try:
            given = frames
            for stage in stages:
                given = stage(ready, given)
        except Exception as error:  # noqa: BLE001 (one stage's failure ends its calls, and no other)
            for tap in ready:
                self.remove(tap)
            self._failed(ready, error)
        return True
