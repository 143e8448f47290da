"""How much of an answer its client can have played by now, if it plays what it gets at once.

Audio is sent faster than it is heard. Until the client says how far it played (`conversation.item.truncate`), this is
the best that anybody knows; a client that has buffers of its own is behind it, and says so.
"""


class PlayClock:
    """Seconds are of a monotonic clock."""

    def __init__(self, played_ms: int = 0) -> None:
        """Args: played_ms: of the answer, before this process had it."""
        self._sent_ms = played_ms
        self._ends = 0.0

    def sent(self, ms: int, now: float) -> None:
        """So much was sent: it plays after what was sent before, or now."""
        self._sent_ms += ms
        self._ends = max(self._ends, now) + ms / 1000

    def played_ms(self, now: float) -> int:
        left_ms = max(0.0, self._ends - now) * 1000
        return max(0, round(self._sent_ms - left_ms))

    def is_playing(self, now: float) -> bool:
        return now < self._ends
