"""What the sensors ask for, on a real store and instance: a repeated, late or lost tick starts nothing twice."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from headrace.clock import SystemClock
from headrace.registry.model_versions import to_table
from headrace.rollout.assignment import salted_rank
from headrace.rollout.caps import CapLeases
from headrace.rollout.journal import Journal
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from pipelines.definitions import defs
from pipelines.sensors import (
    ASK_AGAIN_SECONDS,
    after_rollbacks,
    campaign_generation,
    candidate_mirrors,
    rollout_ticks,
)
from resources.settings import CHECKOUT
from tests.pipelines.sensor_site import Deployment, model, set_fields, with_mirrors

SERVICE = (CHECKOUT / "resources/services/assistant.yaml").read_text()


def _first_set(deployment: Deployment) -> str:
    """The set that the campaign starts with: once it is stable, nothing is left to try."""
    return deployment.campaign.version_set({"writer": model(1, "base")}).id


def test_nothing_is_generated_before_a_rollout_names_a_stable_set(deployment: Deployment) -> None:
    deployment.list_prompts()

    assert deployment.generated() == []


def test_every_partition_with_prompts_starts_when_there_is_no_candidate(deployment: Deployment) -> None:
    deployment.begin()
    deployment.list_prompts(*deployment.partitions[:3])

    assert sorted(deployment.generated()) == deployment.partitions[:3]


def ranked_partitions(deployment: Deployment) -> list[str]:
    salt = deployment.campaign.plan.ranking_salt
    return sorted(deployment.partitions, key=lambda key: (salted_rank(salt, key), key))


def test_canaries_and_their_controls_start_first_and_the_rest_waits(deployment: Deployment) -> None:
    deployment.begin(candidate="candidate")
    deployment.list_prompts()

    ranked = ranked_partitions(deployment)
    assert deployment.generated() == [ranked[0], ranked[-1]]


def test_a_repeated_tick_asks_under_the_same_run_keys(deployment: Deployment) -> None:
    deployment.begin()
    deployment.list_prompts()

    first = [request.run_key for request in deployment.requests(campaign_generation)]
    again = [request.run_key for request in deployment.requests(campaign_generation)]

    assert first == again
    assert len(set(first)) == len(deployment.partitions)


def test_prompts_that_changed_ask_for_their_sealed_partition_under_another_key_only_when_told(
    deployment: Deployment,
) -> None:
    """A sealed partition is left alone: its new prompts wait for somebody to materialize it."""
    deployment.begin()
    deployment.list_prompts()
    deployment.seal(deployment.partitions[0], "stable")
    deployment.list_prompts(deployment.partitions[0], text="Define it again.")

    assert deployment.partitions[0] not in deployment.generated()


def test_a_partition_under_way_is_not_asked_for(deployment: Deployment) -> None:
    deployment.begin()
    deployment.list_prompts()
    deployment.run_of("generate", deployment.partitions[4])

    assert deployment.partitions[4] not in deployment.generated()


def test_a_sealed_partition_of_a_set_that_was_rolled_back_is_made_again(deployment: Deployment) -> None:
    deployment.begin(candidate="worse")
    deployment.list_prompts()
    for partition in deployment.partitions:
        deployment.seal(partition, "worse" if partition == deployment.partitions[2] else "stable")
    deployment.abort("worse")

    listing, again = deployment.requests(after_rollbacks)

    assert (listing.job_name, listing.partition_key) == ("list_rolled_back", "glossary")
    assert (again.job_name, again.partition_key) == ("regenerate_rolled_back", deployment.partitions[2])
    assert again.run_config["ops"]["generated_content"]["config"] == {"regenerate": "rolled_back"}
    assert deployment.generated() == []


def test_the_list_and_the_checks_on_all_partitions_are_one_run(deployment: Deployment) -> None:
    deployment.begin(candidate="worse")
    deployment.seal(deployment.partitions[2], "worse")
    deployment.abort("worse")

    job = defs.resolve_job_def("list_rolled_back")
    store = StoreResource(url=str(deployment.objects.directory))
    result = job.execute_in_process(
        partition_key="glossary",
        instance=deployment.instance,
        resources={
            **dict(job.resource_defs),
            "store": store.get_resource_definition(),
            "io_manager": ArrowHandoffIOManager(url=store.url).get_resource_definition(),
        },
    )

    listed = deployment.handoffs.open("rolled_back_rows", "glossary").table()
    assert listed["partition"].to_pylist() == [deployment.partitions[2]]
    findings = {check.asset_key.to_user_string(): check.passed for check in result.get_asset_check_evaluations()}
    assert findings == {"generated_content": False, "reviewed_content": True}


def test_when_everything_is_made_again_the_list_is_asked_for_once_more(deployment: Deployment) -> None:
    deployment.begin(candidate="worse")
    deployment.seal(deployment.partitions[2], "worse")
    deployment.abort("worse")
    before, _ = deployment.requests(after_rollbacks)
    deployment.seal(deployment.partitions[2], "stable")

    (after,) = deployment.requests(after_rollbacks)

    assert after.job_name == "list_rolled_back"
    assert after.run_key != before.run_key


def test_partitions_of_any_day_are_made_again_after_a_rollback(deployment: Deployment) -> None:
    old = (datetime.now(UTC) - timedelta(days=9)).strftime("%Y-%m-%d")
    deployment.begin(candidate="worse")
    deployment.seal(f"{old}|glossary-01", "worse")
    deployment.abort("worse")

    assert f"{old}|glossary-01" in [request.partition_key for request in deployment.requests(after_rollbacks)]


def test_after_a_rollback_that_has_left_nothing_the_partitions_are_not_looked_at_each_time(
    deployment: Deployment,
) -> None:
    deployment.begin(candidate="worse")
    deployment.abort("worse")
    context = dg.build_sensor_context(instance=deployment.instance, definitions=defs)
    with partition_loading_context(dynamic_partitions_store=deployment.instance):
        cursor = after_rollbacks.evaluate_tick(context).cursor
    # Sealed by nobody who follows the rules; seen only by a look at the partitions.
    deployment.seal(deployment.partitions[2], "worse")

    assert deployment.requests(after_rollbacks, cursor) == []
    assert len(deployment.requests(after_rollbacks)) == 2


def test_without_a_rollback_nothing_is_listed(deployment: Deployment) -> None:
    deployment.begin(candidate="good")
    deployment.seal(deployment.partitions[2], "good")

    assert deployment.requests(after_rollbacks) == []


def test_canaries_beyond_the_candidates_cap_wait_like_the_others(deployment: Deployment) -> None:
    deployment.begin(candidate="candidate", weight=0.5, cap=2)
    deployment.list_prompts()

    first = deployment.generated()

    ranked = ranked_partitions(deployment)
    assert first == [*ranked[:2], *ranked[-2:]]
    assert deployment.generated() == first


def test_a_partition_that_has_its_place_keeps_it_when_the_cap_is_reached(deployment: Deployment) -> None:
    deployment.begin(candidate="candidate", weight=0.5, cap=2)
    deployment.list_prompts()
    ranked = ranked_partitions(deployment)
    leases = CapLeases(deployment.objects, "glossary", SystemClock())
    assert all(leases.take_for(2, 2, key) for key in (ranked[1], ranked[4]))

    assert deployment.generated() == [ranked[1], ranked[4], *ranked[-2:]]


def test_as_many_partitions_are_mirrored_as_the_plan_says_newest_first(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_mirrors(deployment.campaign, {"mirror_partitions": 2}, monkeypatch, tmp_path)
    deployment.begin(candidate="candidate")
    deployment.list_prompts()
    for partition in deployment.partitions[3:7]:
        deployment.seal(partition, "stable")
    deployment.seal(deployment.partitions[0], "another")

    requests = deployment.requests(candidate_mirrors)

    assert [request.partition_key for request in requests] == deployment.partitions[3:5]
    assert requests[0].run_config["ops"]["mirrored_content"]["config"] == {"version_set": "candidate"}
    assert [one.run_key for one in deployment.requests(candidate_mirrors)] == [one.run_key for one in requests]


def test_nothing_is_mirrored_where_the_plan_does_not_say_so_or_nobody_is_on_trial(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deployment.begin(candidate="candidate")
    deployment.seal(deployment.partitions[0], "stable")

    assert deployment.requests(candidate_mirrors) == []

    with_mirrors(deployment.campaign, {"mirror_partitions": 2}, monkeypatch, tmp_path)
    deployment.abort("candidate")
    assert deployment.requests(candidate_mirrors) == []


def test_older_days_are_made_only_when_told(deployment: Deployment) -> None:
    old = (datetime.now(UTC) - timedelta(days=9)).strftime("%Y-%m-%d")
    deployment.begin()
    deployment.list_prompts(*deployment.campaign.partition_keys(old))

    assert deployment.generated() == []


def test_a_registered_base_and_a_trained_model_ask_for_one_rollout_run(deployment: Deployment) -> None:
    deployment.register(model(1, "base"), model(2))

    requests = deployment.requests(rollout_ticks)

    assert [request.partition_key for request in requests] == ["glossary"]
    assert requests[0].run_key == deployment.requests(rollout_ticks)[0].run_key


def test_a_rollout_run_under_way_is_not_asked_for_again(deployment: Deployment) -> None:
    deployment.register(model(1, "base"))
    deployment.run_of("roll_out", "glossary")

    assert deployment.requests(rollout_ticks) == []


def test_a_rollout_without_models_asks_for_nothing(deployment: Deployment) -> None:
    assert deployment.requests(rollout_ticks) == []


def test_a_rollout_run_that_wrote_nothing_is_asked_for_again_some_time_later(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback too: its run may find the store away, and no later tick has another decision to ask for."""
    at_noon = time.time() // ASK_AGAIN_SECONDS * ASK_AGAIN_SECONDS
    deployment.register(model(1, "base"), model(2))
    first, soon, later = [], [], []
    for keys, seconds in ((first, 0), (soon, ASK_AGAIN_SECONDS - 1), (later, ASK_AGAIN_SECONDS)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: at_noon + seconds)
        keys += [request.run_key for request in deployment.requests(rollout_ticks)]

    assert len(first) == 1
    assert first == soon != later


def test_campaigns_and_services_ask_for_rollout_runs_under_their_names(deployment: Deployment, services: Path) -> None:
    (services / "assistant.yaml").write_text(SERVICE)
    deployment.register(model(1, "base"), model(2))

    requests = deployment.requests(rollout_ticks)

    assert [request.partition_key for request in requests] == ["glossary", "assistant"]
    assert [(request.run_key or "").split(":")[:3] for request in requests] == [
        ["glossary", "0", "initialize"],
        ["assistant", "0", "initialize"],
    ]


def test_a_damaged_registration_keeps_no_rollout_from_its_run_and_is_said(deployment: Deployment) -> None:
    deployment.register(model(1, "base"), model(2))
    deployment.handoffs.publish("registered_version", "m.torn", to_table([model(3)]), code_version="1", run_id="r")
    store = deployment.handoffs.objects
    (key,) = (key for key in store.list("handoff") if "m.torn" in key and key.endswith("manifest.json"))
    store.local_path(key).chmod(0o600)
    store.local_path(key).write_bytes(b"{")

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["glossary"]
    deployment.run_of("roll_out", "glossary")
    assert "m.torn" in (deployment.tick(rollout_ticks).skip_message or "")


def test_a_file_that_is_newer_than_its_partition_key_gets_its_run_and_keeps_nobody_else_from_one(
    deployment: Deployment, services: Path
) -> None:
    """Dagster refuses a tick as a whole, for one key that it does not know."""
    (services / "assistant.yaml").write_text(SERVICE)
    deployment.instance.delete_dynamic_partition("campaign", "assistant")
    deployment.register(model(1, "base"))

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["glossary", "assistant"]
    assert "assistant" in deployment.instance.get_dynamic_partitions("campaign")


def test_a_service_whose_model_is_not_registered_asks_for_nothing_and_says_so(
    deployment: Deployment, services: Path
) -> None:
    (services / "assistant.yaml").write_text(SERVICE.replace("smollm2-135m", "another"))
    deployment.register(model(1, "base"))

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["glossary"]

    deployment.begin(stable=_first_set(deployment))
    tick = deployment.tick(rollout_ticks)
    assert tick.run_requests == []
    assert "; assistant: Service 'assistant': role 'writer' wants version newest of another; registered: none." in (
        tick.skip_message or ""
    )


def test_a_broken_service_file_stops_no_campaign_and_is_named(deployment: Deployment, services: Path) -> None:
    (services / "assistant.yaml").write_text("name: assistant\nchain: [nobody]\n")
    deployment.register(model(1, "base"))

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["glossary"]

    deployment.run_of("roll_out", "glossary")
    reason = deployment.tick(rollout_ticks).skip_message or ""
    assert reason.startswith(f"Service file {services / 'assistant.yaml'}")
    assert reason.endswith("; glossary: a rollout run is under way.")


def test_a_broken_campaign_file_stops_no_service_and_is_named(
    deployment: Deployment, services: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (services / "assistant.yaml").write_text(SERVICE)
    with_mirrors(deployment.campaign, {"steps": "many"}, monkeypatch, tmp_path)
    deployment.register(model(1, "base"))

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["assistant"]

    deployment.run_of("roll_out", "assistant")
    reason = deployment.tick(rollout_ticks).skip_message or ""
    assert reason.startswith(f"Campaign file {tmp_path / 'campaigns'}")
    assert reason.endswith("; assistant: a rollout run is under way.")


def test_a_campaign_and_a_service_of_one_name_are_both_left_alone(deployment: Deployment, services: Path) -> None:
    """They would share a journal."""
    (services / "assistant.yaml").write_text(SERVICE)
    (services / "glossary.yaml").write_text(SERVICE.replace("name: assistant", "name: glossary"))
    deployment.register(model(1, "base"))

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["assistant"]

    deployment.run_of("roll_out", "assistant")
    assert deployment.tick(rollout_ticks).skip_message == (
        "A campaign and a service are both named 'glossary': rename one of them.; "
        "assistant: a rollout run is under way."
    )


def test_a_damaged_journal_stops_its_own_rollout_and_no_other(deployment: Deployment, services: Path) -> None:
    (services / "assistant.yaml").write_text(SERVICE)
    deployment.register(model(1, "base"))
    # An abort of nothing: no state follows from it.
    Journal(deployment.objects, "assistant", SystemClock()).append("aborted", set_fields("worse"), expected=0)

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["glossary"]

    deployment.run_of("roll_out", "glossary")
    assert (deployment.tick(rollout_ticks).skip_message or "").startswith("assistant: ")


def test_a_journal_entry_of_another_shape_stops_its_own_rollout_and_no_other(
    deployment: Deployment, services: Path
) -> None:
    (services / "assistant.yaml").write_text(SERVICE)
    deployment.register(model(1, "base"))
    fields = {"version_set": None, "weights_digest": ["none"], "reason": "a list where a text belongs"}
    Journal(deployment.objects, "assistant", SystemClock()).append("initialized", fields, expected=0)

    assert [request.partition_key for request in deployment.requests(rollout_ticks)] == ["glossary"]

    deployment.run_of("roll_out", "glossary")
    assert "assistant: TypeError: unhashable type" in (deployment.tick(rollout_ticks).skip_message or "")


def test_a_tick_with_nothing_to_start_opens_no_instance(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.begin()
    for sensor in (rollout_ticks, campaign_generation):
        context = dg.build_sensor_context(instance=deployment.instance, definitions=defs)
        opened: list[object] = []
        with monkeypatch.context() as patched:
            patched.setattr(type(context), "instance", property(opened.append))
            assert sensor.evaluate_tick(context).run_requests == []
        assert opened == []
