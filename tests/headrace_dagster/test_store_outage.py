"""An object store that is away for longer than its patience fails a try, not the asset; one that refuses fails it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from headrace.store.opening import open_store
from headrace_dagster import handoff_io
from headrace_dagster.handoff_io import ArrowHandoffIOManager
from pipelines.object_store import running_object_store
from simulation.faults.proxy import Fault, FaultProxy, fault_proxy

QUICKLY = dg.RetryPolicy(max_retries=3, delay=0.1)


@dg.asset(retry_policy=QUICKLY)
def numbers() -> pa.Table:
    return pa.table({"x": [1, 2, 3]})


@dg.asset(retry_policy=QUICKLY)
def total(numbers: pa.Table) -> pa.Table:
    return pa.table({"x": [sum(numbers["x"].to_pylist())]})


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    directory = tmp_path_factory.mktemp("weed")
    with (
        running_object_store(directory) as server,
        fault_proxy(server.endpoint) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        # A minute of patience, in a tenth of a second.
        patch.setattr(handoff_io, "open_store", partial(open_store, patience_seconds=0.1))
        yield proxy


def materialize(prefix: str, cache: Path, *, at_retry: Any = lambda: None) -> dg.ExecuteInProcessResult:
    class Watched(ArrowHandoffIOManager):
        """Ends the outage when a step begins its second try."""

        def load_input(self, context: dg.InputContext) -> Any:
            if context.step_context.previous_attempt_count:
                at_retry()
            return super().load_input(context)

        def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
            if context.step_context.previous_attempt_count:
                at_retry()
            super().handle_output(context, obj)

    io_manager = Watched(url=f"s3://headrace/{prefix}", cache=str(cache))
    return dg.materialize([numbers, total], resources={"io_manager": io_manager}, raise_on_error=False)


@pytest.mark.parametrize("key", ["numbers", "total"])
def test_a_store_that_is_away_for_a_try_is_tried_again(proxy: FaultProxy, tmp_path: Path, key: str) -> None:
    """Away from the first request that names the asset on: while it is sealed, or while it is read."""
    outage = Fault("unavailable", lambda request: f"/{key}/" in request.path, times=-1)
    proxy.faults = [outage]

    def end_outage() -> None:
        outage.times = 0

    result = materialize(f"away-{key}", tmp_path, at_retry=end_outage)

    assert result.success
    retried = [event.step_key for event in result.all_events if event.is_step_up_for_retry]
    assert retried == [key]
    proxy.faults = []


def test_a_store_that_refuses_is_not_asked_again(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    handoff_io.opened_store.cache_clear()

    result = materialize("refused", tmp_path)

    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    (failure,) = result.get_step_failure_events()
    assert "the secret key does not fit the access key" in str(failure.step_failure_data.error)
