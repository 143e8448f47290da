"""Models that nobody trained, and trainings that never ran; unspecified values are plausible."""

from typing import Any

from headrace.registry.model_versions import ModelVersion
from headrace.training.attempts import TrainingResult, curve_key


def model_of(name: str, version: int, *, kind: str = "trained", **changes: Any) -> ModelVersion:
    """A model version whose weights do not exist."""
    fields: dict[str, Any] = {
        "model_name": name,
        "version": str(version),
        "kind": kind,
        "weights_digest": f"weights-{version}",
        "weights_uri": f"file:///store/weights/weights-{version}",
        "heldout_loss": 3.0,
        "heldout_tokens": 10_000,
        "heldout_digest": "heldout",
        "recipe": "" if kind == "base" else f"recipe-{version}",
        "zero_stage": 0 if kind == "base" else 2,
        "mlflow_run_id": f"run-{version}",
        "registered_at": 1_760_000_000.0 + version,
    }
    return ModelVersion(**(fields | changes))


def training_result(training_id: str, attempt: int, /, **changes: Any) -> TrainingResult:
    fields: dict[str, Any] = {
        "training_id": training_id,
        "attempt": attempt,
        "weights_digest": "w" * 64,
        "steps": 2,
        "steps_applied": 2,
        "tokens": 128,
        "train_loss_last": 1.5,
        "zero_stage": 2,
        "world_size": 2,
        "resumed_from_step": 0,
        "seconds": 3.0,
        "peak_rss_mb": 100.0,
        "state_digest": "s" * 64,
        "curve_key": curve_key(training_id, attempt),
    }
    return TrainingResult(**(fields | changes))
