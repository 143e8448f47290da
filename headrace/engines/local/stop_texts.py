"""Ends answers where a stop text begins, in whole texts and in texts that come piece by piece."""

from collections.abc import Sequence


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text in it, and whether there was one."""
    found = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


class StopWatch:
    """Holds back the end of a stream while it may still be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._kept = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """What may be given out now, and whether a stop text ended the answer."""
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
        """What was held back, once the stream has ended."""
        kept, self._kept = self._kept, ""
        return kept


def _overlap(text: str, stop: str) -> int:
    """How many characters at the text's end are the beginning of the stop text."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
