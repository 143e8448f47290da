"""The part of `headrace.training.objective.Objective` that is the same for every objective without a state."""

from typing import Any


class WithoutState:
    """Of an objective that has nothing of its own to keep, and nothing to do behind a step."""

    def after_step(self, engine: Any, *, applied: bool) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass
