"""Registered versions of models that nobody trained: what is not said is plausible and named after the version."""

from typing import Any

from headrace.registry.model_versions import ModelVersion


def model_of(name: str, version: int, *, kind: str = "trained", **changes: Any) -> ModelVersion:
    """Its weights lie nowhere."""
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
