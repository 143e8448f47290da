"""Cuts text that comes in pieces into sentences, so that a sentence is spoken while the next one is being written."""

import re

# An end that somebody would pause at, and what follows begins anew. Not after a single letter or a title's dot.
_END = re.compile(
    r"(?<!\b[A-Z])(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bMrs)(?<!\bSt)[.!?…。！？][\"'”’)\]]*(?=\s)|[。！？]|\n+"
)
# A sentence without an end is cut where a clause ends, or between words: nobody waits so long for its first word.
_CHARACTERS_MAX = 240
_CLAUSE = re.compile(r"[,;:–—]\s|\s")


class Sentences:
    """`add` pieces, then `end`; both give the sentences that are complete."""

    def __init__(self) -> None:
        self._rest = ""

    def add(self, piece: str) -> list[str]:
        self._rest += piece
        found: list[str] = []
        while True:
            end = _END.search(self._rest)
            if end is not None and end.end() <= _CHARACTERS_MAX:
                place = end.end()
            elif len(self._rest) > _CHARACTERS_MAX:
                places = [match.end() for match in _CLAUSE.finditer(self._rest, 1, _CHARACTERS_MAX)]
                place = places[-1] if places else _CHARACTERS_MAX
            else:
                return found
            found += _said(self._rest[:place])
            self._rest = self._rest[place:]

    def end(self) -> list[str]:
        rest, self._rest = self._rest, ""
        return _said(rest)


def _said(text: str) -> list[str]:
    """The text, unless there is nothing in it that can be said."""
    text = " ".join(text.split())
    return [text] if any(sign.isalnum() for sign in text) else []
