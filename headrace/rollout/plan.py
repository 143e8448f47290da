"""The rollout plan: how a campaign or service moves from one version set to the next."""

from collections.abc import Set
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from headrace.errors import InvalidInput
from headrace.rollout.gates import GateSettings, LiveGateSettings
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import Before


@dataclass(frozen=True, kw_only=True)
class Step:
    """One share of the units for the candidate. In YAML a bare number is a step of that weight."""

    weight: Annotated[float, Ge(0), Le(1)]
    """The candidate's share of the units."""
    soak_seconds: Annotated[float, Ge(0)] = 0.0
    """The step's shortest duration, whatever the evidence."""
    cap: Annotated[int, Ge(1)] | None = None
    """How many units may ever have started on the candidate by the end of this step, over all steps; null: no cap."""
    approval: bool = False
    """True: leaving the step needs `headrace rollout approve`, or an `approve` in the launchpad."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", float(self.weight))
        check_ranges(self)


def _step_of(content: object) -> object:
    is_number = isinstance(content, int | float) and not isinstance(content, bool)
    return {"weight": content} if is_number else content


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The `rollout` section of a campaign's file."""

    steps: tuple[Annotated[Step, Before(_step_of, accepts=Annotated[float, Ge(0), Le(1)])], ...] = (
        Step(weight=0.1),
        Step(weight=0.5),
    )
    """The candidate's share of the units, step by step; after the last step it becomes stable."""
    salt: str | None = None
    """Changes which units come first; null: the campaign's or service's name."""
    gate: GateSettings = field(default_factory=GateSettings)
    quorum: Annotated[int, Ge(1)] = 1
    """How many nodes must have fetched, verified, loaded and tried a set before it starts."""
    prepare_seconds: Annotated[float, Gt(0)] = 1800.0
    """How long the quorum may take before the candidate is withdrawn."""
    verdict_timeout_seconds: Annotated[float, Ge(0)] = 3600.0
    """How long a day's other partitions wait for the verdict on its canaries before they run on the stable set."""
    on_abort: Literal["repin", "finish_unpublished"] = "repin"
    """Running partitions of a rolled-back set: start again on the stable set, or finish and publish nothing."""
    evict_sessions: bool = True
    """Sessions on a rolled-back set: move to the stable set at their next turn, or stay until their lease ends."""
    evidence_days: Annotated[int, Ge(1)] = 28
    """How many days of reviewed content the gate considers; older rows say little about today's prompts."""
    mirror_partitions: Annotated[int, Ge(0)] = 0
    """While a set is proposed or on trial, so many of the stable set's newest partitions are also made on it. They are
    compared row by row, never published, and count against no cap. Of a service that records its calls: so many of its
    newest hours, on both sets."""
    alias_prefix: str = ""
    """Prefix of the MLflow aliases `champion` and `candidate`: campaigns that share a model need different ones."""

    def __post_init__(self) -> None:
        check_ranges(self)
        weights = [step.weight for step in self.steps]
        if not weights or 0 in weights:
            raise InvalidInput(f"steps must be one or more weights above 0 and at most 1, got {weights!r}.")
        if weights != sorted(set(weights)):
            raise InvalidInput(f"steps must rise from each to the next, got {weights!r}.")
        caps = [step.cap for step in self.steps if step.cap is not None]
        if caps != sorted(caps):
            raise InvalidInput(f"caps count all units of the candidate, so they must not fall, got {caps!r}.")
        if any(later.cap is not None and earlier.cap is None for earlier, later in pairwise(self.steps)):
            raise InvalidInput(
                f"a step after one without a cap cannot have one: its units were not counted, got "
                f"{[step.cap for step in self.steps]!r}."
            )

    @property
    def ranking_salt(self) -> str:
        return self.salt or ""

    def step_at(self, weight: float) -> Step:
        """The step of this weight; if the plan lacks the weight, the last step below it."""
        below = [step for step in self.steps if step.weight <= weight]
        return below[-1] if below else Step(weight=weight)

    def named(self, name: str) -> "Plan":
        """The plan of the campaign or service `name`."""
        return self if self.salt is not None else replace(self, salt=name)

    def check_measured(self, measured: Set[str]) -> None:
        """Checks that the gate's metrics are measured; others would keep every candidate waiting to its horizon.

        Raises:
            InvalidInput: the gate judges by an unmeasured metric.
        """
        if unknown := sorted(self.gate.judged().keys() - measured):
            raise InvalidInput(
                f"rollout: gate: nothing measures {unknown[0]} here, so that no candidate could ever "
                f"advance; known are {', '.join(sorted(measured))}."
            )


@dataclass(frozen=True, kw_only=True)
class LivePlan(Plan):
    """The `rollout` section of a service file, whose gate has other defaults."""

    gate: LiveGateSettings = field(default_factory=LiveGateSettings)
