"""Checks MLflow's answers against the questions. Knows their shapes, and imports nothing of MLflow.

MLflow's client parses any JSON into empty messages: `{}`, or a proxy's empty body, becomes a model version without a
number, a run without an id, or a model without aliases. If believed, these would become rows and aliases that name
nothing.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Any


class NotAnAnswer(Exception):
    """The answer does not fit the question."""


def checked_run(run: Any, *, experiment_id: str | None = None) -> Any:
    """A run with an id and a time. Raises: NotAnAnswer."""
    info = getattr(run, "info", None)
    _text(getattr(info, "run_id", None), "a run", "run_id")
    started = getattr(info, "start_time", None)
    if not isinstance(started, int | float) or not isfinite(started):
        raise NotAnAnswer(f"a run whose start_time is {started!r:.60}")
    if experiment_id is not None and str(getattr(info, "experiment_id", "")) != experiment_id:
        other = getattr(info, "experiment_id", None)
        raise NotAnAnswer(f"a run of experiment {other!r:.60}, asked for {experiment_id}")
    return run


def checked_artifacts(run: Any) -> str:
    """Where a run's artifacts are. Raises: NotAnAnswer."""
    return _text(getattr(checked_run(run).info, "artifact_uri", None), "a run", "artifact_uri")


def checked_experiment_id(experiment_id: object) -> str:
    """Raises: NotAnAnswer."""
    return _text(experiment_id, "an experiment", "experiment_id")


def checked_version(version: Any, model_name: str) -> Any:
    """A version of this model, with a number and its creation time. Raises: NotAnAnswer."""
    number = str(getattr(version, "version", ""))
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise NotAnAnswer(f"a version of {model_name} whose number is {number!r:.60}")
    if (name := getattr(version, "name", None)) != model_name:
        raise NotAnAnswer(f"a version of the model {name!r:.60}, asked for {model_name}")
    created = getattr(version, "creation_timestamp", None)
    if not isinstance(created, int | float) or not isfinite(created) or created <= 0:
        raise NotAnAnswer(f"version {number} of {model_name} whose creation_timestamp is {created!r:.60}")
    return version


def checked_aliases(model: Any, model_name: str) -> dict[str, str]:
    """Alias to version. Raises: NotAnAnswer."""
    if (name := getattr(model, "name", None)) != model_name:
        raise NotAnAnswer(f"the model {name!r:.60}, asked for {model_name}")
    aliases = getattr(model, "aliases", None)
    if not isinstance(aliases, dict):
        raise NotAnAnswer(f"aliases of type {type(aliases).__name__}")
    of = f"an alias of {model_name}"
    return {_text(alias, of, "name"): _text(str(version), of, "version") for alias, version in aliases.items()}


def checked_name(model: Any) -> str:
    """A model's own name. Raises: NotAnAnswer."""
    return _text(getattr(model, "name", None), "a model", "name")


def checked_metrics(metrics: Any) -> dict[str, float]:
    """A run's figures by name. Raises: NotAnAnswer."""
    if not isinstance(metrics, dict) or not all(
        isinstance(name, str) and isinstance(value, int | float) for name, value in metrics.items()
    ):
        raise NotAnAnswer("figures that are no numbers by name")
    return metrics


def checked_steps(history: Iterable[Any]) -> set[int]:
    """Raises: NotAnAnswer."""
    steps: set[int] = set()
    for point in history:
        step = getattr(point, "step", None)
        if not isinstance(step, int):
            raise NotAnAnswer(f"a point of a curve at step {step!r:.60}")
        steps.add(step)
    return steps


def _text(value: object, of: str, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise NotAnAnswer(f"{of} whose {field} is {value!r:.60}")
    return value
