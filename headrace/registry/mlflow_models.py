"""Model versions and training runs in MLflow: the catalogue and the evidence, never the switch.

The only file that imports mlflow, and only at first use: the import costs two seconds and 90 MB. Everything here is
idempotent, so a run that was killed half way is simply run again. Weights stay in the store; a model version points to
them by URI and digest (logging models over 1 GB is slow and takes several copies of memory).

Aliases are projections of the rollout journal, for people; nothing in Headrace decides by them.
"""

import mimetypes
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from filelock import FileLock

from headrace.errors import HeadraceError, InvalidInput, RegistryMissing, RegistryUnavailable
from headrace.masking import Mask, secrets_in, without_credentials
from headrace.registry.mlflow_answers import (
    NotAnAnswer,
    checked_aliases,
    checked_experiment_id,
    checked_metrics,
    checked_name,
    checked_run,
    checked_steps,
    checked_version,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

RUN_KEY = "headrace.training_id"
WEIGHTS_DIGEST = "headrace.weights_digest"
WEIGHTS_URI = "headrace.weights_uri"

_MODELS_PER_PAGE = 100
# MLflow's limit for metrics in one batch.
_METRICS_PER_BATCH = 1000
# MLflow's codes for requests that would fail again; all others are worth a retry.
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
# Beginning of its client's errors for a body that was not a JSON object: a proxy's page, whatever its status.
_NO_JSON = "API request to endpoint"
_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "NOT_IMPLEMENTED", "FEATURE_DISABLED"}

# Characters that end quoted text in the filters of its searches, as sqlparse and MLflow parse them.
_ENDS_QUOTED_TEXT = re.compile(r"""['"`\\\x00-\x1f\x7f]""")

# MLflow's client sends these, and a server or proxy may repeat them.
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


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
        request_timeout_seconds, request_retries: how long to wait for a server. MLflow's own defaults block for over
            four minutes when the server is down. `MLFLOW_HTTP_REQUEST_*` in the environment take precedence.
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
        self.tracking_uri = tracking_uri
        # For people: a URI may hold a password, which MLflow's own errors repeat.
        self._label = without_credentials(tracking_uri)
        self._mask = Mask([*secrets_in(tracking_uri), *(os.environ.get(name) for name in _SECRET_VARIABLES)])
        self._experiment = experiment
        self._artifacts = artifacts
        self._request_timeout_seconds = request_timeout_seconds
        self._request_retries = request_retries
        self._connection: MlflowClient | None = None
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
        with self._answering() as client:
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
        with self._answering() as client:
            client.set_terminated(run_id, status="FAILED" if failed else "FINISHED")

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]]) -> int:
        """Logs one point for each row and metric; rows need `step`. Skips points that MLflow has already.

        Returns:
            The number of steps with something new.
        """
        with self._answering() as client:
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
        with self._answering() as client:
            present = checked_metrics(checked_run(client.get_run(run_id)).data.metrics)
            fresh = [(name, float(value), step) for name, value in metrics.items() if present.get(name) != value]
            self._log(client, run_id, fresh)

    def log_figure(self, run_id: str, name: str, body: bytes) -> None:
        """Keeps a picture beside the run; `name` ends in `.png` or `.svg` and may hold folders."""
        if mimetypes.guess_type(name)[0] not in {"image/png", "image/svg+xml"}:
            raise InvalidInput(f"A figure's name must end in .png or .svg, got {name!r}.")
        folder, _, file_name = name.rpartition("/")
        with self._answering() as client, tempfile.TemporaryDirectory() as directory:
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
        with self._answering() as client:
            found = self._oldest_version(client, model_name, weights_digest)
            if found is None:
                found = self._create_version(client, model_name, weights_digest, weights_uri, run_id, tags)
            for name, value in tags.items():
                if found.tags.get(name) != value:
                    client.set_model_version_tag(model_name, str(found.version), name, value)
            return Registered(version=str(found.version), registered_at=found.creation_timestamp / 1000)

    def find_by_digest(self, model_name: str, weights_digest: str) -> str | None:
        """The version with these weights; `None`: not registered."""
        with self._answering() as client:
            found = self._oldest_version(client, model_name, weights_digest)
            return None if found is None else str(found.version)

    def aliases(self, model_name: str) -> dict[str, str]:
        """Alias to version; empty for a model that is not registered."""
        from mlflow.exceptions import MlflowException

        with self._answering() as client:
            try:
                model = client.get_registered_model(model_name)
            except MlflowException as error:
                if _is_missing(error):
                    return {}
                raise
            return checked_aliases(model, model_name)

    def aliased_weights(self) -> dict[str, str]:
        """Digests of weights whose version has an alias from anybody → `alias of model`."""
        with self._answering() as client:
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
        with self._answering() as client:
            if version is None:
                client.delete_registered_model_alias(model_name, alias)
            else:
                client.set_registered_model_alias(model_name, alias, version)

    # --- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _answering(self) -> Iterator["MlflowClient"]:
        """Translates errors of MLflow, SQLAlchemy or the network into this project's errors."""
        self._prepare_environment()
        from google.protobuf.json_format import Error as ProtobufError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self._client()
        except HeadraceError:
            raise
        except MlflowException as error:
            told = self._refused(error)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            told = self._unavailable(f"does not answer: {self._reason(error)}. Start it")
        except (NotAnAnswer, ValueError, TypeError, LookupError, AttributeError, ProtobufError) as error:
            # MLflow's own client raises the last ones if an answer is not as expected.
            told = self._no_answer(self._reason(error))
        else:
            return
        # Without a cause: MLflow's errors repeat the URI, with its password, and whole answers.
        raise told from None

    def _refused(self, error: "MlflowException") -> HeadraceError:
        if _is_missing(error):
            return RegistryMissing(f"MLflow at {self._label} does not have this any more: {self._line(error.message)}.")
        if error.error_code in _PERMANENT:
            return InvalidInput(f"MLflow at {self._label} refused: {self._line(error.message)}")
        if error.message.startswith(_NO_JSON):
            return self._no_answer(self._line(error.message.partition("Response body:")[2]))
        return self._unavailable(f"does not answer: {self._reason(error)}. Start it")

    def _no_answer(self, what: str) -> RegistryUnavailable:
        return self._unavailable(f"answers what is no answer of MLflow: {what}. Look what listens there")

    def _unavailable(self, what: str) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"MLflow at {self._label} {what}, or check MLFLOW_TRACKING_URI; "
            "generation of prepared version sets goes on without it."
        )

    def _reason(self, error: BaseException) -> str:
        root = error
        while inner := root.__cause__ or root.__context__:
            root = inner
        return self._line(str(root)) if str(root).strip() else type(root).__name__

    def _line(self, text: str) -> str:
        first = (self._mask(text).strip() or "nothing").splitlines()[0].rstrip(".")
        return first.encode(errors="replace").decode()[:300]

    def _client(self) -> "MlflowClient":
        if self._connection is None:
            with self._alone():
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def _prepare_environment(self) -> None:
        """Sets what MLflow reads only from the environment, before its import; the user's own values win."""
        for name, value in (
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", self._request_timeout_seconds),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", self._request_retries),
            # Otherwise each process that imports MLflow sends telemetry, and waits for it without a network.
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ):
            os.environ.setdefault(name, str(value))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one process at a time create an embedded MLflow's tables; two at once break each other's."""
        parsed = urlparse(self.tracking_uri)
        if parsed.scheme != "sqlite":
            yield
            return
        database = Path(parsed.path[1:])
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            # MLflow would try for 102 s to open a file that it may not open or that is not a database.
            with closing(sqlite3.connect(database)) as probe:
                probe.execute("PRAGMA schema_version")
            yield

    def _experiment_of(self, client: "MlflowClient") -> str:
        if self._experiment_id is None:
            with self._alone():
                found = client.get_experiment_by_name(self._experiment)
                self._experiment_id = checked_experiment_id(
                    found.experiment_id
                    if found
                    else client.create_experiment(self._experiment, artifact_location=self._artifact_location())
                )
        return self._experiment_id

    def _artifact_location(self) -> str | None:
        # Without it, an embedded MLflow writes pictures to ./mlruns in the process's current directory.
        embedded = urlparse(self.tracking_uri).scheme not in {"http", "https"}
        return self._artifacts if embedded else None

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
                source=self._source(digest, weights_uri),
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

    def _source(self, digest: str, weights_uri: str) -> str:
        # A server refuses local paths outside its runs' artifacts; the digest finds the weights in any store.
        server = urlparse(self.tracking_uri).scheme in {"http", "https"}
        return f"headrace://weights/{digest}" if server and weights_uri.startswith("file:") else weights_uri


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


def _is_missing(error: "MlflowException") -> bool:
    """Whether MLflow itself says so: for a proxy's page with status 404 its client reports the same code."""
    return error.error_code in _MISSING and not error.message.startswith(_NO_JSON)
