"""The webserver and the instance tell the same of the same runs; what each may leave out is left out by both."""

import json
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.types import DaemonHeartbeat

from headrace_dagster.coordinator.admission import ADMITTED, GATE_TAG, NEEDS_TAG, WHY_TAG
from headrace_dagster.launchers.signs_of_life import SILENT_TAG
from headrace_dagster.project.instance_runs import InstanceRuns
from headrace_dagster.project.run_source import NUM_RUNS_MAX, QUEUE_DAEMON, RunSource
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
