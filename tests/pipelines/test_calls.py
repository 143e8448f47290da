"""Recorded calls in Dagster: sealed hours become keys, runs, rows and audio, and mirrors for a candidate."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from assets.calls import mirrored_calls, recorded_calls
from headrace.clock import SystemClock
from headrace.handoff.versions import HandoffStore
from headrace.keys import CALL_HOURS, CallHour
from headrace.rollout.journal import Journal
from headrace.rollout.states import fold
from headrace.serving.subject import ServiceSubject
from headrace.store.local import LocalStore
from headrace.voice.hours import ROWS
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.resources.engines import EnginesResource
from headrace_dagster.resources.rollouts import rollouts_resource
from pipelines.call_hours import CallHours
from pipelines.definitions import defs
from pipelines.sensors import candidate_mirrors
from pipelines.ticks import RunsUnderWay
from pipelines.window_sensor import sealed_windows
from resources.settings import settings_from_environment
from simulation.servers.calls import spoken_roles
from simulation.servers.gateway_site import Site
from tests.voice.recorded_builders import SERVICE, Recorded, at, pcm, said_in

# An hour of yesterday is over, and within the days that there are.
DAY = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
HOUR = CallHour(day=DAY, service=SERVICE, hour=14)
LATE = CallHour(day=DAY, service=SERVICE, hour=14, late_part=1)
MARGINS = {"mirrored_word_error_rate": 0.1, "mirrored_first_audio_seconds": 5.0}
ASKED, PLAYED = pcm(1, 1500, 16_000), pcm(2, 1000, 24_000)


class Deployment:
    """A project with one service that records its calls, on the echo engine."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, **rollout: Any) -> None:
        self.home, self.instance = home, instance
        self.objects = LocalStore(home / "store")
        self.handoffs = HandoffStore(self.objects)
        self.cursor: str | None = None
        body = {"name": SERVICE, "recording": {"lateness_seconds": 300}, **spoken_roles(), "rollout": rollout}
        self.site = Site.make(home / "site", body, store=self.objects)
        (home / "services").mkdir()
        (home / "services/voices.yaml").symlink_to(self.site.service_file)

    def gateway(self, name: str = "one") -> Recorded:
        return Recorded(self.home / name, self.objects)

    def requests(self, sensor: dg.SensorDefinition) -> list[dg.RunRequest]:
        """One tick's, from where the last one stopped."""
        tick = self.ticked(sensor)
        self.cursor = tick.cursor
        return list(tick.run_requests or [])

    def ticked(self, sensor: dg.SensorDefinition) -> Any:
        with partition_loading_context(dynamic_partitions_store=self.instance):
            return sensor.evaluate_tick(
                dg.build_sensor_context(
                    instance=self.instance, definitions=defs, cursor=self.cursor, sensor_name=sensor.name
                )
            )

    def materialize(self, asset: Any, partition: str, **config: Any) -> dict[str, Any]:
        settings = settings_from_environment()
        result = dg.materialize(
            [recorded_calls, mirrored_calls],
            selection=dg.AssetSelection.assets(asset),
            partition_key=partition,
            instance=self.instance,
            run_config={"ops": {asset.op.name: {"config": config}}} if config else None,
            resources={
                "io_manager": ArrowHandoffIOManager(url=str(self.objects.directory)),
                "store": StoreResource(url=str(self.objects.directory)),
                "engines": EnginesResource(),
                "rollouts": rollouts_resource(settings),
            },
        )
        (made,) = result.asset_materializations_for_node(asset.op.name)
        return {name: value.value for name, value in made.metadata.items()}


@pytest.fixture
def rollout() -> dict[str, Any]:
    return {}


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rollout: dict[str, Any]) -> Iterator[Deployment]:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(tmp_path / "campaigns"))
    monkeypatch.setenv("HEADRACE_SERVICES", str(tmp_path / "services"))
    for name in ("HEADRACE_ENGINE", "HEADRACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    # An ephemeral one keeps no ticks.
    with dg.instance_for_test() as instance:
        yield Deployment(tmp_path, instance, **rollout)


def test_an_hour_of_calls_becomes_a_partition_and_what_is_late_another(deployment: Deployment) -> None:
    one = deployment.gateway()
    one.call("c1", "14:10:00", "Hello.", day=DAY, audio=[(ASKED, PLAYED)])
    one.seal("15:05:01", day=DAY)
    [request] = deployment.requests(sealed_windows)
    assert (request.job_name, request.partition_key) == ("seal_calls", HOUR.key)
    assert deployment.instance.get_dynamic_partitions(CALL_HOURS) == ["voices-h14"]
    told = deployment.materialize(recorded_calls, HOUR.key)
    assert (told["num_calls"], told["num_turns"], told["num_recordings"], told["late_part"]) == (1, 1, 2, 0)
    assert told["seconds_since_end"] > 0
    assert deployment.requests(sealed_windows) == []

    two = deployment.gateway("two")
    two.call("c2", "14:20:00", "Late.", day=DAY, arrives=at("20:00:00", day=DAY))
    two.seal("22:00:00", day=DAY)
    [late] = deployment.requests(sealed_windows)
    assert late.partition_key == LATE.key
    told = deployment.materialize(recorded_calls, LATE.key)
    assert (told["late_part"], told["num_late_parts"], told["num_calls_waiting"]) == (1, 1, 0)
    assert deployment.requests(sealed_windows) == []
    assert [said_in(deployment.objects, hour.key) for hour in (HOUR, LATE)] == [["Hello."], ["Late."]]
    # Asked for again, by hand: nothing is made twice.
    assert deployment.materialize(recorded_calls, HOUR.key)["reused"]
    assert deployment.handoffs.versions(ROWS, HOUR.key) == [1]


def test_a_run_that_failed_is_asked_for_until_its_hour_is_sealed(deployment: Deployment) -> None:
    one = deployment.gateway()
    one.call("c1", "14:10:00", "Hello.", day=DAY)
    one.seal("15:05:01", day=DAY)
    first, second = deployment.requests(sealed_windows), deployment.requests(sealed_windows)
    assert [one.run_key for one in first] == [one.run_key for one in second], "Dagster starts one run a key"
    deployment.materialize(recorded_calls, HOUR.key)
    assert deployment.requests(sealed_windows) == []


def test_an_hour_is_asked_for_once_its_gateways_have_had_time(deployment: Deployment) -> None:
    one = deployment.gateway()
    one.call("c1", "14:10:00", "Hello.", day=DAY)
    one.seal("15:05:01", day=DAY)

    def asked(time: str, cursor: dict[str, Any]) -> tuple[list[str | None], dict[str, Any]]:
        context = dg.build_sensor_context(instance=deployment.instance, definitions=defs)
        hours = CallHours(deployment.objects, {SERVICE: deployment.site.service}, RunsUnderWay(context))
        after = hours.look(cursor, now=at(time, day=DAY))
        return [request.partition_key for request in hours.requests], after

    early, cursor = asked("15:05:30", {})
    assert early == []
    assert cursor["hours"] == [HOUR.key]
    due, _ = asked("15:06:01", cursor)
    assert due == [HOUR.key]


def test_a_day_before_the_first_is_told_and_not_asked_for(deployment: Deployment) -> None:
    long_ago = "2020-01-01"
    one = deployment.gateway()
    one.call("c1", "14:10:00", "Hello.", day=long_ago)
    one.seal("15:05:01", day=long_ago)
    result = deployment.ticked(sealed_windows)
    assert not result.run_requests
    assert "before HEADRACE_FIRST_DAY" in (result.skip_message or "")


@pytest.mark.parametrize("rollout", [{"mirror_partitions": 2, "gate": {"margins": MARGINS, "min_rows": 1}}])
def test_a_candidates_mirror_is_asked_for_made_and_judged(deployment: Deployment) -> None:
    pytest.importorskip("rapidfuzz", reason="The extra `voice` is not installed: pip install 'headrace[voice]'.")
    deployment.site.initialize()
    one = deployment.gateway()
    one.call("c1", "14:10:00", "Hello.", "Again.", day=DAY, audio=[(ASKED, PLAYED), (ASKED[640:], PLAYED)])
    one.call("c2", "14:20:00", "Only written.", day=DAY)
    one.seal("15:05:01", day=DAY)
    assert len(deployment.requests(sealed_windows)) == 1
    deployment.materialize(recorded_calls, HOUR.key)
    assert deployment.requests(candidate_mirrors) == []
    candidate = deployment.site.start_candidate(deployment.site.version_set(listener={"version": "2"}), weight=0.5)

    [request] = deployment.requests(candidate_mirrors)
    assert (request.job_name, request.partition_key) == ("mirror_calls", HOUR.key)
    told = deployment.materialize(mirrored_calls, HOUR.key, version_set=candidate.id)
    assert (told["num_turns_compared"], told["num_turns_left_out"]) == (2, 0)
    # Echo's ears hear other words of another version.
    assert told["candidate_word_error_rate"] > 0
    rows = deployment.handoffs.open("mirrored_calls", HOUR.key).table().to_pylist()
    assert [row["reference"] for row in rows] == ["Hello.", "Again."]
    for row in rows:
        assert row["stable_said"] != row["candidate_said"]
        assert row["stable_first_audio_seconds"] > 0
        assert row["candidate_first_audio_seconds"] > 0
    assert deployment.requests(candidate_mirrors) == []

    subject = ServiceSubject.of(deployment.site.service, deployment.objects)
    state = fold(Journal(deployment.objects, SERVICE, SystemClock()).entries())
    assert state is not None
    evidence = subject.evidence([], state, damaged=_never)
    assert {metric: sample.num for metric, sample in evidence.paired.items()} == dict.fromkeys(MARGINS, 2)


def _never(error: Exception) -> None:
    raise error
