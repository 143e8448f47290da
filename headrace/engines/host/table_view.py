"""The table of residents as clients and people see it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.engines.host.copies import Copy, Model, State
from headrace.engines.host.residents import Residents
from headrace.store.small_objects import Record

ACCOUNTS = "accounts"


@dataclass(frozen=True, kw_only=True)
class AccountRow:
    """One place's memory for models. `reserved_mib`: of it, promised to models that are here, come or leave."""

    place: str
    mib: int
    reserved_mib: int


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One copy of a model that the host has; or a model that it has had, or was asked for."""

    id: str
    """The key of its weights, settings and place: equal ones are one model."""
    model: str
    place: str
    state: str
    """absent, loading, on the device, falling asleep, asleep, waking, or leaving."""
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
    """Requests that the model was here for, at any place."""
    loads: int = 0
    wakes: int = 0
    at_work: int = 0
    """Requests that it answers now."""
    live_at_work: int = 0
    """Of them, those that somebody waits for."""
    waiting: int = 0
    """Requests that the model is not here for yet, at any place, or that give way to others."""
    is_kept: bool = False
    """Whether a live service keeps it: it does not make room for bulk work."""
    next_out: int | None = None
    """1: the first to leave if another needs room; null: it is not on the device."""
    pid: int | None = None
    refusal: str | None = None
    """Why it cannot come, told to everybody who asks until it is tried again."""


@dataclass(frozen=True, kw_only=True)
class Table:
    accounts: tuple[AccountRow, ...]
    data: tuple[ModelRow, ...]


TABLE = Record("Table of an engine host", Table)


def table_body(table: Residents, pids: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """`data` of the list of models. Args: pids: of copies, by key and place."""
    order: dict[Copy, int] = {}
    for place in table.accounts:
        order |= {one: rank for rank, one in enumerate(table.next_out(place), 1)}
    rows = [
        _row(table, model, copy, order.get(copy), pids.get((model.key, copy.place)))
        for model in table.all()
        for copy in list(model.copies.values()) or [_absent(model)]
    ]
    # `object` is OpenAI's, so that its clients can list the models.
    return {"data": [{"object": "model", **asdict(row)} for row in rows]}


def _absent(model: Model) -> Copy:
    return Copy(model=model, place=model.places[0], state=State.ABSENT, since=model.gone_at)


def _row(table: Residents, model: Model, copy: Copy, next_out: int | None, pid: int | None) -> ModelRow:
    return ModelRow(
        id=model.key,
        model=model.label,
        place=copy.place,
        state=copy.state.value,
        state_seconds=table.seconds_in_state(copy),
        mib=copy.mib,
        reserved_mib=copy.reserved_mib,
        peak_mib=model.peak_mib,
        bring_seconds=model.bring_seconds,
        wake_seconds=model.wake_seconds,
        hits=model.num_hits,
        loads=model.num_loads,
        wakes=model.num_wakes,
        at_work=len(copy.at_work),
        live_at_work=sum(ticket.is_live for ticket in copy.at_work),
        waiting=table.num_waiting(model.key),
        is_kept=table.is_kept(model.key),
        next_out=next_out,
        pid=pid,
        refusal=str(model.refusal) if model.refusal and copy.state is State.ABSENT else None,
    )
