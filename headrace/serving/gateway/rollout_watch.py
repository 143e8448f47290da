"""Keeps the engines in step with the journal: loads what is stable, on trial or proposed, closes what is retired.

A proposal is fetched, verified, loaded and tried here while traffic goes on, and this gateway's word on it is written
to the store: the controller starts the set when enough gateways have given theirs. A look that fails, in whatever way,
is said once and followed by the next one.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from headrace.clock import Clock
from headrace.errors import reason_of
from headrace.rollout.journal import Journal
from headrace.rollout.preparation import PreparationRecord, write_preparation
from headrace.rollout.states import RolloutState, fold
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.prepared_sets import PreparedSets
from headrace.serving.gateway.records import Records
from headrace.store.objects import ObjectStore

_LOOK_SECONDS = 0.5


class RolloutWatch:
    """Used from one event loop; the store is asked in a thread of its own, so one that hangs holds up nothing else."""

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        sets: PreparedSets,
        *,
        node: str,
        records: Records,
        clock: Clock,
        in_play: Callable[[], set[str]],
    ) -> None:
        self.state: RolloutState | None = None
        self._store = store
        self._name = name
        self._journal = Journal(store, name, clock)
        self._sets = sets
        self._node = node
        self._records = records
        self._clock = clock
        # What the router gives units to: it may be entries ahead.
        self._in_play = in_play
        self._thread = DaemonThreads(1, "rollout-watch")
        self._proposals: dict[int, asyncio.Task[None]] = {}
        self._error = ""

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                try:
                    await self._look()
                    self._say("")
                except Exception as error:  # noqa: BLE001 (a watch that ends would prepare nothing any more)
                    self._say(reason_of(error))
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            for task in self._proposals.values():
                task.cancel()

    async def _look(self) -> None:
        state = await self._in_thread(lambda: fold(self._journal.entries()))
        if state is None:
            return
        if self.state is None or state.head != self.state.head:
            self._records.event(
                "plan",
                entry=state.head,
                stable=state.stable,
                candidate=state.candidate,
                weight=state.weight,
                proposed=state.proposed,
            )
        self.state = state
        if state.proposed and state.proposal not in self._proposals:
            self._proposals[state.proposal] = asyncio.create_task(self._prepare(state.proposal, state.proposed))
        in_play = self._in_play() | {set_id for set_id in (state.stable, state.candidate) if set_id}
        for set_id in in_play:
            if self._sets.get(set_id) is None:
                asyncio.create_task(self._load(set_id))  # noqa: RUF006 (`PreparedSets` holds the load itself)
        await self._sets.keep(in_play | {state.proposed or state.stable}, state.evicted)

    async def _load(self, set_id: str) -> None:
        # What went wrong is kept there, and tried again.
        with suppress(Exception):
            await self._sets.ensure(set_id)

    async def _prepare(self, proposal: int, set_id: str) -> None:
        started, error = self._clock.now(), None
        members: tuple[str, ...] = ()
        try:
            members = tuple((await self._sets.ensure(set_id, at_once=True)).roles)
        except Exception as failure:  # noqa: BLE001 (this node's word on the set, whatever it is)
            error = reason_of(failure)
        now = self._clock.now()
        record = PreparationRecord(
            node=self._node, ok=error is None, error=error, seconds=now - started, members=members, at=now
        )
        self._records.event("prepared", version_set=set_id, proposal=proposal, ok=record.ok, error=error)
        while self.state is None or self.state.proposal == proposal:
            try:
                await self._in_thread(lambda: write_preparation(self._store, self._name, proposal, record))
            except Exception as failure:  # noqa: BLE001 (said; until the proposal is withdrawn, when time is up)
                self._say(reason_of(failure))
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                return

    async def _in_thread(self, work):
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _say(self, error: str) -> None:
        """Once a change, not twice a second."""
        if error != self._error:
            self._error = error
            self._records.event("rollout not followed" if error else "rollout followed", error=error)


def node_name(port: int | None) -> str:
    """This gateway among others: the machine, and the port, since each process has engines of its own."""
    return f"{socket.gethostname()}-{port}" if port else socket.gethostname()
