"""Reads an answer's pieces as the engine makes them, so that a slow or absent reader changes nothing at the engine.

For units that are evidence. Their clients see the set when the answer begins. If they could end the measurement by
leaving, or prolong it by not reading, they could choose what the gate sees of each set.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace

from headrace.engines.base import Piece

# A client that is so many pieces behind gets the following ones joined: an answer of thousands of small texts takes
# several times the memory of its characters.
_NUM_BEHIND_MAX = 16
_JOINED_CHARACTERS = 4096


class ReadAhead:
    """Holds untaken pieces, never more than an answer's maximum in all."""

    def __init__(self, pieces: AsyncGenerator[Piece, None]) -> None:
        # When the last piece came, on the monotonic clock; None: no piece with a finish reason came.
        self.whole_at: float | None = None
        self._pieces = pieces
        # Pieces that came and were not taken; None: nobody takes them any more.
        self._texts: deque[str] | None = deque()
        # The last piece, for its fields beside the text, until it is taken.
        self._last: Piece | None = None
        self._replica = ""
        self._news = asyncio.Event()
        self._error: Exception | None = None
        self._reading = asyncio.create_task(self._read(), name="read ahead")

    def __aiter__(self) -> "ReadAhead":
        return self

    async def __anext__(self) -> Piece:
        """Raises: the engine's error, after the pieces before it."""
        while not self._texts:
            if (last := self._last) is not None:
                self._last = None
                return last
            if self._reading.done():
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return Piece(text=self._texts.popleft(), replica=self._replica)

    async def to_the_end(self) -> None:
        """Reads the rest without keeping the pieces, when nobody takes them any more.

        Raises: the engine's error.
        """
        self._texts = None
        await asyncio.wait({self._reading})
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """Ends the work at the engine, if it is still running."""
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        try:
            async for piece in self._pieces:
                self._replica = piece.replica
                self._keep(piece.text)
                if piece.finish_reason is not None:
                    self.whole_at = time.monotonic()
                    self._last = replace(piece, text="")
                self._news.set()
        except Exception as error:  # noqa: BLE001 (whoever takes the pieces gets it)
            self._error = error
        finally:
            await self._pieces.aclose()
            self._reading_ended()

    def _keep(self, text: str) -> None:
        if not text or self._texts is None:
            return
        if len(self._texts) >= _NUM_BEHIND_MAX and len(self._texts[-1]) < _JOINED_CHARACTERS:
            self._texts[-1] += text
        else:
            self._texts.append(text)

    def _reading_ended(self) -> None:
        # Runs after this task is done, so a waiting reader sees that nothing more comes.
        asyncio.get_running_loop().call_soon(self._news.set)
