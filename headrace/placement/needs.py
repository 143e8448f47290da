"""Reads what a run's tags ask for from free text: `Demand` is for the fleet, the rest orders the queue.

A run's demand is the peak of its steps: in each dimension the most that steps hold that may run together (`step_peak`;
with one step at a time, the largest). The run holds all of it from admission to end. Then:

- Shares of a GPU whose sum is at most one stay one shared GPU; a larger sum, or shares beside whole GPUs, become whole
GPUs, rounded up.
- GPU memory of shares that stay on one GPU adds up; for whole GPUs it is the most that any step needs of each.
- Allowed models are those that all steps allow; GPUs are on one node unless every step with GPUs says `any`.
- Queue and stage come from the step that holds most; a run is preemptible if all its steps are.
- A run loads what its steps load; a version set's name counts where no step says more.
- A run's tag replaces that tag of all its steps, as a statement about the whole run: `headrace/gpus: 0` makes it
CPU-only. The steps' own texts for that tag are not read.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

from headrace.placement.demand import (
    CPUS,
    EXPECTED_SECONDS,
    GANG,
    GPU_MEMORY_MIB,
    GPU_MODELS,
    GPUS,
    LOADS,
    MEMORY_MIB,
    PREEMPTIBLE,
    QUEUE,
    STAGE,
    VERSION_SET,
    WHOLE,
    Demand,
    Gang,
)
from headrace.placement.needs_record import DEFAULT_QUEUE, RunNeeds
from headrace.placement.step_peak import ancestors, peak
from headrace.placement.tag_values import (
    CPU_MILLI_MAX,
    MEMORY_MIB_MAX,
    NUM_GPUS_MAX,
    InvalidNeeds,
    TagValue,
)

__all__ = ["InvalidNeeds", "PlannedStep", "RunNeeds", "StepLimit", "read_needs"]

# A share that only states memory: its part of a GPU follows from the GPU's size, at placement.
_BY_MEMORY_ALONE = 1


_Value = TypeVar("_Value")


class _GpuFields(TypedDict, total=False):
    num_gpus: int
    gpu_milli: int
    gpu_memory_mib: int
    gpu_models: frozenset[str]
    gang: Gang


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step that a run will execute.

    `copies`: how many instances of it may run at the same time (a mapped step); None: unknown.
    """

    key: str
    tags: Mapping[str, str] = field(default_factory=dict)
    upstream: frozenset[str] = frozenset()
    copies: int | None = 1


@dataclass(frozen=True, kw_only=True)
class StepLimit:
    """At most `most` of these steps run at the same time."""

    step_keys: frozenset[str]
    most: int


def read_needs(
    steps: Sequence[PlannedStep],
    run_tags: Mapping[str, str],
    *,
    steps_at_once: int | None = None,
    limits: Sequence[StepLimit] = (),
) -> RunNeeds:
    """The needs of a run.

    Args:
        steps: those that will be executed; dependencies on other steps are ignored.
        steps_at_once: how many of them the run's executor runs together at most; None: any number.
        limits: further limits on running steps together.

    Raises:
        InvalidNeeds: a tag cannot be read, or the steps' needs exclude each other.
    """
    run = _read(run_tags, "the run")
    wishes = {
        step.key: _read({tag: text for tag, text in step.tags.items() if tag not in run_tags}, f"step {step.key}")
        for step in steps
    }
    together = _Together(steps, wishes, steps_at_once, limits)
    cpu_milli = together.peak("cpu_milli", CPUS) if run.cpu_milli is None else run.cpu_milli
    memory_mib = together.peak("memory_mib", MEMORY_MIB) if run.memory_mib is None else run.memory_mib
    for tag, got, most in ((CPUS, cpu_milli, CPU_MILLI_MAX), (MEMORY_MIB, memory_mib, MEMORY_MIB_MAX)):
        if got > most:
            raise InvalidNeeds(f"Tags {tag} of the run's steps add up to more than {most:,}, the most that is counted.")
    first = max(wishes.values(), key=_Wish.weight, default=_Wish())
    return RunNeeds(
        demand=Demand(**_gpu_fields(run, wishes, together), cpu_milli=cpu_milli, memory_mib=memory_mib),
        queue=run.queue or first.queue or DEFAULT_QUEUE,
        stage=run.stage or first.stage or "",
        expected_seconds=together.seconds() if run.seconds is None else run.seconds or None,
        preemptible=bool(wishes) and all(wish.preemptible for wish in wishes.values())
        if run.preemptible is None
        else run.preemptible,
        loads=_loads([run]) or _loads(wishes.values()),
    )


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """The parsed tags of one step or of the run; None: not stated."""

    gpu_milli: int | None = None
    gpu_memory_mib: int | None = None
    models: frozenset[str] | None = None
    gang: Gang | None = None
    cpu_milli: int | None = None
    memory_mib: int | None = None
    seconds: float | None = None
    queue: str | None = None
    stage: str | None = None
    preemptible: bool | None = None
    version_set: str | None = None
    loads: frozenset[str] = frozenset()

    @property
    def milli_of_gpus(self) -> int:
        """Thousandths of GPUs, including shares that only state memory."""
        if self.gpu_milli is not None:
            return self.gpu_milli
        return _BY_MEMORY_ALONE if self.gpu_memory_mib else 0

    def weight(self) -> tuple[int, int, int]:
        return self.milli_of_gpus, self.cpu_milli or 0, self.memory_mib or 0


def _read(tags: Mapping[str, str], carrier: str) -> _Wish:
    def read(tag: str, reading: Callable[[TagValue], _Value]) -> _Value | None:
        return reading(TagValue(tag, tags[tag], carrier)) if tag in tags else None

    return _Wish(
        gpu_milli=read(GPUS, TagValue.gpu_milli),
        gpu_memory_mib=read(GPU_MEMORY_MIB, TagValue.mib),
        models=read(GPU_MODELS, TagValue.models),
        gang=read(GANG, TagValue.gang),
        cpu_milli=read(CPUS, TagValue.milli),
        memory_mib=read(MEMORY_MIB, TagValue.mib),
        seconds=read(EXPECTED_SECONDS, TagValue.seconds),
        queue=read(QUEUE, TagValue.name),
        stage=read(STAGE, TagValue.name),
        preemptible=read(PREEMPTIBLE, TagValue.flag),
        version_set=read(VERSION_SET, TagValue.name),
        loads=read(LOADS, TagValue.names) or frozenset(),
    )


def _loads(wishes: Collection[_Wish]) -> frozenset[str]:
    stated = frozenset(model for wish in wishes for model in wish.loads)
    return stated or frozenset(wish.version_set for wish in wishes if wish.version_set)


class _Together:
    """What steps hold when they run together."""

    def __init__(
        self,
        steps: Sequence[PlannedStep],
        wishes: Mapping[str, _Wish],
        steps_at_once: int | None,
        limits: Sequence[StepLimit],
    ) -> None:
        self._steps = steps
        self._wishes = wishes
        self._steps_at_once = steps_at_once
        self._limits = limits
        self._before: dict[str, set[str]] | None = None

    def peak(self, dimension: str, tag: str, among: Collection[str] | None = None) -> int:
        """`dimension` names a number of a wish; `tag` is what the user would have to change."""
        weights = {
            key: getattr(wish, dimension) or 0 for key, wish in self._wishes.items() if among is None or key in among
        }
        copies: dict[str, int] = {}
        for step in self._steps:
            most = step.copies or self._most_of({step.key})
            if most is None and weights.get(step.key):
                raise InvalidNeeds(
                    f"Step {step.key} has tag {tag} and maps over a number of outputs that is not known before it "
                    f"runs: set max_concurrent of the run's executor, or tag {tag} of the run."
                )
            copies[step.key] = most or 1
        before = self._ancestors()
        limited, rest = 0, dict(weights)
        for limit in self._limits:
            some = {key: rest.pop(key) for key in weights if key in limit.step_keys and key in rest}
            limited += peak(some, before, self._most_of(some), copies)
        limited += peak(rest, before, self._steps_at_once, copies)
        return min(limited, peak(weights, before, self._steps_at_once, copies))

    def _most_of(self, keys: Collection[str]) -> int | None:
        """How many of these steps run together at most; None: any number."""
        bounds = [limit.most for limit in self._limits if limit.step_keys.issuperset(keys)]
        return min([*bounds, *([self._steps_at_once] if self._steps_at_once else [])], default=None)

    def seconds(self) -> float | None:
        """Time along the longest chain, or of all steps in turn; None if a step that holds something states none."""
        holders = [key for key, wish in self._wishes.items() if any(wish.weight())] or list(self._wishes)
        if not holders or any(not self._wishes[key].seconds for key in holders):
            return None
        seconds = {key: wish.seconds or 0.0 for key, wish in self._wishes.items()}
        in_turn = sum(seconds.values())
        if self._steps_at_once == 1:
            return in_turn
        ends: dict[str, float] = {}
        before = self._ancestors()
        for key in sorted(before, key=lambda key: len(before[key])):
            ends[key] = seconds[key] + max((ends[other] for other in before[key] if other in ends), default=0.0)
        return max(*ends.values(), in_turn / self._steps_at_once if self._steps_at_once else 0.0)

    def _ancestors(self) -> dict[str, set[str]]:
        if self._before is None:
            self._before = ancestors({step.key: step.upstream for step in self._steps})
        return self._before


def _gpu_fields(run: _Wish, wishes: Mapping[str, _Wish], together: _Together) -> _GpuFields:
    holders = {key: wish for key, wish in wishes.items() if wish.milli_of_gpus}
    sharers = {key for key, wish in holders.items() if wish.milli_of_gpus < WHOLE}
    milli = run.gpu_milli
    if milli is None:
        milli = together.peak("milli_of_gpus", GPUS) or (_BY_MEMORY_ALONE if run.gpu_memory_mib else 0)
    if milli == 0:
        return {}
    num_gpus = math.ceil(milli / WHOLE)
    if num_gpus > NUM_GPUS_MAX:
        raise InvalidNeeds(f"Tags {GPUS} of the run's steps add up to more than {NUM_GPUS_MAX:,} GPUs.")
    memory = run.gpu_memory_mib
    if memory is None:
        memory = max((wish.gpu_memory_mib or 0 for wish in holders.values()), default=0)
        if num_gpus == 1:
            memory = max(memory, together.peak("gpu_memory_mib", GPU_MEMORY_MIB, among=sharers))
    gang = run.gang or ("any" if holders and all(wish.gang == "any" for wish in holders.values()) else "node")
    return {
        "num_gpus": num_gpus,
        "gpu_milli": milli if num_gpus == 1 else WHOLE,
        "gpu_memory_mib": memory,
        "gpu_models": run.models or _common_models(holders),
        "gang": gang,
    }


def _common_models(holders: Mapping[str, _Wish]) -> frozenset[str]:
    common: frozenset[str] = frozenset()
    for key, wish in holders.items():
        if not wish.models:
            continue
        if common and not common & wish.models:
            raise InvalidNeeds(
                f"Tag {GPU_MODELS} of step {key} allows {_listed(wish.models)}, but other steps of the run only "
                f"{_listed(common)}: a run gets one model; run them apart, or set the tag of the run."
            )
        common = common & wish.models if common else wish.models
    return common


def _listed(models: frozenset[str]) -> str:
    return ", ".join(sorted(models))
