"""Carries out the store's erasures in what this gateway alone holds: its calls, its log, results for webhooks.

It looks every five seconds, and tells the store once an erasure is carried out here: the command waits for that. See
`headrace.inbox.erasing`.
"""

import asyncio
from collections.abc import Awaitable, Callable

from headrace.clock import Clock
from headrace.errors import reason_of
from headrace.handoff.erasures import ErasedData, data_of
from headrace.inbox.delivery_tables import erase_deliveries
from headrace.inbox.erasing import note_erased, unfinished
from headrace.inbox.intake import Intake
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.records import Records
from headrace.store.objects import ObjectStore

_LOOK_SECONDS = 5.0


async def _nothing(_: ErasedData) -> None:
    """Of a gateway without calls."""


class GatewayErasures:
    def __init__(
        self,
        store: ObjectStore,
        intake: Intake,
        *,
        clock: Clock,
        records: Records,
        end_calls: Callable[[ErasedData], Awaitable[None]] = _nothing,
    ) -> None:
        """Args: end_calls: ends this gateway's calls that belong to an erasure, so that nothing more of them comes."""
        self._store, self._intake, self._clock, self._records = store, intake, clock, records
        self._end_calls = end_calls
        # Of its own: a store that hangs stops only this.
        self._thread = DaemonThreads(1, "erasures")

    async def run(self) -> None:
        """Until it is cancelled."""
        told = ""
        while True:
            try:
                await self._look()
                told = ""
            except Exception as error:  # noqa: BLE001 (the next look goes on)
                if reason_of(error) != told:
                    told = reason_of(error)
                    self._records.event("erasures not carried out", error=told)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        loop, intake = asyncio.get_running_loop(), self._intake
        for number in await loop.run_in_executor(self._thread, unfinished, self._store, intake.nonce, intake.erased):
            data = await loop.run_in_executor(self._thread, data_of, self._store, number)
            await self._end_calls(data)
            num_events = await asyncio.wrap_future(intake.erase(number, data))
            await loop.run_in_executor(self._thread, self._end, number, data, num_events)
            self._records.event("inbox erased", erasure=number, num_events=num_events)

    def _end(self, number: int, data: ErasedData, num_events: int) -> None:
        erase_deliveries(self._intake.directory, data)
        # A window of events as they were says whose they are.
        self._intake.wait_for_sealing()
        note_erased(self._store, self._clock, self._intake.nonce, number, num_events)
