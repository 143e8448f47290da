"""The table of residents as clients and people see it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.engines.host.residents import Resident, Residents, State
from headrace.store.small_objects import Record


@dataclass(frozen=True, kw_only=True)
class AccountRow:
    """One place's memory for models. `reserved_mib`: of it, promised to models that are here, come or leave."""

    place: str
    mib: int
    reserved_mib: int


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model that the host has, has had, or was asked for."""

    id: str
    """The key of its weights, settings and place: equal ones are one model."""
    model: str
    model_id: str
    """The same for all places, environments and releases: by it a coordinator knows what a run needs."""
    place: str
    state: str
    """absent, loading, on the device, asleep, or leaving."""
    state_seconds: float
    """How long it has been in that state."""
    mib: int
    """What its process held when it was measured last."""
    reserved_mib: int
    """Its part of the place's memory."""
    peak_mib: int
    """The most that it was ever measured to hold."""
    bring_seconds: float | None = None
    """How long it took to come the last time; null: it never came."""
    wake_seconds: float | None = None
    """How long it took to wake the last time; null: it never slept."""
    hits: int = 0
    """Requests that it was here for."""
    loads: int = 0
    wakes: int = 0
    at_work: int = 0
    """Requests that it answers now."""
    live_at_work: int = 0
    """Of them, those that somebody waits for."""
    waiting: int = 0
    """Requests that it is not here for yet, or that give way to others."""
    is_kept: bool = False
    """Whether a live service keeps it: it does not make room for bulk work."""
    next_out: int | None = None
    """1: the first to leave if another needs room; null: it is not here."""
    pid: int | None = None
    refusal: str | None = None
    """Why it cannot come, told to everybody who asks until it is tried again."""


@dataclass(frozen=True, kw_only=True)
class Table:
    accounts: tuple[AccountRow, ...]
    data: tuple[ModelRow, ...]


TABLE = Record("Table of an engine host", Table)


def table_of(table: Residents, pids: Mapping[str, int], model_ids: Mapping[str, str]) -> Table:
    """Args: by key: `pids`: of the models' processes; `model_ids`: as a row has them."""
    order: dict[str, int] = {}
    for place in table.accounts:
        order |= {one.key: rank for rank, one in enumerate(table.next_out(place), 1)}
    accounts = tuple(
        AccountRow(place=place, mib=mib, reserved_mib=table.reserved_mib(place))
        for place, mib in table.accounts.items()
    )
    rows = tuple(
        _row(table, one, order.get(one.key), pids.get(one.key), model_ids.get(one.key, "")) for one in table.all()
    )
    return Table(accounts=accounts, data=rows)


def table_body(table: Table) -> dict[str, Any]:
    """The list of models, as OpenAI's clients read one, with the accounts beside it."""
    body = asdict(table)
    return {"object": "list", **body, "data": [{"object": "model", **row} for row in body["data"]]}


def _row(table: Residents, one: Resident, next_out: int | None, pid: int | None, model_id: str) -> ModelRow:
    return ModelRow(
        id=one.key,
        model=one.label,
        model_id=model_id,
        place=one.place,
        state=one.state.value,
        state_seconds=table.seconds_in_state(one),
        mib=one.mib,
        reserved_mib=one.reserved_mib,
        peak_mib=one.peak_mib,
        bring_seconds=one.bring_seconds,
        wake_seconds=one.wake_seconds,
        hits=one.num_hits,
        loads=one.num_loads,
        wakes=one.num_wakes,
        at_work=len(one.at_work),
        live_at_work=sum(ticket.is_live for ticket in one.at_work),
        waiting=table.num_waiting(one.key),
        is_kept=one.is_kept,
        next_out=next_out,
        pid=pid,
        refusal=str(one.refusal) if one.refusal and one.state is State.ABSENT else None,
    )
