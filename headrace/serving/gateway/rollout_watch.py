"""Keeps the engines in step with the plan: loads stable, candidate and proposed sets, closes retired ones, and has an
engine host keep the models of the sets that serve.

A proposal is fetched, verified, loaded and tried here while traffic continues, and this gateway writes its record to
the store; the controller starts the set when enough gateways have done so. A check that fails in any way is reported
once, and the next one follows.
"""

import asyncio
import socket
from contextlib import suppress

from headrace.clock import Clock
from headrace.engines.host.floor import Floor
from headrace.errors import reason_of
from headrace.rollout.preparation import PreparationRecord, write_preparation
from headrace.serving.daemon_threads import DaemonThreads
from headrace.serving.gateway.prepared_sets import PreparedSets
from headrace.serving.gateway.records import Records
from headrace.serving.plan_lease import NOT_READ_YET, PlanLease
from headrace.store.objects import ObjectStore

_LOOK_SECONDS = 0.5


class RolloutWatch:
    """Used from one event loop; separate threads ask the store, so a hanging call delays nothing else."""

    def __init__(
        self,
        store: ObjectStore,
        lease: PlanLease,
        sets: PreparedSets,
        *,
        node: str,
        records: Records,
        clock: Clock,
        floor: Floor | None = None,
    ) -> None:
        # The lease is the gateway's only journal reader, so that preparing and routing follow the same state.
        self._store, self._lease, self._sets, self._floor = store, lease, sets, floor
        self._node, self._records, self._clock = node, records, clock
        self._head = 0
        self._thread = DaemonThreads(1, "rollout-watch")
        self._proposals: dict[int, asyncio.Task[None]] = {}
        self._error = ""

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            while True:
                try:
                    await self._look()
                    self._say(self._why_not_followed())
                except Exception as error:  # noqa: BLE001 (a watch that ends would prepare nothing any more)
                    self._say(reason_of(error))
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            for task in self._proposals.values():
                task.cancel()

    async def _look(self) -> None:
        state = self._lease.state()
        if state is None:
            return
        if state.head != self._head:
            self._head = state.head
            self._records.event(
                "plan",
                entry=state.head,
                stable=state.stable,
                candidate=state.candidate,
                weight=state.weight,
                proposed=state.proposed,
            )
        if state.proposed and state.proposal not in self._proposals:
            self._proposals[state.proposal] = asyncio.create_task(self._prepare(state.proposal, state.proposed))
        in_play = {set_id for set_id in (state.stable, state.candidate) if set_id}
        for set_id in in_play:
            if self._sets.get(set_id) is None:
                asyncio.create_task(self._load(set_id))  # noqa: RUF006 (`PreparedSets` holds the load itself)
        await self._sets.keep(in_play | {state.proposed or state.stable}, state.evicted)
        if self._floor and (stable := self._sets.get(state.stable)):
            # A candidate that made room for bulk work would look slow beside the stable set, and be judged by it.
            serving = self._sets.get(state.candidate) if state.candidate and state.weight else None
            self._floor.hold({*stable.residents, *(serving.residents if serving else ())})

    def _why_not_followed(self) -> str:
        """Empty: the plan is followed, or the first read is running."""
        if self._lease.error:
            return "" if self._lease.error == NOT_READ_YET else self._lease.error
        return "" if self._lease.state() else "its journal names no stable set yet"

    async def _load(self, set_id: str) -> None:
        # `_failures` keeps the error, and the set is tried again.
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
        while (state := self._lease.state()) is None or state.proposal == proposal:
            try:
                await self._in_thread(lambda: write_preparation(self._store, self._lease.name, proposal, record))
            except Exception as failure:  # noqa: BLE001 (said; until the proposal is withdrawn, when time is up)
                self._say(reason_of(failure))
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                return

    async def _in_thread(self, work):
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _say(self, error: str) -> None:
        """Reports a change once, not twice a second."""
        if error != self._error:
            self._error = error
            self._records.event("rollout not followed" if error else "rollout followed", error=error)


def node_name(port: int | None) -> str:
    """This gateway's name: the machine, and the port, since each process has its own engines."""
    return f"{socket.gethostname()}-{port}" if port else socket.gethostname()
