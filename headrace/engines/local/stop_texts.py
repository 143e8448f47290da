"""Ends answers at the first stop text, in whole texts and in streams."""

from collections.abc import Sequence


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether one was found."""
    found = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


class StopWatch:
    """Holds back the end of a stream while it may be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._kept = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that may be given out now, and whether a stop text ended the answer."""
        if not self._stops:
            return text, False
        text = self._kept + text
        before, is_cut = cut_at_stop(text, self._stops)
        if is_cut:
            self._kept = ""
            return before, True
        num_kept = max(_overlap(text, stop) for stop in self._stops)
        self._kept = text[len(text) - num_kept :]
        return text[: len(text) - num_kept], False

    def rest(self) -> str:
        """The text held back, after the end of the stream."""
        kept, self._kept = self._kept, ""
        return kept


def _overlap(text: str, stop: str) -> int:
    """Length of the text's longest ending that begins the stop text."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
