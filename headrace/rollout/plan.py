"""How a campaign or service moves from one version set to the next: its rollout plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from headrace.errors import InvalidInput
from headrace.rollout.gates import BULK_METRICS, LIVE_METRICS, GateSettings
from headrace.typed_mapping import from_mapping


@dataclass(frozen=True, kw_only=True)
class Step:
    """One share of the units for the candidate. A bare number in YAML is a step of that weight."""

    weight: float
    # How long the step lasts at least, whatever the evidence says.
    soak_seconds: float = 0.0
    # Units that may ever have started on the candidate when this step ends, over all steps; null: no cap.
    cap: int | None = None
    # True: the step is left only after `headrace rollout approve`, or an `approve` in the launchpad.
    approval: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", float(self.weight))
        if not 0 <= self.soak_seconds < float("inf"):
            raise InvalidInput(f"soak_seconds must be at least 0, got {self.soak_seconds!r}.")
        if self.cap is not None and self.cap < 1:
            raise InvalidInput(f"cap must be null or at least 1, got {self.cap!r}.")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The `rollout` section of a campaign or service file."""

    # The candidate's share of the units, step by step; after the last step it becomes stable.
    steps: tuple[Step, ...] = (Step(weight=0.1), Step(weight=0.5))
    # Which units come first: another salt, others. `parse` puts the campaign's or service's name here.
    salt: str = ""
    gate: GateSettings = field(default_factory=GateSettings)
    # Who must have fetched, verified, loaded and tried a set before it is started: that many nodes.
    quorum: int = 1
    # How long the quorum may take before the candidate is withdrawn.
    prepare_seconds: float = 1800.0
    # How long a day's other partitions wait for the verdict on its canaries before they run on the stable set.
    verdict_timeout_seconds: float = 3600.0
    # Partitions under way on a set that is rolled back: start again on the stable set, or finish and publish nothing.
    on_abort: Literal["repin", "finish_unpublished"] = "repin"
    # Sessions on a set that is rolled back: moved to the stable set at their next turn, or kept to their lease's end.
    evict_sessions: bool = True
    # Days of reviewed content that the gate looks back on; older rows say little about today's prompts.
    evidence_days: int = 28
    # While a set is proposed or on trial, that many of the stable set's newest partitions are made on it as well,
    # compared row by row and never published; they count against no cap.
    mirror_partitions: int = 0
    # Put before the MLflow aliases `champion` and `candidate`: campaigns that share a model need one each.
    alias_prefix: str = ""

    def __post_init__(self) -> None:
        weights = [step.weight for step in self.steps]
        if not weights or not all(0 < weight <= 1 for weight in weights):
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
        if self.quorum < 1:
            raise InvalidInput(f"quorum must be at least 1, got {self.quorum!r}.")
        if not 0 < self.prepare_seconds < float("inf"):
            raise InvalidInput(f"prepare_seconds must be above 0, got {self.prepare_seconds!r}.")
        if not 0 <= self.verdict_timeout_seconds < float("inf"):
            raise InvalidInput(f"verdict_timeout_seconds must be at least 0, got {self.verdict_timeout_seconds!r}.")
        if self.mirror_partitions < 0:
            raise InvalidInput(f"mirror_partitions must be at least 0, got {self.mirror_partitions!r}.")
        if self.evidence_days < 1:
            raise InvalidInput(f"evidence_days must be at least 1, got {self.evidence_days!r}.")

    def step_at(self, weight: float) -> Step:
        """The step of this weight; of a weight that the plan does not have (any more), the last step below it."""
        below = [step for step in self.steps if step.weight <= weight]
        return below[-1] if below else Step(weight=weight)

    @classmethod
    def parse(cls, mapping: Mapping[str, Any], *, name: str, kind: str = "Campaign") -> "Plan":
        """The plan of the campaign or service `name`; `{}` is a plan, of defaults.

        Raises:
            InvalidInput: an unknown key, a wrong type, or steps that do not rise.
        """
        section = {"salt": name, **mapping}
        steps = section.get("steps")
        if isinstance(steps, Sequence) and not isinstance(steps, str):
            section["steps"] = [
                {"weight": step} if isinstance(step, int | float) and not isinstance(step, bool) else step
                for step in steps
            ]
        plan = from_mapping(cls, section, f"{kind} {name}: rollout")
        # A metric that nobody measures would keep every candidate waiting to its horizon.
        measured = LIVE_METRICS if kind == "Service" else BULK_METRICS
        if unknown := sorted(plan.gate.judged().keys() - measured):
            raise InvalidInput(
                f"{kind} {name}: rollout: gate: nothing measures {unknown[0]} here, so that no candidate could ever "
                f"advance; known are {', '.join(sorted(measured))}."
            )
        return plan
