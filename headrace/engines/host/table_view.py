"""The table of residents as clients and people see it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.engines.host.residents import Resident, Residents, State
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
    """One model that the host has, has had, or was asked for."""

    id: str
    """The key of its weights, settings and place: equal ones are one model."""
    model: str
    model_id: str
    """The same for all places, environments and releases: by it a coordinator knows what a run needs."""
    place: str
    state: str
    """absent, loading, on the device, or leaving."""
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
    hits: int = 0
    """Requests that it was here for."""
    loads: int = 0
    at_work: int = 0
    """Requests that it answers now."""
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


def table_body(table: Residents, pids: Mapping[str, int], model_ids: Mapping[str, str]) -> dict[str, Any]:
    """`data` of the list of models. `model_ids`: by key."""
    order: dict[str, int] = {}
    for place in table.accounts:
        order |= {one.key: rank for rank, one in enumerate(table.next_out(place), 1)}
    rows = [_row(table, one, order.get(one.key), pids.get(one.key), model_ids.get(one.key, "")) for one in table.all()]
    # `object` is OpenAI's, so that its clients can list the models.
    return {"data": [{"object": "model", **asdict(row)} for row in rows]}


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
        hits=one.num_hits,
        loads=one.num_loads,
        at_work=len(one.at_work),
        next_out=next_out,
        pid=pid,
        refusal=str(one.refusal) if one.refusal and one.state is State.ABSENT else None,
    )
