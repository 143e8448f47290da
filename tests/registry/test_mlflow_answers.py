"""What stands where MLflow should (fake servers on loopback), and what the real one says of what is gone."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import HeadraceError, RegistryMissing, RegistryUnavailable
from headrace.registry.mlflow_answers import NotAnAnswer, checked_aliases, checked_run, checked_steps, checked_version
from headrace.registry.mlflow_models import ModelRegistry
from tests.answering import answering
from tests.registry.builders import make_registry

PASSWORD = "p-private-word"
# Status and body.
Answer = tuple[int, str]
NO_MLFLOW: dict[str, Answer] = {
    "an empty object": (200, "{}"),
    "an empty body": (200, ""),
    "a proxy's page": (200, "<html>Sign in</html>"),
    "a proxy's page that is not found": (404, "<html>no such page</html>"),
    "another service": (404, '{"detail": "Not Found"}'),
    "a list": (200, "[]"),
    "a text": (200, '"ok"'),
    "other types": (200, '{"registered_model": 7, "experiment": [], "model_versions": 3, "runs": "x"}'),
    "a model of another name": (200, '{"registered_model": {"name": "other", "aliases": []}}'),
}
CALLS: dict[str, Callable[[ModelRegistry], object]] = {
    "aliases": lambda registry: registry.aliases("tiny"),
    "ensure_run": lambda registry: registry.ensure_run("training", {}),
    "register": lambda registry: registry.register("tiny", "d" * 64, "s3://b/w", "", {}),
    "log_metrics": lambda registry: registry.log_metrics("run", {"loss": 1.0}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", NO_MLFLOW)
def test_what_is_no_mlflow_is_told_and_nothing_is_believed(name: str, call: str) -> None:
    with answering(*NO_MLFLOW[name]) as url, pytest.raises(RegistryUnavailable, match=f"MLflow at {url} ") as told:
        CALLS[call](ModelRegistry(url))
    assert "check MLFLOW_TRACKING_URI" in str(told.value)


def test_a_page_of_a_proxy_is_shown() -> None:
    with (
        answering(200, "<html>Sign in</html>") as url,
        pytest.raises(RegistryUnavailable, match="is no answer of MLflow: .*Sign in.*Look what listens there"),
    ):
        ModelRegistry(url).aliases("tiny")


def test_an_alias_of_a_deleted_version_is_told_as_missing_and_not_as_an_outage(
    mlflow_directory: Path,
) -> None:
    registry = make_registry(mlflow_directory)
    version = registry.register("gone", "d1", "s3://b/w", "", {}).version
    registry.connection.client().delete_model_version("gone", version)
    with pytest.raises(RegistryMissing, match="does not have this any more: .*version"):
        registry.set_alias("gone", "champion", version)
    assert registry.aliases("gone") == {}
    # The same weights can be registered again, under a new number.
    assert registry.register("gone", "d1", "s3://b/w", "", {}).version != version


@pytest.mark.parametrize("status", [200, 403, 500])
def test_a_password_in_the_address_is_never_told(status: int, caplog: pytest.LogCaptureFixture) -> None:
    def echo(path: str) -> str:
        return json.dumps({"error_code": "INTERNAL_ERROR", "message": "as reader:" + PASSWORD + ", no"})

    with answering(status, echo) as url, pytest.raises(HeadraceError) as told:
        ModelRegistry(url.replace("http://", f"http://reader:{PASSWORD}@")).aliases("tiny")
    assert PASSWORD not in "".join(traceback.format_exception(told.value)) + caplog.text


def test_a_password_of_a_database_is_never_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable) as told:
        ModelRegistry(f"sqlite:///{tmp_path}?password={PASSWORD}").aliases("tiny")
    assert PASSWORD not in "".join(traceback.format_exception(told.value))


odd: st.SearchStrategy[Any] = st.none() | st.integers() | st.floats() | st.text(max_size=4) | st.just([1])
objects = st.builds(
    lambda **fields: SimpleNamespace(**fields),
    info=st.builds(lambda **fields: SimpleNamespace(**fields), run_id=odd, start_time=odd),
    name=odd,
    version=odd,
    creation_timestamp=odd,
    aliases=odd | st.dictionaries(st.text(max_size=2), odd, max_size=2),
    step=odd,
)


@given(objects)
def test_whatever_comes_is_what_was_asked_for_or_no_answer(given_back: Any) -> None:
    for check in (
        lambda: checked_run(given_back).info.run_id.strip,
        lambda: int(checked_version(given_back, "tiny").version) and given_back.creation_timestamp / 1000,
        lambda: [alias + version for alias, version in checked_aliases(given_back, "tiny").items()],
        lambda: max(checked_steps([given_back])),
    ):
        try:
            check()
        except NotAnAnswer as error:
            str(error).encode(errors="strict")
