"""New, broken and deleted files of campaigns, recipes and services, as sensors and the nightly schedule meet them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from assets import file_checks
from headrace_dagster.partition_keys import register_keys
from pipelines.definitions import defs
from pipelines.schedules import nightly_campaigns
from pipelines.sensors import (
    candidate_mirrors,
    partition_keys,
)
from resources.settings import CHECKOUT
from tests.pipelines.sensor_site import Deployment, with_mirrors

SERVICE = (CHECKOUT / "resources/services/assistant.yaml").read_text()


def test_services_become_partition_keys_and_a_broken_one_keeps_nobody_else_from_it(
    deployment: Deployment, services: Path
) -> None:
    for name in ("assistant", "glossary"):
        deployment.instance.delete_dynamic_partition("campaign", name)
    (services / "assistant.yaml").write_text(SERVICE)

    assert deployment.new_keys()["campaign"] == ["assistant", "glossary"]

    (services / "broken.yaml").write_text("name: broken\n")
    keys = deployment.new_keys()
    assert keys["campaign"] == ["assistant", "glossary"]
    register_keys(deployment.instance, keys)
    assert (deployment.tick(partition_keys).skip_message or "").startswith(f"Service file {services / 'broken.yaml'}")


def test_a_broken_campaign_keeps_no_other_from_its_night_and_is_a_failed_check(
    deployment: Deployment, services: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_mirrors(deployment.campaign, {"mirror_partitions": 1}, monkeypatch, tmp_path)
    (tmp_path / "campaigns" / "broken.yaml").write_text("name: broken\nnum_shards: two\n")
    deployment.list_prompts()
    deployment.begin()

    assert sorted(deployment.generated()) == deployment.partitions
    said = deployment.tick(candidate_mirrors).skip_message or ""
    assert said.startswith(f"Campaign file {tmp_path / 'campaigns' / 'broken.yaml'} has ")

    tick = deployment.tick(partition_keys)
    checks = {event.check_name: event for event in tick.asset_events if isinstance(event, dg.AssetCheckEvaluation)}
    assert {name for name, event in checks.items() if not event.passed} == {"campaign_files_can_be_read"}
    failed = checks["campaign_files_can_be_read"]
    assert failed.asset_key == dg.AssetKey("prompts")
    assert "broken.yaml:1:1 lacks the key 'prompts'." in str(failed.metadata["file_1"].value)

    again = dg.build_sensor_context(instance=deployment.instance, definitions=defs, cursor=tick.cursor)
    assert partition_keys.evaluate_tick(again).asset_events == [], "only a change is told"


def test_the_checks_of_files_are_of_assets_that_there_are() -> None:
    """The sensor's events name them; Dagster would keep events of checks that nobody defined, and show none."""
    defined = {key for checks in file_checks.file_checks for key in checks.check_keys}
    told = file_checks.file_findings({kind: ["no"] for kind in ("campaign", "corpus", "images", "recipe", "service")})
    assert {dg.AssetCheckKey(event.asset_key, event.check_name) for event in told} == defined
    graph = defs.get_repository_def().asset_graph
    assert defined <= graph.asset_check_keys


def test_a_broken_recipe_keeps_no_campaign_from_its_key(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deployment.instance.delete_dynamic_partition("campaign", "glossary")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "broken.yaml").write_text("model: [")
    monkeypatch.setenv("HEADRACE_RECIPES", str(tmp_path / "recipes"))

    assert deployment.new_keys() == {"campaign": ["glossary"]}


def test_recipe_and_campaign_files_become_partition_keys_once_and_stay_when_the_file_is_gone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deployment.instance.delete_dynamic_partition("campaign", "glossary")
    deployment.instance.delete_dynamic_partition("campaign_shard", "glossary-09")
    keys = deployment.new_keys()
    assert keys == {
        "model_recipe": [
            "smollm2-135m.define",
            "smollm2-135m.define-hot",
            "twemoji-painter.learn",
            "twemoji-painter.learn-few",
            "twemoji-painter.learn-half",
        ],
        "campaign": ["glossary"],
        "campaign_shard": ["glossary-09"],
    }

    register_keys(deployment.instance, keys)
    assert deployment.new_keys() == {}

    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(tmp_path / "none"))
    assert deployment.tick(partition_keys).dynamic_partitions_requests == []
    assert len(deployment.instance.get_dynamic_partitions("campaign_shard")) == 10


def test_a_partition_that_the_instance_does_not_know_yet_does_not_keep_a_tick_from_its_runs(
    deployment: Deployment,
) -> None:
    """A new instance on an old store, before the sensor of the keys has ticked: Dagster refuses a tick as a whole."""
    deployment.begin()
    deployment.list_prompts(*deployment.partitions[:2])
    for shard in deployment.campaign.shard_keys:
        deployment.instance.delete_dynamic_partition("campaign_shard", shard)

    # Sorted: they start in the order of their ranks, which is another one every day.
    assert sorted(deployment.generated()) == deployment.partitions[:2]
    assert sorted(deployment.instance.get_dynamic_partitions("campaign_shard")) == deployment.campaign.shard_keys[:2]


@pytest.fixture
def kept_instance() -> Iterator[dg.DagsterInstance]:
    """One on disk: a schedule opens it by its reference."""
    with dg.instance_for_test() as instance:
        yield instance


def nightly(instance: dg.DagsterInstance) -> list[str | None]:
    night = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
    repository = defs.get_repository_def()
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=night, repository_def=repository)
    return [request.run_key for request in nightly_campaigns.evaluate_tick(context).run_requests or []]


def test_the_nightly_schedule_asks_for_the_new_day_once_however_often_it_ticks(
    kept_instance: dg.DagsterInstance,
) -> None:
    shards = [
        *(f"glossary-{shard:02d}" for shard in range(10)),
        *(f"picture-dictionary-{shard:02d}" for shard in range(5)),
    ]
    wanted = [f"prompts:2026-11-22|{shard}" for shard in shards]
    assert nightly(kept_instance) == nightly(kept_instance) == wanted


def test_the_night_after_a_campaign_file_is_written_lists_its_prompts_and_those_of_no_broken_one(
    kept_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing was loaded again, and no sensor has ticked."""
    (tmp_path / "campaigns").mkdir()
    text = (CHECKOUT / "resources/campaigns/glossary.yaml").read_text().replace("num_shards: 10", "num_shards: 2")
    (tmp_path / "campaigns/fables.yaml").write_text(text.replace("name: glossary", "name: fables"))
    (tmp_path / "campaigns/glossary.yaml").write_text("name: glossary\n")
    monkeypatch.setenv("HEADRACE_CAMPAIGNS", str(tmp_path / "campaigns"))

    assert nightly(kept_instance) == ["prompts:2026-11-22|fables-00", "prompts:2026-11-22|fables-01"]
    assert "fables" in kept_instance.get_dynamic_partitions("campaign")
