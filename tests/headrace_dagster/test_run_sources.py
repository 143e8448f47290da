"""The webserver and the instance tell the same of the same runs; what each may leave out is left out by both."""

import json
import re
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.types import DaemonHeartbeat

from headrace.errors import EngineUnavailable
from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, NEEDS_TAG, WHY_TAG
from headrace_dagster.launchers.signs_of_life import SILENT_TAG
from headrace_dagster.project.instance_runs import InstanceRuns
from headrace_dagster.project.run_source import NUM_RUNS_MAX, QUEUE_DAEMON, RunSource, RunState
from headrace_dagster.project.waits import Waits
from headrace_dagster.run_failures import FailureEvent, sentence_of
from tests.headrace_dagster.answering_webserver import Answering
from tests.headrace_dagster.queue_builders import make_run


@dg.asset
def refused() -> None:
    """Raises an error of an error, as code does that translates."""
    try:
        raise ValueError("the inner one")
    except ValueError as error:
        raise RuntimeError("  the outer one  ") from error


@dg.asset
def described() -> None:
    raise dg.Failure("Mend the file, then make it again.")


@dg.asset
def warned(context: dg.AssetExecutionContext) -> None:
    context.log.warning("Of something else.")
    context.log.warning("Nothing was rolled out: no server answers.")
    context.log.info("Done.")


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=2), partitions_def=dg.StaticPartitionsDefinition(["shard-00"]))
def dead_server(context: dg.AssetExecutionContext) -> None:
    raise EngineUnavailable(f"http://127.0.0.1:9/v1 takes no connection, try {context.retry_number + 1}.")


class Both:
    """One instance, and the two who tell of it."""

    def __init__(self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.instance = instance
        self.sources: tuple[RunSource, Answering] = (InstanceRuns(instance), Answering(workspace))
        self.failed = [
            dg.materialize([asset], instance=instance, raise_on_error=False).run_id for asset in (refused, described)
        ]
        for beginning, status, tags in (
            ("aaaa0000", "QUEUED", {WHY_TAG: "Waits.", NEEDS_TAG: "{}", "dagster/partition": "2026-11-22|tales-00"}),
            ("bbbb0000", "QUEUED", {GATE_TAG: ADMITTED}),
            ("cccc0000", "STARTING", {}),
            ("dddd0000", "STARTED", {SILENT_TAG: json.dumps({"since": 1.0, "what": "sleeps"})}),
            ("eeee0000", "CANCELING", {}),
            ("ffff0000", "SUCCESS", {}),
            ("abcd0000", "CANCELED", {}),
        ):
            run = make_run(beginning, assets=("b", "a/c"), status=dg.DagsterRunStatus(status), tags=tags)
            instance.run_storage.add_run(run)


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with dg.instance_for_test() as instance, WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        yield Both(instance, workspace)


def test_both_tell_the_same_of_runs_that_wait_are_under_way_and_have_ended(both: Both) -> None:
    by_instance, by_webserver = (source.look(ended_since=time.time() - 3600) for source in both.sources)

    assert by_webserver == by_instance
    assert (by_instance.waiting.num, by_instance.under_way.num, len(by_instance.ended)) == (2, 3, 4)
    waiting = {run.run_id[:4]: run for run in by_instance.waiting.runs}
    assert waiting["aaaa"].tags == {WHY_TAG: "Waits.", "dagster/partition": "2026-11-22|tales-00"}
    assert waiting["aaaa"].name == "a/c, b[2026-11-22|tales-00]"


def test_both_leave_out_what_ended_before(both: Both) -> None:
    assert [source.look(ended_since=time.time() + 60).ended for source in both.sources] == [[], []]


def test_both_tell_when_the_queues_daemon_reported_last(both: Both) -> None:
    assert [source.look(ended_since=0).daemon_seen for source in both.sources] == [None, None]
    both.instance.add_daemon_heartbeat(
        DaemonHeartbeat(timestamp=1_790_000_000.0, daemon_type=QUEUE_DAEMON, daemon_id="1")
    )
    assert {source.look(ended_since=0).daemon_seen for source in both.sources} == {1_790_000_000.0}


def test_both_tell_a_failure_by_what_the_step_raised(both: Both) -> None:
    told = [[source.failure_of(run_id) for run_id in both.failed] for source in both.sources]

    assert told[0] == told[1] == ["RuntimeError:   the outer one", "Mend the file, then make it again."]


def test_a_run_without_a_failure_has_no_reason(both: Both) -> None:
    run_id = make_run("ffff0000").run_id
    assert {source.failure_of(run_id) for source in both.sources} == {"no reason recorded"}


def test_what_a_run_warned_of_at_last_is_told(both: Both) -> None:
    webserver = both.sources[1]
    run_id = dg.materialize([warned], instance=both.instance).run_id

    assert webserver.warning_of(run_id) == "Nothing was rolled out: no server answers."
    assert webserver.warning_of(both.failed[1]) is None


def test_a_run_that_waits_is_ended_and_one_that_has_ended_or_never_was_stays(both: Both) -> None:
    webserver = both.sources[1]
    waiting = make_run("abab0000", assets=("b",), status=dg.DagsterRunStatus.QUEUED)
    both.instance.run_storage.add_run(waiting)

    for run_id in (waiting.run_id, both.failed[0], "0" * 36):
        webserver.terminate(run_id)

    found = [both.instance.get_run_by_id(run_id) for run_id in (waiting.run_id, both.failed[0])]
    assert [run and run.status.value for run in found] == ["CANCELED", "FAILURE"]
    both.instance.delete_run(waiting.run_id)


def test_the_first_failed_step_that_says_anything_comes_before_the_run() -> None:
    of_run = FailureEvent(of_step=False, message="Its process is gone.")
    silent, told = FailureEvent(of_step=True), FailureEvent(of_step=True, error=" No room. \n")

    assert sentence_of([of_run, silent, told]) == "No room."
    assert sentence_of([silent, of_run]) == "Its process is gone."


def test_of_many_runs_the_newest_are_told_and_all_are_counted(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("instance_runs", "webserver"):
        monkeypatch.setattr(f"headrace_dagster.project.{module}.NUM_RUNS_MAX", 1)
    found = [source.look(ended_since=0).waiting for source in both.sources]

    assert found[0] == found[1]
    assert (len(found[0].runs), found[0].num) == (1, 2)
    assert NUM_RUNS_MAX > 100


def test_a_webserver_tells_the_tries_of_a_step_from_where_the_last_look_ended(both: Both) -> None:
    run = dg.materialize([dead_server], partition_key="shard-00", instance=both.instance, raise_on_error=False)
    _, webserver = both.sources

    retries, cursor = webserver.retries_of(run.run_id)

    wanted = [f"headrace.errors.EngineUnavailable: http://127.0.0.1:9/v1 takes no connection, try {n}." for n in (1, 2)]
    assert [one.reason for one in retries] == wanted
    assert 0 <= time.time() - retries[0].at < 60
    assert webserver.retries_of(run.run_id, after=cursor) == ([], cursor)


def test_a_run_that_tries_again_is_told_with_its_reason_until_its_partition_has_more_rows(both: Both) -> None:
    run = dg.materialize([dead_server], partition_key="shard-00", instance=both.instance, raise_on_error=False)
    started = RunState(
        run_id=run.run_id,
        status="STARTED",
        tags={"dagster/partition": "shard-00"},
        assets=("dead_server",),
        created=1.0,
    )
    now = [100.0]
    waits, webserver = Waits(clock=lambda: now[0]), both.sources[1]

    (said,) = waits.look(webserver, [started], {"shard-00": 4})
    assert re.fullmatch(
        r"dead_server\[shard-00\] has failed 2 times since \d\d:\d\d:\d\d and tries again: "
        r"http://127.0.0.1:9/v1 takes no connection, try 2\.",
        said,
    )
    num_requests = webserver.num_requests
    assert waits.look(webserver, [started], {"shard-00": 4}) == (said,), "nothing has changed"
    assert webserver.num_requests == num_requests, "a log is not read at each look"
    now[0] += 10
    assert waits.look(webserver, [started], {"shard-00": 6}) == ()


def test_a_run_that_is_queued_for_long_is_told_with_its_reason(both: Both) -> None:
    runs = both.sources[1].runs(statuses=["QUEUED"])
    waits = Waits(clock=lambda: runs[0].created + 60)

    said = waits.look(both.sources[1], runs, {})

    assert any(
        one.startswith("a/c, b[2026-11-22|tales-00] is queued since ") and one.endswith(": Waits.") for one in said
    )
    assert Waits(clock=lambda: runs[0].created + 1).look(both.sources[1], runs, {}) == ()
