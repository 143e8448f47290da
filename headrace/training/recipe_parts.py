"""Sections of a recipe: optimizer, schedule, offload, what is watched meanwhile. Imports no library of training."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from headrace.errors import InvalidTrainingRun
from headrace.user_files.ranges import Because, check_ranges

OptimizerName = Literal["adamw", "adam", "adamax", "nadam", "radam", "rmsprop", "adadelta", "sgd", "adafactor"]
ScheduleName = Literal[
    "cosine",
    "constant",
    "linear",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_restarts",
    "warmup_stable_decay",
    "step",
    "exponential",
]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

ADAMW: OptimizerName = "adamw"
# Options of each of torch's optimizers, beside learning rate and weight decay.
OPTIONS: dict[OptimizerName, tuple[str, ...]] = {
    "adamw": ("eps", "amsgrad"),
    "adam": ("eps", "amsgrad"),
    "adamax": ("eps",),
    "nadam": ("eps", "momentum_decay"),
    "radam": ("eps",),
    "rmsprop": ("eps", "alpha", "momentum"),
    "adadelta": ("eps", "rho"),
    "sgd": ("momentum", "nesterov"),
    "adafactor": ("beta2_decay",),
}
# Those that read the recipe's beta1 and beta2.
WITH_BETAS: tuple[OptimizerName, ...] = ("adamw", "adam", "adamax", "nadam", "radam")
# ZeRO cuts flattened parameters into pieces: what looks at a whole matrix would see another one on each rank.
WHOLE_MATRICES: tuple[OptimizerName, ...] = ("adafactor",)
# Options of each schedule's shape.
_SHAPES: dict[ScheduleName, tuple[str, ...]] = {
    "polynomial": ("power",),
    "cosine_with_restarts": ("cycles",),
    "warmup_stable_decay": ("decay_steps",),
    "step": ("step_every", "step_factor"),
}


def section_body(section: Any) -> dict[str, Any]:
    """What a section says, without the keys that say nothing: added keys leave older bodies as they are."""
    told = {field.name: getattr(section, field.name) for field in fields(section)}
    return {name: spelt(value) for name, value in told.items() if value is not None}


def spelt(value: Any) -> Any:
    """A value of a recipe as JSON has it."""
    if is_dataclass(value):
        return section_body(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One of torch's optimizers, and those of its options that are not torch's defaults."""

    name: OptimizerName = ADAMW
    """torch's own class of this name. `adafactor` needs `zero_stage: 0`, for ZeRO cuts the matrices that it factors."""
    eps: Annotated[float, Gt(0), Lt(1)] | None = None
    """Added to what a step is divided by; null: torch's default."""
    amsgrad: bool | None = None
    """Of `adamw` and `adam`: divides by the largest second moment so far."""
    momentum: Annotated[float, Ge(0), Lt(1)] | None = None
    """Of `sgd` and `rmsprop`."""
    nesterov: bool | None = None
    """Of `sgd` with `momentum`."""
    alpha: Annotated[float, Ge(0), Lt(1)] | None = None
    """Of `rmsprop`: the share of its mean square that stays at each step."""
    rho: Annotated[float, Ge(0), Lt(1)] | None = None
    """Of `adadelta`: the same."""
    momentum_decay: Annotated[float, Ge(0), Lt(1)] | None = None
    """Of `nadam`."""
    beta2_decay: Annotated[float, Gt(-1), Lt(0)] | None = None
    """Of `adafactor`: the exponent by which its second moment's decay goes on."""

    def __post_init__(self) -> None:
        check_ranges(self)
        takes = OPTIONS[self.name]
        for option in self.options():
            if option not in takes:
                raise InvalidTrainingRun(
                    f"{option} is no option of optimizer {self.name!r}, which takes {', '.join(takes)}; leave it out."
                )
        if self.nesterov and not self.momentum:
            raise InvalidTrainingRun("nesterov needs momentum above 0, got none; write momentum: 0.9, or leave it out.")

    def options(self) -> dict[str, Any]:
        """What torch's class is given besides learning rate, weight decay and betas."""
        return {name: value for name, value in section_body(self).items() if name != "name"}


PLAIN_ADAMW = Optimizer()


@dataclass(frozen=True, kw_only=True)
class ScheduleShape:
    """What some schedules take besides their name; each key belongs to one schedule."""

    power: Annotated[float, Gt(0), Le(100)] | None = None
    """Of `polynomial`: 1, the default, is a line; 2 a parabola."""
    cycles: Annotated[int, Ge(1)] | None = None
    """Of `cosine_with_restarts`: how many half cosines; default 1."""
    decay_steps: Annotated[int, Ge(1)] | None = None
    """Of `warmup_stable_decay`: the last steps, in which it falls by half a cosine; default: a tenth of all steps."""
    step_every: Annotated[int, Ge(1)] | None = None
    """Of `step`: steps between two drops; required."""
    step_factor: Annotated[float, Gt(0), Lt(1)] | None = None
    """Of `step`: by what the rate is multiplied at each drop; default 0.1."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Offload:
    """ZeRO-Offload: what a rank keeps in the machine's memory rather than in its GPU's."""

    optimizer: Literal["cpu"] | None = None
    """Optimizer state and fp32 weights, which are stepped on the CPU; `zero_stage` 1 to 3."""
    parameters: Literal["cpu"] | None = None
    """Parameters between their uses; `zero_stage: 3`."""

    def __post_init__(self) -> None:
        if not (self.optimizer or self.parameters):
            raise InvalidTrainingRun("offload must name optimizer, parameters or both, got neither; or leave it out.")


@dataclass(frozen=True, kw_only=True)
class ZeroPlusPlus:
    """ZeRO++: less traffic between the ranks of stage 3."""

    partition_size: Annotated[int, Ge(2)] | None = None
    """Ranks among which a second copy of the parameters is divided (`zero_hpz_partition_size`), fewer than all."""
    quantized_weights: bool = False
    """Parameters are gathered in 8 bits."""
    quantized_gradients: bool = False
    """Gradients are reduced in 4 bits."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not (self.partition_size or self.quantized_weights or self.quantized_gradients):
            raise InvalidTrainingRun(
                "zero_plus_plus must name partition_size, quantized_weights or quantized_gradients, got none; or leave "
                "it out."
            )


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """Ends a training whose held-out loss has stopped falling; what is registered is what `keep` says."""

    patience: Annotated[int, Ge(1)]
    """Evaluations in a row without a new best one."""
    min_delta: Annotated[float, Ge(0)] = 0.0
    """Nats by which an evaluation must be better than the best one to count."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class LossSpike:
    """A batch whose loss is far above those before it."""

    factor: Annotated[float, Gt(1), Because("a spike is above the loss that it is compared with")] = 3.0
    """A spike is above so many times the median of the last `window` applied steps' losses."""
    window: Annotated[int, Ge(2)] = 20
    """Until so many steps were applied, nothing counts as a spike."""
    action: Literal["stop", "skip", "warn"] = "warn"
    """`stop`: the training fails, and says where; `skip`: the step is not applied, and does not enter the median;
    `warn`: it is told in the run's log and in the curve."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class StalledRank:
    """A rank that is behind the others: paused, swapped out, or on a failing device."""

    seconds: Annotated[int, Ge(1)] = 120
    """How long a rank may be the only one that the others wait for."""
    action: Literal["stop", "warn"] = "stop"
    """`stop`: the gang ends, and the run's retry resumes it; `warn`: it is told in the run's log."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Guards:
    """What is watched while a training runs, each with an action."""

    loss_spike: LossSpike | None = None
    """null: losses are not compared; one that is not finite ends the training in any case."""
    stalled_rank: StalledRank | None = None
    """null: only `step_timeout_seconds` ends a gang that waits."""


def check_shape(schedule: ScheduleName, shape: ScheduleShape | None, learning_rate_end: float) -> None:
    """Raises: InvalidTrainingRun: a key belongs to another schedule, or the schedule lacks one."""
    takes = _SHAPES.get(schedule, ())
    for name in section_body(shape) if shape else ():
        if name not in takes:
            owner = next(one for one, names in _SHAPES.items() if name in names)
            raise InvalidTrainingRun(
                f"schedule_shape: {name} is of schedule {owner}, got it with schedule={schedule!r}. Leave it out, or "
                f"set schedule: {owner}."
            )
    if schedule == "step" and not (shape and shape.step_every):
        raise InvalidTrainingRun("schedule: step needs schedule_shape: {step_every: STEPS}, got none.")
    if schedule == "exponential" and not learning_rate_end:
        raise InvalidTrainingRun(
            "schedule: exponential needs learning_rate_end above 0, to which it falls, got learning_rate_end=0."
        )
