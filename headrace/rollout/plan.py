"""The rollout plan: how a campaign or service moves from one version set to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from headrace.errors import InvalidInput
from headrace.rollout.gates import BULK_METRICS, LIVE_METRICS, GateSettings
from headrace.typed_mapping import from_mapping


@dataclass(frozen=True, kw_only=True)
class Step:
    """One share of the units for the candidate. In YAML a bare number is a step of that weight."""

    weight: float
    # The step's shortest duration, whatever the evidence.
    soak_seconds: float = 0.0
    # How many units may ever have started on the candidate by the end of this step, over all steps; null: no cap.
    cap: int | None = None
    # True: leaving the step needs `headrace rollout approve`, or an `approve` in the launchpad.
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
    # Changes which units come first. `parse` uses the campaign's or service's name.
    salt: str = ""
    gate: GateSettings = field(default_factory=GateSettings)
    # How many nodes must have fetched, verified, loaded and tried a set before it starts.
    quorum: int = 1
    # How long the quorum may take before the candidate is withdrawn.
    prepare_seconds: float = 1800.0
    # How long a day's other partitions wait for the verdict on its canaries before they run on the stable set.
    verdict_timeout_seconds: float = 3600.0
    # Running partitions of a rolled-back set: start again on the stable set, or finish and publish nothing.
    on_abort: Literal["repin", "finish_unpublished"] = "repin"
    # Sessions on a rolled-back set: move to the stable set at their next turn, or stay until their lease ends.
    evict_sessions: bool = True
    # How many days of reviewed content the gate considers; older rows say little about today's prompts.
    evidence_days: int = 28
    # While a set is proposed or on trial, so many of the stable set's newest partitions are also made on it. They are
    # compared row by row, never published, and count against no cap.
    mirror_partitions: int = 0
    # Prefix of the MLflow aliases `champion` and `candidate`: campaigns that share a model need different ones.
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
        """The step of this weight; if the plan lacks the weight, the last step below it."""
        below = [step for step in self.steps if step.weight <= weight]
        return below[-1] if below else Step(weight=weight)

    @classmethod
    def parse(cls, mapping: Mapping[str, Any], *, name: str, kind: str = "Campaign") -> "Plan":
        """The plan of the campaign or service `name`; `{}` gives the defaults.

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
        # A metric without measurements would keep every candidate waiting until its horizon.
        measured = LIVE_METRICS if kind == "Service" else BULK_METRICS
        if unknown := sorted(plan.gate.judged().keys() - measured):
            raise InvalidInput(
                f"{kind} {name}: rollout: gate: nothing measures {unknown[0]} here, so that no candidate could ever "
                f"advance; known are {', '.join(sorted(measured))}."
            )
        return plan
