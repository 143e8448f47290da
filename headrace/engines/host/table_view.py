"""The table of residents as clients and people see it."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.engines.host.copies import COMING, Copy, Model, State
from headrace.engines.host.residents import Residents
from headrace.fairness import CLASSES, WorkClass
from headrace.store.small_objects import Record


@dataclass(frozen=True, kw_only=True)
class AccountRow:
    """One place's memory for models. `reserved_mib`: of it, promised to models that are here, come or leave, or sleep
    elsewhere, what several share counted once."""

    place: str
    mib: int
    reserved_mib: int


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One copy of a model that the host has; or a model that it has had, or was asked for."""

    id: str
    """The key of its weights, settings and place: equal ones are one model. It tells apart what is called the same,
    such as one model with two `batch_rows`."""
    model: str
    model_id: str
    """The same for all places, environments and releases: by it a coordinator knows what a run needs."""
    place: str
    state: str
    """absent, loading, on the device, falling asleep, asleep, waking, or leaving."""
    state_seconds: float
    """How long it has been in that state (SINCE of the listing), not how long it has been known or in memory."""
    mib: int
    """What its process held when it was measured last."""
    reserved_mib: int
    """What it has of the place's memory."""
    peak_mib: int
    """The most that it ever held, if only for a moment as it came."""
    shared_mib: int = 0
    """Of `reserved_mib`, files that others here have mapped, too: they are in memory once."""
    bring_seconds: float | None = None
    """How long it took to come the last time (COMES IN of the listing); null: it never came."""
    wake_seconds: float | None = None
    """How long it took to wake the last time (COMES IN of the listing while it sleeps); null: it never did."""
    hits: int = 0
    """Requests that it was here for."""
    loads: int = 0
    wakes: int = 0
    at_work: int = 0
    """Requests that it answers now."""
    waiting: int = 0
    """Requests that it is not here for yet, or that give way to others."""
    at_work_by_class: dict[WorkClass, int] = field(default_factory=dict)
    """Of those at work: class → how many."""
    waiting_by_class: dict[WorkClass, int] = field(default_factory=dict)
    """Of those that wait: class → how many."""
    is_kept: bool = False
    """Whether a live service keeps it: it does not make room for bulk work."""
    next_out: int | None = None
    """1: the first to leave if another needs room; null: it is not here."""
    pid: int | None = None
    refusal: str | None = None
    """Why it cannot come, told to everybody who asks until it is tried again."""

    @property
    def come_seconds(self) -> float | None:
        """Until it could work, as far as the last times tell; null: it never came."""
        if self.state == State.ON_DEVICE.value:
            return 0.0
        if self.state in (State.ASLEEP.value, State.FALLING_ASLEEP.value) and self.wake_seconds is not None:
            return self.wake_seconds
        whole = self.wake_seconds if self.state == State.WAKING.value else self.bring_seconds
        is_coming = self.state in [state.value for state in COMING]
        # As long again as it is late already: nobody knows.
        return whole if whole is None or not is_coming else abs(whole - self.state_seconds)


@dataclass(frozen=True, kw_only=True)
class Table:
    accounts: tuple[AccountRow, ...]
    data: tuple[ModelRow, ...]

    def come_seconds(self, keys: Collection[str]) -> float | None:
        """Until all of these models could work where they come soonest, one after the other; null: nobody knows."""
        soonest = [
            min((row.come_seconds for row in self.data if row.id == key and row.come_seconds is not None), default=None)
            for key in keys
        ]
        return None if None in soonest else sum(seconds for seconds in soonest if seconds is not None)


TABLE = Record("Table of an engine host", Table)


def table_of(table: Residents, pids: Mapping[tuple[str, str], int], model_ids: Mapping[str, str]) -> Table:
    """Args: `pids`: of the copies' processes, by key and place; `model_ids`: as a row has them, by key."""
    order: dict[Copy, int] = {}
    for place in table.accounts:
        order |= {one: rank for rank, one in enumerate(table.next_out(place), 1)}
    accounts = tuple(
        AccountRow(place=place, mib=mib, reserved_mib=table.reserved_mib(place))
        for place, mib in table.accounts.items()
    )
    rows = tuple(
        _row(table, copy, order.get(copy), pids.get((model.key, copy.place)), model_ids.get(model.key, ""))
        for model in table.all()
        for copy in list(model.copies.values()) or [_absent(model)]
    )
    return Table(accounts=accounts, data=rows)


def table_body(table: Table) -> dict[str, Any]:
    """The list of models, as OpenAI's clients read one, with the accounts beside it."""
    body = asdict(table)
    return {"object": "list", **body, "data": [{"object": "model", **row} for row in body["data"]]}


def _absent(model: Model) -> Copy:
    return Copy(model=model, place=model.places[0], state=State.ABSENT, since=model.gone_at)


def _row(table: Residents, copy: Copy, next_out: int | None, pid: int | None, model_id: str) -> ModelRow:
    model = copy.model
    return ModelRow(
        id=model.key,
        model=model.label,
        model_id=model_id,
        place=copy.place,
        state=copy.state.value,
        state_seconds=table.seconds_in_state(copy),
        mib=copy.mib,
        reserved_mib=table.held_mib(copy),
        shared_mib=table.shared_mib(copy),
        peak_mib=model.peak_mib,
        bring_seconds=model.bring_seconds,
        wake_seconds=model.wake_seconds,
        hits=model.num_hits,
        loads=model.num_loads,
        wakes=model.num_wakes,
        at_work=len(copy.at_work),
        waiting=table.num_waiting(model.key),
        at_work_by_class={one: sum(ticket.work_class == one for ticket in copy.at_work) for one in CLASSES},
        waiting_by_class={one: model.waiting.num_of(one) for one in CLASSES},
        is_kept=table.is_kept(model.key),
        next_out=next_out,
        pid=pid,
        refusal=str(model.refusal) if model.refusal and copy.state is State.ABSENT else None,
    )
