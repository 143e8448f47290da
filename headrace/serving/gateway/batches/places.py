"""The places that lines of batches have at once: shared evenly between clients, whoever has more lines.

Clients take fair turns (`headrace.fairness`), and within a client goes who came first. Used from one event loop.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from headrace.fairness import FairLine


@dataclass(eq=False, kw_only=True)
class _Waiting:
    number: int
    costs: Mapping[str, float]
    turn: "asyncio.Future[bool]"


class LinePlaces:
    """`num_max`: lines at once."""

    def __init__(self, num_max: int) -> None:
        self._num_free = num_max
        self._line = FairLine[_Waiting]()
        self._numbers = count()

    async def take(self, tenant: str, stops: "Stops") -> bool:
        """Waits for a place. False: the batch stopped before there was one."""
        if stops.why:
            return False
        if self._num_free and not self._line:
            self._num_free -= 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        one = _Waiting(number=next(self._numbers), costs={tenant: 1.0}, turn=turn)
        self._line.add(one)
        stops.waiting.add(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back()
            raise
        finally:
            stops.waiting.discard(turn)
            if one in self._line:
                self._line.remove(one)

    def give_back(self) -> None:
        while (one := self._line.first()) is not None:
            if one.turn.done():
                # It stopped, or was given up, a moment ago.
                self._line.remove(one)
                continue
            self._line.begin(one)
            one.turn.set_result(True)
            return
        self._num_free += 1


class Stops:
    """Why a batch starts no further line; what waits for it hears of it at once. `why` empty: it goes on."""

    def __init__(self) -> None:
        self.why = ""
        self.waiting: set[asyncio.Future[bool]] = set()

    def stop(self, why: str) -> None:
        self.why = self.why or why
        for turn in self.waiting:
            if not turn.done():
                turn.set_result(False)

    async def pause(self, seconds: float) -> None:
        """Returns after so many seconds, or when it stops."""
        if self.why:
            return
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting.add(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except TimeoutError:
            pass
        finally:
            self.waiting.discard(turn)
