"""Which models are in the memory of which GPUs, as the hosts that keep them tell it. See `model_places`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Device = tuple[str, str]
"""A node's name, and a device of it."""
NO_MODELS: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Models go by an id that says all that decides their bytes (`headrace.engines.host.wanted.model_id`).

    Attributes:
        nodes: those with a host that keeps on a GPU what a run there has loaded. What is loaded elsewhere goes with its
            run.
        loaded: by device: what is there, comes, or has not left.
        asleep: by device: of what is loaded there, what sleeps, and the seconds until it would be awake.
        bring_seconds: by model: what bringing it took the last time; never measured: missing.
        labels: by model, for people: `painter 3 (diffusers)`.
    """

    nodes: frozenset[str] = frozenset()
    loaded: Mapping[Device, frozenset[str]] = field(default_factory=dict)
    asleep: Mapping[Device, Mapping[str, float]] = field(default_factory=dict)
    bring_seconds: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def label(self, model: str) -> str:
        return self.labels.get(model, f"model {model[:8]}")
