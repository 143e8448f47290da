"""An answer's pieces, read as the engine makes them: whether and when they are taken changes nothing at the engine.

For units that are evidence. Their clients see the set when the answer begins; if they could end the measurement by
going away, or draw it out by not reading, they could choose what the gate sees of either set.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace

from headrace.engines.base import Piece

# A client that is so many pieces behind gets what follows in larger ones: an answer of thousands of small texts takes
# several times the memory of its characters.
_NUM_BEHIND_MAX = 16
_JOINED_CHARACTERS = 4096


class ReadAhead:
    """Holds what may still be taken: no more than an answer may have in all."""

    def __init__(self, pieces: AsyncGenerator[Piece, None]) -> None:
        # When the last piece came, on the monotonic clock; None: none came with a finish reason.
        self.whole_at: float | None = None
        self._pieces = pieces
        # What came and was not taken; None: nobody takes any more.
        self._texts: deque[str] | None = deque()
        # What the last piece says beside its text, until it was taken.
        self._last: Piece | None = None
        self._replica = ""
        self._news = asyncio.Event()
        self._error: Exception | None = None
        self._reading = asyncio.create_task(self._read(), name="read ahead")

    def __aiter__(self) -> "ReadAhead":
        return self

    async def __anext__(self) -> Piece:
        """Raises: what the engine raised, after the pieces before it."""
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
        """Read on, although nobody takes the pieces any more: they are not kept.

        Raises: what the engine raised.
        """
        self._texts = None
        await asyncio.wait({self._reading})
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """End the work at the engine, if it has not ended."""
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
        # After this task is done, so that whoever waits for news sees that there will be none.
        asyncio.get_running_loop().call_soon(self._news.set)
