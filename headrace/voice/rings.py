"""Audio between one writer and one reader: a ring for each call, in frames of 20 ms.

The event loop writes what clients send, a listening thread reads it. Neither takes a lock: the writer alone moves
`written`, the reader alone moves `read`, and Python stores a number at once. Audio is nowhere else on its way: not in a
queue for each stage, not in the log.
"""

import numpy as np

SAMPLE_RATE = 24_000
"""Samples a second of what clients send and get."""
FRAME_MS = 20
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000
# Two seconds: who sends a recording at once waits for the reader.
_NUM_FRAMES = 100


class Ring:
    """Samples of 16 bits. Attributes: written, read: samples since the call began."""

    def __init__(self) -> None:
        self._samples = np.zeros(_NUM_FRAMES * FRAME_SAMPLES, "<i2")
        self.written = 0
        self.read = 0

    @property
    def num_free(self) -> int:
        return len(self._samples) - (self.written - self.read)

    @property
    def has_frame(self) -> bool:
        return self.written - self.read >= FRAME_SAMPLES

    def write(self, pcm: bytes | memoryview) -> int:
        """Takes the beginning that there is room for. Returns how many bytes; the rest is for later."""
        num = min(len(pcm) // 2, self.num_free)
        samples = np.frombuffer(pcm, "<i2", num)
        place = self.written % len(self._samples)
        first = min(num, len(self._samples) - place)
        self._samples[place : place + first] = samples[:first]
        self._samples[: num - first] = samples[first:]
        self.written += num
        return num * 2

    def fill_frame(self) -> None:
        """Silence up to the end of the frame that has begun, so that its beginning is read."""
        if rest := -self.written % FRAME_SAMPLES:
            self.write(bytes(2 * rest))

    def frame(self) -> np.ndarray:
        """The next frame, which must be there: a view of `FRAME_SAMPLES` samples, good until it is `taken`."""
        place = self.read % len(self._samples)
        return self._samples[place : place + FRAME_SAMPLES]

    def taken(self) -> None:
        self.read += FRAME_SAMPLES

    def drop(self) -> None:
        """Forgets whole frames that were not read. By the reader."""
        self.read += (self.written - self.read) // FRAME_SAMPLES * FRAME_SAMPLES
