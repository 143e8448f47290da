"""A training's record in MLflow: parameters, live curve, pictures. Evidence only, never a condition.

If the registry does not answer, that is reported once and costs only the record: the store has the same rows, and what
MLflow missed is logged when the training ends, or when its finished result is materialized again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from headrace.errors import HeadraceError, RegistryUnavailable
from headrace.training.attempts import TrainingResult
from headrace.training.curves import curves_png, is_finite

# Fields of a row, and their names in MLflow; `heldout_loss` there is the evaluation's of the sealed weights.
_CURVE = {name: name for name in ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu")} | {
    "heldout_loss": "heldout_loss_in_training"
}
# Each batch is one transaction of MLflow's database; more of them would slow the ranks down on a small machine.
_FLUSH_SECONDS = 5.0


class Registry(Protocol):
    """The part of `headrace.registry.mlflow_models.ModelRegistry` that is used here."""

    def ensure_run(self, key: str, params: Mapping[str, object], *, name: str | None = None) -> str: ...
    def finish_run(self, run_id: str, *, failed: bool = False) -> None: ...
    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> int: ...
    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None: ...
    def log_figure(self, run_id: str, name: str, body: bytes) -> None: ...


class TrainingTrack:
    """One training's MLflow run, by training id; an exception that leaves the `with` block marks it failed.

    `run_id` is "" until MLflow has answered.
    """

    def __init__(
        self,
        registry: Registry,
        training_id: str,
        params: Mapping[str, object],
        *,
        name: str,
        say: Callable[[str], None] = print,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run_id = ""
        self._registry = registry
        self._training_id = training_id
        self._params = params
        self._name = name
        self._say = say
        self._monotonic = monotonic
        self._waiting: list[Mapping[str, Any]] = []
        self._flushed_at = float("-inf")
        self._lost = False

    def __enter__(self) -> "TrainingTrack":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.run_id:
            self._tried(lambda: self._registry.finish_run(self.run_id, failed=True))

    def add_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes rows of progress as they come; sends them every few seconds."""
        if self._lost:
            return  # they come with the whole curve, at the end
        self._waiting += rows
        if self._monotonic() - self._flushed_at < _FLUSH_SECONDS:
            return
        self._tried(lambda: self._registry.log_curve(self._run(), [_metrics(row) for row in self._waiting]))
        self._waiting = []
        self._flushed_at = self._monotonic()

    def finish(self, result: TrainingResult, rows: Sequence[Mapping[str, Any]]) -> str:
        """Logs the whole curve (existing points stay), the final figures and the pictures; returns the run id."""
        self._lost = False

        def log() -> None:
            run_id = self._run()
            self._registry.log_curve(run_id, [_metrics(row) for row in rows])
            figures = {
                "steps_applied": result.steps_applied,
                "tokens": result.tokens,
                "train_loss_last": result.train_loss_last,
                "step_seconds": result.step_seconds,
                "attempt_tokens": result.attempt_tokens,
                "attempt_seconds": result.seconds,
                "peak_rss_mb": result.peak_rss_mb,
                "world_size": result.world_size,
                "resumed_from_step": result.resumed_from_step,
                "heldout_loss_best": result.heldout_loss_best,
                "best_step": result.best_step,
            }
            self._registry.log_metrics(run_id, {name: told for name, told in figures.items() if told is not None})
            self._registry.log_figure(run_id, "curves.png", curves_png(rows, title=self._name))
            self._registry.finish_run(run_id)

        self._tried(log)
        return self.run_id

    def _run(self) -> str:
        self.run_id = self.run_id or self._registry.ensure_run(self._training_id, self._params, name=self._name)
        return self.run_id

    def _tried(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except RegistryUnavailable as error:
            self._lost = True
            self._say(f"MLflow has no record of this training yet: {error}")
            return False
        except HeadraceError as error:
            self._lost = True
            self._say(f"MLflow refuses the record of this training: {error}")
            return False
        return True


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Leaves out infinity, which MLflow's SQLite cannot store."""
    finite = {name: float(row[field]) for field, name in _CURVE.items() if is_finite(row.get(field))}
    return {"step": row["step"], "applied": float(row["applied"]), **finite}
