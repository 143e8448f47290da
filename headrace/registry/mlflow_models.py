"""Model versions and training runs in MLflow: the catalogue and the evidence, never the switch.

mlflow is imported at first use only: the import costs two seconds and 90 MB. Everything here is idempotent, so a run
that was killed half way is simply run again. Weights stay in the store; a model version points to them by URI and
digest (logging models over 1 GB is slow and takes several copies of memory), and where that can be by an MLmodel beside
its run (`headrace.registry.mlmodel`).

Aliases are projections of the rollout journal, for people; nothing in Headrace decides by them.
"""

import mimetypes
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.errors import InvalidInput
from headrace.registry.mlflow_answers import (
    checked_aliases,
    checked_artifacts,
    checked_experiment_id,
    checked_metrics,
    checked_name,
    checked_run,
    checked_steps,
    checked_version,
)
from headrace.registry.mlflow_connection import MlflowConnection, is_missing
from headrace.registry.mlmodel import FILE_NAME, mlmodel_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

RUN_KEY = "headrace.training_id"
WEIGHTS_DIGEST = "headrace.weights_digest"
WEIGHTS_URI = "headrace.weights_uri"

# The folder of a run's artifacts that holds its MLmodel.
_MODEL_FOLDER = "model"
_MODELS_PER_PAGE = 100
# MLflow's limit for metrics in one batch.
_METRICS_PER_BATCH = 1000
# Characters that end quoted text in the filters of its searches, as sqlparse and MLflow parse them.
_ENDS_QUOTED_TEXT = re.compile(r"""['"`\\\x00-\x1f\x7f]""")


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A model version: its number, such as `"3"`, and its first registration, in seconds since the epoch."""

    version: str
    registered_at: float


class ModelRegistry:
    """One MLflow, embedded (`sqlite:///…`) or a server (`http://…`).

    Args:
        tracking_uri: MLflow's address.
        artifacts: directory for run pictures of an embedded MLflow; a server has its own.
        request_timeout_seconds, request_retries: as `MlflowConnection` has them.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        experiment: str = "headrace",
        artifacts: str | None = None,
        request_timeout_seconds: int = 10,
        request_retries: int = 1,
    ) -> None:
        self.connection = MlflowConnection(
            tracking_uri, request_timeout_seconds=request_timeout_seconds, request_retries=request_retries
        )
        self._experiment = experiment
        self._artifacts = artifacts
        self._experiment_id: str | None = None
        # Logged steps by run and metric, so that a live curve asks MLflow for its history only once.
        self._logged_steps: dict[tuple[str, str], set[int]] = {}

    # --- training runs ---------------------------------------------------------------------------------------------

    def ensure_run(self, key: str, params: Mapping[str, object], *, name: str | None = None) -> str:
        """The MLflow run of one training, created if missing; parameters that are already logged stay unchanged.

        Returns:
            The MLflow run id: the same one for the same `key`, after any crash.

        Raises:
            RegistryUnavailable: MLflow does not answer.
        """
        with self.connection.answering() as client:
            run = self._oldest_run(client, key)
            if run is None:
                made = checked_run(
                    client.create_run(self._experiment_of(client), tags={RUN_KEY: key}, run_name=name),
                    experiment_id=self._experiment_of(client),
                )
                run = self._oldest_run(client, key) or made
                if run.info.run_id != made.info.run_id:
                    client.delete_run(made.info.run_id)
            missing = {field: value for field, value in params.items() if field not in run.data.params}
            if missing:
                from mlflow.entities import Param

                client.log_batch(run.info.run_id, params=[Param(field, str(value)) for field, value in missing.items()])
            if run.info.status in {"FAILED", "KILLED"}:
                client.update_run(run.info.run_id, status="RUNNING")
            return run.info.run_id

    def finish_run(self, run_id: str, *, failed: bool = False) -> None:
        with self.connection.answering() as client:
            client.set_terminated(run_id, status="FAILED" if failed else "FINISHED")

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> int:
        """Logs one point for each row and metric; rows need `step`. Skips points that MLflow has already.

        Returns:
            The number of steps with something new.
        """
        with self.connection.answering() as client:
            points = {(name, int(row["step"])): float(row[name]) for row in rows for name in row if name != "step"}
            fresh = [
                (name, value, step)
                for (name, step), value in points.items()
                if step not in self._steps_of(client, run_id, name)
            ]
            for start in range(0, len(fresh), _METRICS_PER_BATCH):
                self._log(client, run_id, fresh[start : start + _METRICS_PER_BATCH])
            for name, _, step in fresh:
                self._steps_of(client, run_id, name).add(step)
            return len({step for _, _, step in fresh})

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Logs single figures, such as a held-out loss; existing figures stay unchanged."""
        with self.connection.answering() as client:
            present = checked_metrics(checked_run(client.get_run(run_id)).data.metrics)
            fresh = [(name, float(value), step) for name, value in metrics.items() if present.get(name) != value]
            self._log(client, run_id, fresh)

    def log_figure(self, run_id: str, name: str, body: bytes) -> None:
        """Keeps a picture beside the run; `name` ends in `.png` or `.svg` and may hold folders."""
        if mimetypes.guess_type(name)[0] not in {"image/png", "image/svg+xml"}:
            raise InvalidInput(f"A figure's name must end in .png or .svg, got {name!r}.")
        folder, _, file_name = name.rpartition("/")
        with self.connection.answering() as client, tempfile.TemporaryDirectory() as directory:
            path = Path(directory, file_name)
            path.write_bytes(body)
            client.log_artifact(run_id, str(path), folder or None)

    # --- model versions --------------------------------------------------------------------------------------------

    def register(
        self, model_name: str, weights_digest: str, weights_uri: str, run_id: str, tags: Mapping[str, str]
    ) -> Registered:
        """The model version of these weights, created if missing; new tags are added to an existing one.

        One digest has one version, after any crash and with concurrent writers.

        Raises:
            RegistryUnavailable: MLflow does not answer.
        """
        with self.connection.answering() as client:
            found = self._oldest_version(client, model_name, weights_digest)
            if found is None:
                found = self._create_version(client, model_name, weights_digest, weights_uri, run_id, tags)
            for name, value in tags.items():
                if found.tags.get(name) != value:
                    client.set_model_version_tag(model_name, str(found.version), name, value)
            return Registered(version=str(found.version), registered_at=found.creation_timestamp / 1000)

    def find_by_digest(self, model_name: str, weights_digest: str) -> str | None:
        """The version with these weights; `None`: not registered."""
        with self.connection.answering() as client:
            found = self._oldest_version(client, model_name, weights_digest)
            return None if found is None else str(found.version)

    def next_version(self, model_name: str, weights_digest: str) -> str:
        """The version that `register` would give these weights now.

        Raises:
            RegistryUnavailable: MLflow does not answer.
        """
        with self.connection.answering() as client:
            if found := self._oldest_version(client, model_name, weights_digest):
                return str(found.version)
            there = client.search_model_versions(f"name = {quoted('A model name', model_name)}")
            numbers = [int(checked_version(one, model_name).version) for one in there]
            return str(max(numbers, default=0) + 1)

    def aliases(self, model_name: str) -> dict[str, str]:
        """Alias to version; empty for a model that is not registered."""
        from mlflow.exceptions import MlflowException

        with self.connection.answering() as client:
            try:
                model = client.get_registered_model(model_name)
            except MlflowException as error:
                if is_missing(error):
                    return {}
                raise
            return checked_aliases(model, model_name)

    def aliased_weights(self) -> dict[str, str]:
        """Digests of weights whose version has an alias from anybody → `alias of model`."""
        with self.connection.answering() as client:
            found: dict[str, str] = {}
            token = None
            while True:
                page = client.search_registered_models(max_results=_MODELS_PER_PAGE, page_token=token)
                for model in page:
                    for alias, version in checked_aliases(model, checked_name(model)).items():
                        tags = checked_version(client.get_model_version(model.name, version), model.name).tags
                        if digest := tags.get(WEIGHTS_DIGEST):
                            found[digest] = f"{alias} of {model.name}"
                token = page.token
                if not token:
                    return found

    def set_alias(self, model_name: str, alias: str, version: str | None) -> None:
        """Points an alias at a version; `None` removes it.

        Raises:
            RegistryMissing: the version no longer exists.
            RegistryUnavailable: MLflow does not answer.
        """
        with self.connection.answering() as client:
            if version is None:
                client.delete_registered_model_alias(model_name, alias)
            else:
                client.set_registered_model_alias(model_name, alias, version)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _experiment_of(self, client: "MlflowClient") -> str:
        if self._experiment_id is None:
            with self.connection.alone():
                found = client.get_experiment_by_name(self._experiment)
                self._experiment_id = checked_experiment_id(
                    found.experiment_id
                    if found
                    else client.create_experiment(self._experiment, artifact_location=self._artifact_location())
                )
        return self._experiment_id

    def _artifact_location(self) -> str | None:
        # Without it, an embedded MLflow writes pictures to ./mlruns in the process's current directory.
        return None if self.connection.is_server else self._artifacts

    def _oldest_run(self, client: "MlflowClient", key: str) -> Any:
        runs = client.search_runs(
            [self._experiment_of(client)],
            f"tags.`{RUN_KEY}` = {quoted('The key of a run', key)}",
            order_by=["attributes.start_time ASC"],
        )
        return min(map(checked_run, runs), key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _steps_of(self, client: "MlflowClient", run_id: str, metric: str) -> set[int]:
        if (run_id, metric) not in self._logged_steps:
            history = client.get_metric_history(run_id, metric)
            self._logged_steps[run_id, metric] = checked_steps(history)
        return self._logged_steps[run_id, metric]

    def _log(self, client: "MlflowClient", run_id: str, metrics: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        client.log_batch(run_id, metrics=[Metric(name, value, now_ms, step) for name, value, step in metrics])

    def _oldest_version(self, client: "MlflowClient", model_name: str, digest: str) -> "ModelVersion | None":
        wanted = (
            f"name = {quoted('A model name', model_name)} and tags.`{WEIGHTS_DIGEST}` = {quoted('A digest', digest)}"
        )
        found = client.search_model_versions(wanted)
        checked = [checked_version(version, model_name) for version in found]
        return min(checked, key=lambda version: int(version.version), default=None)

    def _create_version(
        self,
        client: "MlflowClient",
        model_name: str,
        digest: str,
        weights_uri: str,
        run_id: str,
        tags: Mapping[str, str],
    ) -> "ModelVersion":
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = checked_version(
            client.create_model_version(
                model_name,
                source=self._mlmodel_source(client, run_id, digest, weights_uri) or self._source(digest, weights_uri),
                run_id=run_id or None,
                tags={**tags, WEIGHTS_DIGEST: digest, WEIGHTS_URI: weights_uri},
                await_creation_for=0,
            ),
            model_name,
        )
        oldest = self._oldest_version(client, model_name, digest) or made
        if oldest.version != made.version:
            # Another writer was first; one digest keeps one version.
            client.delete_model_version(model_name, str(made.version))
        return oldest

    def _mlmodel_source(self, client: "MlflowClient", run_id: str, digest: str, weights_uri: str) -> str | None:
        """Puts the MLmodel beside the run; None: there is no place for one, and the version points to its weights."""
        from mlflow.exceptions import MlflowException

        text = mlmodel_text(weights_uri, digest)
        # An embedded MLflow without a directory for artifacts would write into the process's current one.
        if text is None or not run_id or not (self.connection.is_server or self._artifacts):
            return None
        try:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, FILE_NAME)
                path.write_text(text)
                client.log_artifact(run_id, str(path), _MODEL_FOLDER)
        except (MlflowException, OSError):
            # A server whose artifacts lie where only others may write: its versions are registered as before.
            return None
        return f"{checked_artifacts(client.get_run(run_id))}/{_MODEL_FOLDER}"

    def _source(self, digest: str, weights_uri: str) -> str:
        # A server refuses local paths outside its runs' artifacts; the digest finds the weights in any store.
        is_local = weights_uri.startswith("file:")
        return f"headrace://weights/{digest}" if self.connection.is_server and is_local else weights_uri


def quoted(what: str, value: str) -> str:
    """`value` for MLflow's filters. They have no escape, and a quote in it would end it and begin a condition.

    Raises:
        InvalidInput: it contains a character that ends quoted text.
    """
    if found := _ENDS_QUOTED_TEXT.search(value):
        raise InvalidInput(
            f"{what} must have no quote, backslash, backtick or control character, since MLflow cannot search for it; "
            f"got {found[0]!r} in {value!r}. Give it another name."
        )
    return f"'{value}'"
