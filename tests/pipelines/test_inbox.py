"""A campaign's inbox in Dagster, end to end: sealed windows become keys, runs, prompts, rows, reviews and results."""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, TickData, TickStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import make_new_run_id

from assets.generation import campaign_report, generated_content, prompts, reviewed_content
from assets.generation_checks import content_rows_checks, schema_checks, shards_are_of_one_list
from headrace.clock import SystemClock
from headrace.fairness import WorkClass
from headrace.generation.campaign import Campaign
from headrace.generation.inbox_status import inbox_statuses
from headrace.generation.window_prompts import EVENTS_CONTENT
from headrace.handoff.versions import HandoffStore
from headrace.inbox.results import event_results
from headrace.inbox.sealed import SealedWindow, windows_chain
from headrace.keys import CAMPAIGN_SHARDS
from headrace.rollout.journal import Journal
from headrace.rollout.states import INITIALIZED, STARTED
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSets
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.resources.campaigns import CampaignsResource, campaigns_resource
from headrace_dagster.resources.engines import EnginesResource
from pipelines import window_order, window_sensor
from pipelines.automation import LOOKBACK_DAYS
from pipelines.definitions import defs
from pipelines.generation_requests import QUEUED_MAX, REQUESTS_MAX
from pipelines.sensors import campaign_generation
from pipelines.window_sensor import sealed_windows
from resources.settings import settings_from_environment
from simulation.models import model_of
from tests.inbox_builders import event, seal_window

TODAY = datetime.now(UTC).strftime("%Y-%m-%d")
LONG_AGO = (datetime.now(UTC) - timedelta(days=LOOKBACK_DAYS + 5)).strftime("%Y-%m-%d")
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d")
FILE = """\
name: orders
model: tiny
prompts:
  inbox: {late: process}
  template: "Describe {product}"
  carry: [sku]
review: {words_min: 1}
"""


class Deployment:
    """A project with one campaign that takes events, on the echo engine, and an instance."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.home, self.instance = home, instance
        self.objects = LocalStore(home / "store")
        self.handoffs = HandoffStore(self.objects)
        self.cursor: str | None = None
        code = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="pipelines.definitions"))
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), sealed_windows.name)
        self.sensor = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
        instance.add_instigator_state(self.sensor)
        self.write(FILE)

    def write(self, file: str) -> None:
        (self.home / "campaigns").mkdir(exist_ok=True)
        (self.home / "campaigns/orders.yaml").write_text(file)

    @property
    def campaigns(self) -> CampaignsResource:
        return campaigns_resource(settings_from_environment())

    @property
    def campaign(self) -> Campaign:
        return self.campaigns.campaign("orders")

    def roll_out(self, event: str = INITIALIZED, version: int = 1, **fields: Any) -> str:
        version_set = self.campaign.version_set({"writer": model_of("tiny", version)})
        VersionSets(self.objects).put(version_set)
        journal = Journal(self.objects, "orders", SystemClock())
        said = {"version_set": version_set.id, "weights_digest": f"weights {version}", "num_rows": 0, "reason": "said"}
        journal.append(event, said | fields, expected=journal.head())
        return version_set.id

    def seal(self, *names: str, day: str = TODAY, **window: Any) -> SealedWindow:
        rows = [event(name, {"product": f"product {name}", "sku": name}) for name in names]
        return seal_window(self.objects, rows, day=day, **window)

    def evaluate(self, sensor: dg.SensorDefinition, cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=self.instance, definitions=defs, cursor=cursor, sensor_name=sensor.name
        )
        with partition_loading_context(dynamic_partitions_store=self.instance):
            return sensor.evaluate_tick(context)

    def took(self, seconds: float, *, num_runs: int, ended_ago: float = 0.0) -> None:
        """Dagster has a tick of the inbox's sensor that made so many runs in so many seconds, and no other one."""
        ended = time.time() - ended_ago
        self.forget_ticks()
        self.instance.create_tick(
            TickData(
                instigator_origin_id=self.sensor.instigator_origin_id,
                instigator_name=self.sensor.name,
                instigator_type=self.sensor.instigator_type,
                status=TickStatus.SUCCESS,
                timestamp=ended - seconds,
                end_timestamp=ended,
                run_ids=[make_new_run_id() for _ in range(num_runs)],
                selector_id=self.sensor.selector_id,
            )
        )

    def forget_ticks(self) -> None:
        self.instance.purge_ticks(self.sensor.instigator_origin_id, self.sensor.selector_id, before=time.time() + 60)

    def tick(self) -> list[dg.RunRequest]:
        """One tick whose requests and cursor Dagster has taken."""
        result = self.evaluate(sealed_windows, self.cursor)
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            for key in request.partition_keys:
                self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        return list(result.run_requests or [])

    def generated(self) -> list[dg.RunRequest]:
        return list(self.evaluate(campaign_generation).run_requests or [])

    @property
    def keys(self) -> list[str]:
        return sorted(self.instance.get_dynamic_partitions(CAMPAIGN_SHARDS))

    def materialize(self, *assets: Any, partition: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [prompts, generated_content, reviewed_content, campaign_report, *schema_checks, shards_are_of_one_list,
             content_rows_checks],
            selection=dg.AssetSelection.assets(*assets),
            partition_key=partition,
            instance=self.instance,
            resources={
                "io_manager": ArrowHandoffIOManager(url=str(self.objects.directory)),
                "store": StoreResource(url=str(self.objects.directory)),
                "campaigns": self.campaigns,
                "engines": EnginesResource(),
            },
        )  # fmt: skip

    def make(self, partition: str) -> None:
        for asset in (prompts, generated_content, reviewed_content):
            self.materialize(asset, partition=partition)

    def run_of(self, request: dg.RunRequest, status: dg.DagsterRunStatus = dg.DagsterRunStatus.FAILURE) -> None:
        """A run, which ended or stands at `status`, as Dagster has it once it took the request."""
        tags = {"dagster/partition": request.partition_key or "", "dagster/run_key": request.run_key or ""}
        run = dg.DagsterRun(job_name=request.job_name or "j", run_id=make_new_run_id(), status=status, tags=tags)
        self.instance.add_run(run)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADRACE_ENGINE", "echo")
    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(tmp_path / "campaigns"))
    for name in ("HEADRACE_SERVICES", "HEADRACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    # An ephemeral one keeps no ticks.
    with dg.instance_for_test() as instance:
        deployment = Deployment(tmp_path, instance)
        deployment.took(1.0, num_runs=REQUESTS_MAX)
        yield deployment


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (found,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in found.metadata.items()}


def test_events_become_reviewed_rows_that_name_their_event(deployment: Deployment) -> None:
    deployment.roll_out()
    window = deployment.seal("a", "b")
    key = f"{TODAY}|orders-w000001"

    [listing] = deployment.tick()
    assert (listing.job_name, listing.partition_key) == ("list_prompts", key)
    assert deployment.keys == ["orders-w000001"]
    listed = deployment.materialize(prompts, partition=key)
    assert metadata_of(listed, "prompts")[EVENTS_CONTENT] == window.content
    assert all(check.passed for check in listed.get_asset_check_evaluations())
    [generation] = deployment.generated()
    assert (generation.job_name, generation.partition_key) == ("generate", key)
    assert all(
        check.passed for check in deployment.materialize(generated_content, partition=key).get_asset_check_evaluations()
    )
    assert deployment.generated() == []
    deployment.materialize(reviewed_content, partition=key)

    rows = deployment.handoffs.open("reviewed_content", key).table().to_pylist()
    assert [(row["event_id"], row["event_source"], row["sku"]) for row in rows] == [
        ("a", "shop", "a"),
        ("b", "shop", "b"),
    ]
    assert deployment.handoffs.open("prompts", key).attributes[EVENTS_CONTENT] == window.content
    results = {one.event: one for one in event_results(deployment.handoffs, "orders")}
    assert {name: one.state for name, one in results.items()} == {"a": "made", "b": "made"}
    assert results["a"].partition == key
    assert [row.row_id for row in results["a"].rows] == [rows[0]["row_id"]]
    assert results["a"].rows[0].kept == rows[0]["kept"]


def test_an_event_without_a_prompt_keeps_none_of_the_others_waiting(deployment: Deployment) -> None:
    deployment.roll_out()
    events = [event("a", {"product": "a lamp"}), event("b", {"colour": "red"}), event("c", {"product": "a pan"})]
    seal_window(deployment.objects, events, day=TODAY)
    key = f"{TODAY}|orders-w000001"
    deployment.tick()
    listed = metadata_of(deployment.materialize(prompts, partition=key), "prompts")
    assert (listed["num_events"], listed["num_events_refused"], listed["num_rows"]) == (3, 1, 2)
    deployment.materialize(generated_content, partition=key)

    [broken] = event_results(deployment.handoffs, "orders", event="b")
    assert (broken.state, broken.rows) == ("refused", ())
    assert broken.reason == "has no column 'product' (it has colour)."
    [made] = event_results(deployment.handoffs, "orders", event="a")
    assert made.state == "made"
    assert made.rows[0].kept is None, "nothing is reviewed yet"


def test_a_window_is_made_once_however_often_its_runs_come(deployment: Deployment) -> None:
    deployment.roll_out()
    deployment.seal("a", "b")
    key = f"{TODAY}|orders-w000001"
    deployment.tick()
    for _ in range(2):
        deployment.materialize(prompts, partition=key)
        deployment.materialize(generated_content, partition=key)

    assert deployment.handoffs.versions("prompts", key) == [1]
    assert deployment.handoffs.versions("generated_content", key) == [1]


def test_a_killed_tick_asks_again_under_the_same_run_keys(deployment: Deployment) -> None:
    deployment.seal("a")
    deployment.seal("b", window=2)
    killed = deployment.evaluate(sealed_windows, deployment.cursor).run_requests

    again = deployment.tick()
    assert [one.run_key for one in again] == [one.run_key for one in killed]
    assert len({one.run_key for one in again}) == 2
    assert deployment.tick() == []


def test_a_tick_asks_for_what_was_sealed_since_and_for_no_more_than_its_share(deployment: Deployment) -> None:
    for window in range(1, REQUESTS_MAX + 6):
        deployment.seal(str(window), window=window)

    first, second = deployment.tick(), deployment.tick()
    assert [len(first), len(second)] == [REQUESTS_MAX, 5]
    assert len(deployment.keys) == REQUESTS_MAX + 5
    deployment.seal("last", window=REQUESTS_MAX + 6)
    assert [one.partition_key for one in deployment.tick()] == [f"{TODAY}|orders-w000106"]


def test_a_tick_asks_for_what_the_last_one_would_have_made_in_time(deployment: Deployment) -> None:
    for window in range(1, 41):
        deployment.seal(str(window), window=window)
    # Seconds and runs of the last tick that made any → what the next one asks for. A tick's own seconds count, too.
    for seconds, num_runs, wanted in ((35.0, 25, {2, 3}), (10.0, 10, {4, 5}), (4.0, 1, {2}), (1.0, 2, {9, 10})):
        deployment.took(seconds, num_runs=num_runs)
        assert len(deployment.tick()) in wanted, (seconds, num_runs)
    deployment.took(100.0, num_runs=1)
    assert len(deployment.tick()) == 1, "it goes on, however slow the machine is"


def test_without_a_tick_of_late_one_window_is_asked_for_and_measured(deployment: Deployment) -> None:
    for window in range(1, 4):
        deployment.seal(str(window), window=window)
    deployment.forget_ticks()
    assert len(deployment.tick()) == 1
    deployment.took(0.1, num_runs=REQUESTS_MAX, ended_ago=3_600)
    assert len(deployment.tick()) == 1


def test_campaigns_take_turns_when_a_tick_has_time_for_few(deployment: Deployment) -> None:
    for name in ("glossary", "slogans"):
        (deployment.home / f"campaigns/{name}.yaml").write_text(FILE.replace("name: orders", f"name: {name}"))
    for window in range(1, 4):
        for campaign in ("orders", "glossary", "slogans"):
            deployment.seal("a", window=window, campaign=campaign)
    deployment.took(5.0, num_runs=1)
    asked = [str(one.partition_key)[11:] for _ in range(6) for one in deployment.tick()]
    assert sorted(asked) == [f"{name}-w00000{n}" for name in ("glossary", "orders", "slogans") for n in (1, 2)]
    deployment.took(1.0, num_runs=REQUESTS_MAX)
    assert len(deployment.tick()) == 3


def test_a_store_that_was_replaced_begins_anew(deployment: Deployment) -> None:
    deployment.seal("a")
    deployment.cursor = json.dumps({"asked": {"orders": 41}})

    assert [one.partition_key for one in deployment.tick()] == [f"{TODAY}|orders-w000001"]


def test_the_same_events_in_another_store_are_made_there_although_the_instance_has_run_them(
    deployment: Deployment,
) -> None:
    asked = list[str | None]()
    for log in ("first log", "second log"):
        shutil.rmtree(deployment.home / "store", ignore_errors=True)
        window_order._KNOWN.clear()  # of another process, as whoever moves a store starts
        deployment.cursor = None
        deployment.roll_out()
        deployment.seal("a", log=log)
        [listed] = deployment.tick()
        deployment.materialize(prompts, partition=f"{TODAY}|orders-w000001")
        [generated] = deployment.generated()
        for request in (listed, generated):
            deployment.run_of(request, dg.DagsterRunStatus.SUCCESS)
        asked += [listed.run_key, generated.run_key]
    assert len({*asked}) == 4


def test_a_window_of_a_day_that_has_not_begun_waits_and_those_after_it_too(deployment: Deployment) -> None:
    deployment.seal("a", day=TOMORROW)
    deployment.seal("b", window=2, day=TOMORROW)

    result = deployment.evaluate(sealed_windows)
    assert not result.run_requests
    assert "orders-w000001 waits for its day" in (result.skip_message or "")
    assert json.loads(result.cursor)["asked"] == {"orders": 0}


def test_a_window_before_the_first_day_is_told_and_passed_over(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.seal("a", day="1999-12-31")
    deployment.seal("b", window=2)

    assert [one.partition_key for one in deployment.tick()] == [f"{TODAY}|orders-w000002"]
    deployment.cursor = None
    deployment.seal("c", window=3, day="1999-12-31")
    [status] = inbox_statuses(deployment.handoffs, SystemClock().now(), keep_late={})
    assert status.num_waiting == 3, "what nobody makes is not forgotten"


def test_a_damaged_window_stops_its_own_campaign_and_says_so(deployment: Deployment) -> None:
    deployment.seal("a")
    deployment.seal("b", window=2)
    chain = windows_chain(deployment.objects, "orders")
    file = deployment.objects.directory / chain.key(2)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b'"late_part":0', b'"late_part":7'))

    assert [one.partition_key for one in deployment.tick()] == [f"{TODAY}|orders-w000001"]
    result = deployment.evaluate(sealed_windows, deployment.cursor)
    assert not result.run_requests
    assert "00000002.json" in (result.skip_message or "")
    [status] = inbox_statuses(deployment.handoffs, SystemClock().now(), keep_late={})
    assert status.problem is not None


def test_late_events_are_a_partition_of_their_own_whatever_their_day(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.roll_out()
    deployment.seal("a", day=LONG_AGO)
    deployment.seal("b", day=LONG_AGO, late_part=1)
    deployment.seal("c", day=LONG_AGO, late_part=2)
    keys = [f"{LONG_AGO}|orders-w000001{ending}" for ending in ("", "-late", "-late2")]
    assert [one.partition_key for one in deployment.tick()] == keys
    for key in keys:
        deployment.materialize(prompts, partition=key)

    assert [one.partition_key for one in deployment.generated()] == keys
    for key in keys:
        deployment.materialize(generated_content, partition=key)
    monkeypatch.setattr(window_sensor, "LOOK_BACK_SECONDS", 0)
    # The automation looks at the newest days alone.
    deployment.took(5.0, num_runs=2)
    few = deployment.tick()
    assert 1 <= len(few) < len(keys), "no more than a tick makes in time"
    assert json.loads(deployment.cursor or "")["looked_at"] == 0.0
    deployment.took(1.0, num_runs=REQUESTS_MAX)
    reviews = deployment.tick()
    assert [(one.job_name, one.partition_key) for one in reviews] == [("review", key) for key in keys]
    found = {one.event: one.partition for one in event_results(deployment.handoffs, "orders")}
    assert found == {"a": keys[0], "b": keys[1], "c": keys[2]}


def test_late_events_that_are_only_kept_make_no_run(deployment: Deployment) -> None:
    deployment.write(FILE.replace("late: process", "late: keep"))
    deployment.seal("a")
    deployment.seal("b", late_part=1)
    deployment.seal("c", window=2)

    assert [one.partition_key for one in deployment.tick()] == [
        f"{TODAY}|orders-w000001",
        f"{TODAY}|orders-w000002",
    ]
    [kept] = event_results(deployment.handoffs, "orders", event="b", keeps_late=True)
    assert kept.state == "kept"
    [status] = inbox_statuses(deployment.handoffs, SystemClock().now(), keep_late={"orders": True})
    assert (status.num_waiting, status.num_late_parts, status.num_late_parts_kept) == (2, 1, 1)


def test_windows_wait_until_something_is_rolled_out(deployment: Deployment) -> None:
    deployment.seal("a")
    key = f"{TODAY}|orders-w000001"
    deployment.tick()
    deployment.materialize(prompts, partition=key)

    result = deployment.evaluate(campaign_generation)
    assert not result.run_requests
    assert "orders: 1 sealed window waits: nothing is rolled out yet" in (result.skip_message or "")


def test_a_run_that_failed_for_good_is_not_asked_for_at_every_tick(deployment: Deployment) -> None:
    deployment.roll_out()
    deployment.seal("a")
    deployment.tick()
    deployment.materialize(prompts, partition=f"{TODAY}|orders-w000001")
    [request] = deployment.generated()
    deployment.run_of(request)

    assert deployment.generated() == []


def test_no_window_waits_for_a_verdict_and_its_rank_decides_its_set(deployment: Deployment) -> None:
    stable = deployment.roll_out()
    candidate = deployment.roll_out(STARTED, version=2, step=0, weight=0.5)
    keys = [f"{TODAY}|orders-w{window:06d}" for window in range(1, 9)]
    for window in range(1, 9):
        deployment.seal(str(window), window=window)
    deployment.tick()
    for key in keys:
        deployment.materialize(prompts, partition=key)

    assert [one.partition_key for one in deployment.generated()] == keys
    for key in keys:
        deployment.materialize(generated_content, partition=key)
    sets = {deployment.handoffs.open("generated_content", key).attributes["version_set"] for key in keys}
    assert sets == {stable, candidate}


def test_windows_are_generated_by_class_and_turn_and_batch_makes_room(deployment: Deployment) -> None:
    deployment.roll_out()
    classes: list[WorkClass] = ["batch", "batch", "live", "flex"]
    for window, (event_class, turn) in enumerate(zip(classes, [20.0, 10.0, 30.0, 30.0], strict=True), 1):
        deployment.seal(str(window), window=window, event_class=event_class, turn=turn)
    listed = {one.partition_key: one.tags for one in deployment.tick()}
    for key in listed:
        deployment.materialize(prompts, partition=str(key))

    generated = deployment.generated()
    assert [str(one.partition_key)[-1] for one in generated] == ["3", "4", "2", "1"]
    assert [one.tags["dagster/priority"] for one in generated] == ["1", "0", "-1", "-1"]
    assert [one.tags.get("headrace/preemptible") for one in generated] == [None, None, "true", "true"]
    assert {one.partition_key: one.tags["dagster/priority"] for one in generated} == {
        key: tags["dagster/priority"] for key, tags in listed.items()
    }


def test_little_is_put_into_the_queue_so_that_others_can_pass(deployment: Deployment) -> None:
    deployment.roll_out()
    for window in range(1, QUEUED_MAX + 4):
        deployment.seal(str(window), window=window, turn=float(window))
    for request in deployment.tick():
        deployment.materialize(prompts, partition=str(request.partition_key))
    first = deployment.generated()
    assert len(first) == QUEUED_MAX
    for request in first:
        deployment.run_of(request, dg.DagsterRunStatus.NOT_STARTED)
    assert deployment.generated() == []
    deployment.seal("few", window=100, turn=0.0)
    [request] = deployment.tick()
    deployment.materialize(prompts, partition=str(request.partition_key))
    [queued, *_] = deployment.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED]))
    deployment.instance.delete_run(queued.run_id)
    assert [one.partition_key for one in deployment.generated()] == [request.partition_key]


def test_the_key_of_a_reviewed_window_retires_when_the_automation_leaves_its_day(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.roll_out()
    for window, day in ((1, LONG_AGO), (2, LONG_AGO), (3, TODAY)):
        deployment.seal(str(window), window=window, day=day)
    deployment.tick()
    deployment.make(f"{LONG_AGO}|orders-w000001")
    deployment.materialize(prompts, partition=f"{LONG_AGO}|orders-w000002")
    deployment.make(f"{TODAY}|orders-w000003")

    assert "orders-w000001" in deployment.keys
    monkeypatch.setattr(window_sensor, "LOOK_BACK_SECONDS", 0)
    deployment.tick()
    assert deployment.keys == ["orders-w000002", "orders-w000003"]
    # The report of its day has it still.
    report = metadata_of(deployment.materialize(campaign_report, partition=LONG_AGO), "campaign_report")
    assert (report["num_rows"], report["num_partitions"]) == (1, 1)


def test_keys_are_bounded_however_many_windows_wait(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOOK_BACK_SECONDS": 0, "PARTITIONS_MAX": 1, "KEYS_MAX_MIN": 3}.items():
        monkeypatch.setattr(window_sensor, name, value)
    deployment.roll_out()
    for window in range(1, 8):
        deployment.seal(str(window), window=window)

    asked = [one.partition_key or "" for one in deployment.tick()]
    assert asked == [f"{TODAY}|orders-w{window:06d}" for window in (1, 2, 3)]
    result = deployment.evaluate(sealed_windows, deployment.cursor)
    assert not result.run_requests
    assert "3 windows are not made and reviewed yet" in (result.skip_message or "")
    for key in asked[:2]:
        deployment.make(key)
    # Those that are reviewed make room.
    assert [one.partition_key for one in deployment.tick()] == [f"{TODAY}|orders-w000004", f"{TODAY}|orders-w000005"]
    assert deployment.keys == ["orders-w000003", "orders-w000004", "orders-w000005"]


def test_the_backlog_is_counted_in_windows_events_and_seconds(deployment: Deployment) -> None:
    deployment.roll_out()
    for window in range(1, 4):
        deployment.seal("a", "b", window=window, sealed_at=f"{TODAY}T00:00:00+00:00")
    deployment.tick()
    listed = metadata_of(deployment.materialize(prompts, partition=f"{TODAY}|orders-w000001"), "prompts")
    assert (listed["num_windows_waiting"], listed["num_events_waiting"]) == (3, 6)
    assert "backlog_seconds" not in listed, "nothing was made yet, so nobody knows the drain"
    assert listed["seconds_since_sealed"] > 0
    deployment.materialize(generated_content, partition=f"{TODAY}|orders-w000001")

    second = metadata_of(deployment.materialize(prompts, partition=f"{TODAY}|orders-w000002"), "prompts")
    assert (second["num_windows_waiting"], second["num_events_waiting"]) == (2, 4)
    assert second["backlog_seconds"] == pytest.approx(4 / second["drained_events_per_second"], rel=0.01)
    [status] = inbox_statuses(deployment.handoffs, SystemClock().now(), keep_late={})
    assert (status.num_windows, status.num_windows_made, status.num_waiting) == (3, 1, 2)
    assert status.newest is not None
    assert status.newest.partition == f"{TODAY}|orders-w000003"
