"""How a campaign moves from one version set to the next: its rollout plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.errors import InvalidInput
from headrace.rollout.gates import GateSettings
from headrace.typed_mapping import from_mapping


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The `rollout` section of a campaign or service file."""

    # The candidate's share of each day's partitions, step by step; after the last step it becomes stable.
    steps: tuple[float, ...] = (0.1, 0.5)
    # Which partitions come first: another salt, others. `parse` puts the campaign's name here.
    salt: str = ""
    gate: GateSettings = field(default_factory=GateSettings)
    # How long a day's other partitions wait for the verdict on its canaries before they run on the stable set.
    verdict_timeout_seconds: float = 3600.0
    # Partitions under way on a set that is rolled back: start again on the stable set, or finish and publish nothing.
    on_abort: Literal["repin", "finish_unpublished"] = "repin"
    # Days of reviewed content that the gate looks back on; older rows say little about today's prompts.
    evidence_days: int = 28
    # Put before the MLflow aliases `champion` and `candidate`: campaigns that share a model need one each.
    alias_prefix: str = ""

    def __post_init__(self) -> None:
        if not self.steps or not all(0 < weight <= 1 for weight in self.steps):
            raise InvalidInput(f"steps must be one or more weights above 0 and at most 1, got {list(self.steps)!r}.")
        if list(self.steps) != sorted(set(self.steps)):
            raise InvalidInput(f"steps must rise from each to the next, got {list(self.steps)!r}.")
        if not 0 <= self.verdict_timeout_seconds < float("inf"):
            raise InvalidInput(f"verdict_timeout_seconds must be at least 0, got {self.verdict_timeout_seconds!r}.")
        if self.evidence_days < 1:
            raise InvalidInput(f"evidence_days must be at least 1, got {self.evidence_days!r}.")

    @classmethod
    def parse(cls, mapping: Mapping[str, Any], *, name: str) -> "Plan":
        """The plan of the campaign or service `name`; `{}` is a plan, of defaults.

        Raises:
            InvalidInput: an unknown key, a wrong type, or steps that do not rise.
        """
        return from_mapping(cls, {"salt": name, **mapping}, f"Campaign {name}: rollout")
