"""Connects to MLflow, and translates whatever goes wrong there into this project's errors."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from filelock import FileLock

from headrace.errors import HeadraceError, InvalidInput, RegistryMissing, RegistryUnavailable
from headrace.masking import Mask, secrets_in, without_credentials
from headrace.registry.mlflow_answers import NotAnAnswer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

# MLflow's codes for requests that would fail again; all others are worth a retry.
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
# Start of its client's errors for a body that is no JSON object, such as a proxy's page with any status.
_NO_JSON = "API request to endpoint"
_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "NOT_IMPLEMENTED", "FEATURE_DISABLED"}

# MLflow's client sends these, and a server or proxy may repeat them.
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class MlflowConnection:
    """A connection to one MLflow: embedded (`sqlite:///…`) or a server (`http://…`). Imports mlflow on first use.

    Args:
        request_timeout_seconds, request_retries: how long to wait for a server. MLflow's own defaults block for over
            four minutes when the server is down. `MLFLOW_HTTP_REQUEST_*` in the environment take precedence.
    """

    def __init__(self, tracking_uri: str, *, request_timeout_seconds: int = 10, request_retries: int = 1) -> None:
        self.tracking_uri = tracking_uri
        # For messages: a URI may hold a password, and MLflow's own errors repeat it.
        self._label = without_credentials(tracking_uri)
        self._mask = Mask([*secrets_in(tracking_uri), *(os.environ.get(name) for name in _SECRET_VARIABLES)])
        self._request_timeout_seconds = request_timeout_seconds
        self._request_retries = request_retries
        self._connection: MlflowClient | None = None

    @property
    def is_server(self) -> bool:
        return urlparse(self.tracking_uri).scheme in {"http", "https"}

    @contextmanager
    def answering(self) -> Iterator["MlflowClient"]:
        """Translates errors of MLflow, SQLAlchemy or the network into this project's errors."""
        self._prepare_environment()
        from google.protobuf.json_format import Error as ProtobufError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield self.client()
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
        if is_missing(error):
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

    def client(self) -> "MlflowClient":
        if self._connection is None:
            with self.alone():
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def _prepare_environment(self) -> None:
        """Sets what MLflow reads only from the environment, before its import; the user's values take precedence."""
        for name, value in (
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", self._request_timeout_seconds),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", self._request_retries),
            # Otherwise each process that imports MLflow sends telemetry, and waits for it without a network.
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ):
            os.environ.setdefault(name, str(value))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one process at a time create an embedded MLflow's tables; two at once would break them."""
        parsed = urlparse(self.tracking_uri)
        if parsed.scheme != "sqlite":
            yield
            return
        database = Path(parsed.path[1:])
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            # MLflow would try for 102 s to open a file that is not accessible or not a database.
            with closing(sqlite3.connect(database)) as probe:
                probe.execute("PRAGMA schema_version")
            yield


def is_missing(error: "MlflowException") -> bool:
    """Whether MLflow itself reports it: its client uses the same code for a proxy's page with status 404."""
    return error.error_code in _MISSING and not error.message.startswith(_NO_JSON)
