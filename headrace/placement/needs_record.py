"""A run's needs, and their form in a run tag."""

import json
from dataclasses import dataclass, field, fields
from typing import Annotated

from annotated_types import Ge, Gt, Le, MaxLen

from headrace.placement.demand import WHOLE, Demand, Gang
from headrace.placement.tag_values import (
    CPU_MILLI_MAX,
    EXPECTED_SECONDS_MAX,
    MEMORY_MIB_MAX,
    NAME_LENGTH_MAX,
    NUM_GPUS_MAX,
)
from headrace.store.small_objects import Record

DEFAULT_QUEUE = "default"


@dataclass(frozen=True, kw_only=True)
class RunNeeds:
    """One run's demand, and the facts by which the queue orders it. Written into one run tag when the run is queued."""

    demand: Demand = field(default_factory=Demand)
    queue: str = DEFAULT_QUEUE
    stage: str = ""
    expected_seconds: float | None = None  # stated by a tag; None: learned from past runs
    preemptible: bool = False
    # Names of models; an unknown one prefers no place.
    loads: frozenset[str] = frozenset()

    def to_json(self) -> str:
        stated = {one.name: getattr(self.demand, one.name) for one in fields(Demand)}
        stated |= {**vars(self), "gpu_models": sorted(self.demand.gpu_models), "loads": sorted(self.loads)}
        del stated["demand"]
        return json.dumps(stated, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "RunNeeds":
        """Raises: ValueError: not needs as `to_json` writes them, or out of bounds."""
        try:
            stated = dict(vars(_RECORD.checked(text)))
        except ValueError as error:
            raise ValueError(f"Not a run's needs: {error}, in {text[:200]!r}.") from error
        demand = Demand(**{one.name: stated.pop(one.name) for one in fields(Demand)})
        return cls(demand=demand, **stated)


_Name = Annotated[str, MaxLen(NAME_LENGTH_MAX)]


@dataclass(frozen=True, kw_only=True)
class _Tag:
    """All fields side by side; a newer Headrace's fields are refused, since they may change what is needed."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    num_gpus: Annotated[int, Ge(0), Le(NUM_GPUS_MAX)]
    gpu_milli: Annotated[int, Ge(1), Le(WHOLE)]
    gpu_memory_mib: Annotated[int, Ge(0), Le(MEMORY_MIB_MAX)]
    gpu_models: frozenset[_Name]
    gang: Gang
    cpu_milli: Annotated[int, Ge(0), Le(CPU_MILLI_MAX)]
    memory_mib: Annotated[int, Ge(0), Le(MEMORY_MIB_MAX)]
    queue: _Name
    stage: _Name
    expected_seconds: Annotated[float, Gt(0), Le(EXPECTED_SECONDS_MAX)] | None
    preemptible: bool
    loads: frozenset[_Name]

    def __post_init__(self) -> None:
        if self.gpu_milli < WHOLE and self.num_gpus != 1:
            raise ValueError("a share of other than one GPU")


_RECORD = Record("Needs", _Tag)
