"""The assets of bulk generation on a real store and instance, with the echo engine and the demo's campaign file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.generation import campaign_report, generated_content, prompts, reviewed_content, rolled_back_rows
from assets.generation_checks import (
    content_rows_checks,
    rolled_back_checks,
    schema_checks,
    shards_are_of_one_list,
)
from assets.mirroring import mirrored_content
from assets.partitions import content, days
from headrace.clock import SystemClock
from headrace.generation.campaign import Campaign
from headrace.generation.day_status import NUM_KEPT
from headrace.generation.prompt_places import place_of
from headrace.handoff.versions import HandoffStore
from headrace.rollout.journal import Journal
from headrace.rollout.states import ABORTED, INITIALIZED, STARTED
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSets
from headrace_dagster.assets.generation import GenerationConfig
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from headrace_dagster.partition_keys import register_keys
from headrace_dagster.resources.campaigns import CampaignsResource
from headrace_dagster.resources.engines import EnginesResource
from headrace_dagster.run_failures import failure_of
from resources.settings import CHECKOUT
from simulation.models import model_of

# The first day that the partitions know, whatever today is.
DAY = "2026-11-01"
PARTITION = f"{DAY}|glossary-03"


_ASSETS = [prompts, generated_content, reviewed_content, campaign_report, mirrored_content, rolled_back_rows]


@dataclass
class Project:
    """One store and instance, and the resources that the assets ask for."""

    directory: Path
    instance: dg.DagsterInstance

    def __post_init__(self) -> None:
        self.store = LocalStore(self.directory / "store")
        self.handoffs = HandoffStore(self.store)
        self.campaigns = CampaignsResource(
            directory=str(CHECKOUT / "resources/campaigns"),
            home=str(self.directory),
            reports=str(self.directory / "reports"),
            engine="echo",
            ui_url="http://127.0.0.1:3000",
        )

    @property
    def campaign(self) -> Campaign:
        return self.campaigns.campaign("glossary")

    def materialize(self, *assets: Any, partition: str = PARTITION, **config: Any) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [*_ASSETS, *schema_checks, shards_are_of_one_list, content_rows_checks, *rolled_back_checks],
            selection=dg.AssetSelection.assets(*assets),
            partition_key=partition,
            instance=self.instance,
            resources=self.resources(),
            run_config={"ops": {assets[0].key.to_user_string(): {"config": config}}} if config else None,
            raise_on_error=False,
        )

    def resources(self) -> dict[str, Any]:
        return {
            "io_manager": ArrowHandoffIOManager(url=str(self.store.directory)),
            "store": StoreResource(url=str(self.store.directory)),
            "campaigns": self.campaigns,
            "engines": EnginesResource(),
        }

    def edit_campaign(self, stands: str, instead: str) -> None:
        directory = self.directory / "campaigns"
        directory.mkdir(exist_ok=True)
        campaign = (CHECKOUT / "resources/campaigns/glossary.yaml").read_text()
        assert stands in campaign
        (directory / "glossary.yaml").write_text(campaign.replace(stands, instead))
        self.campaigns = CampaignsResource(
            directory=str(directory), home=self.campaigns.home, reports=self.campaigns.reports, engine="echo"
        )

    def try_candidate(self) -> str:
        """Start a candidate that gets every partition; returns its set's id."""
        model = model_of(self.campaign.model, 2, weights_digest="other weights")
        version_set = self.campaign.version_set({"writer": model})
        VersionSets(self.store).put(version_set)
        self.roll_out(STARTED, version_set.id, step=0, weight=1.0)
        return version_set.id

    def roll_out(self, event: str, version_set: str, **fields: Any) -> None:
        journal = Journal(self.store, "glossary", SystemClock())
        body = {"version_set": version_set, "weights_digest": "other weights", "num_rows": 0, "reason": "a test"}
        journal.append(event, body | fields, expected=journal.head())


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A prompt pool of 300 terms, and a rollout whose stable set needs no weights."""
    pool = tmp_path / "corpus/wordnet/prompts.jsonl"
    pool.parent.mkdir(parents=True)
    pool.write_text("".join(json.dumps({"term": f"word {n}", "category": "noun"}) + "\n" for n in range(300)))
    with dg.DagsterInstance.ephemeral() as instance:
        project = Project(tmp_path, instance)
        register_keys(instance, project.campaign.dynamic_keys)
        version_set = project.campaign.version_set({"writer": model_of(project.campaign.model, 1)})
        VersionSets(project.store).put(version_set)
        Journal(project.store, "glossary", SystemClock()).append(
            INITIALIZED,
            {"version_set": version_set.id, "weights_digest": "weights", "reason": "first"},
            expected=0,
        )
        yield project


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def data_version_of(result: dg.ExecuteInProcessResult, asset: str) -> str:
    (event,) = result.asset_materializations_for_node(asset)
    assert event.tags
    return event.tags["dagster/data_version"]


def test_a_shard_goes_from_prompts_to_reviewed_rows_and_every_check_passes(project: Project) -> None:
    for asset in (prompts, generated_content, reviewed_content):
        result = project.materialize(asset)
        assert result.success
        checks = result.get_asset_check_evaluations()
        assert checks
        assert all(check.passed for check in checks), checks
    sealed = project.handoffs.open("prompts", PARTITION)
    place = place_of(project.handoffs, sealed, 0, project.directory)
    assert place is not None
    assert (place.file, place.unit, place.now) == ("corpus/wordnet/prompts.jsonl", "line", "unchanged")
    assert f'"word {place.number - 1}"' in sealed.table(["text"])["text"][0].as_py()
    figures = metadata_of(result, "reviewed_content")
    assert next(iter(figures)) == "summary", "Dagster's UI shows entries in their order"
    assert figures["num_rows"] == figures["num_kept"] + figures["num_rejected"] == 14
    [key] = project.handoffs.partitions("reviewed_content")
    kept = project.handoffs.open("reviewed_content", key).attributes[NUM_KEPT]
    assert kept == str(figures["num_kept"]), "headrace status counts by it, without reading rows"
    assert {name for name in figures if name.startswith("num_rejected_by_")} >= {"num_rejected_by_repetition"}


def test_a_campaign_that_carries_and_varies_passes_every_check_in_every_stage(project: Project) -> None:
    project.edit_campaign("  per_shard: 14\n", "  per_shard: 3\n  variations: 2\n  carry: [level]\n")
    lines = [{"term": f"word {n}", "category": "noun", "level": n} for n in range(40)]
    pool = project.directory / "corpus/wordnet/prompts.jsonl"
    pool.write_text("".join(json.dumps(line) + "\n" for line in lines))
    project.instance.add_dynamic_partitions("campaign", ["glossary"])
    for asset in (prompts, generated_content, reviewed_content):
        result = project.materialize(asset)
        checks = result.get_asset_check_evaluations()
        assert checks
        assert all(check.passed for check in checks), checks
    project.try_candidate()
    assert metadata_of(project.materialize(mirrored_content), "mirrored_content")["num_rows_compared"] == 6
    assert metadata_of(project.materialize(campaign_report, partition=DAY), "campaign_report")["num_rows"] == 6
    for asset in ("generated_content", "reviewed_content", "mirrored_content"):
        rows = project.handoffs.open(asset, PARTITION).table()
        assert rows.column_names[-2:] == ["variation", "level"]
        assert [f"word {row['level']}" in row["prompt"] for row in rows.to_pylist()] == [True] * 6


def test_a_prompt_file_that_changes_between_two_shards_is_found(project: Project) -> None:
    pool = project.directory / "corpus/wordnet/prompts.jsonl"
    first = project.materialize(prompts)
    pool.write_text(json.dumps({"term": "a new word", "category": "noun"}) + "\n" + pool.read_text())
    second = project.materialize(prompts, partition=f"{DAY}|glossary-04")
    again = project.materialize(prompts)

    def found(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
        [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == "shards_are_of_one_list"]
        return check

    assert (found(first).passed, found(second).passed, found(again).passed) == (True, False, True)
    said = str(found(second).description).replace("\\", "")
    assert said.startswith(f"glossary-03 of {DAY} were cut from another list than the prompt files hold now")


def test_a_sealed_partition_is_reused_and_its_data_version_stays(project: Project) -> None:
    project.materialize(prompts)
    first = project.materialize(generated_content)
    again = project.materialize(generated_content)
    assert metadata_of(first, "generated_content")["reused"] is False
    assert metadata_of(again, "generated_content")["reused"] is True
    assert data_version_of(first, "generated_content") == data_version_of(again, "generated_content")
    assert project.handoffs.versions("generated_content", PARTITION) == [1]


def test_regenerate_makes_the_rows_again(project: Project) -> None:
    project.materialize(prompts)
    project.materialize(generated_content)
    result = project.materialize(generated_content, regenerate="keep_set")
    figures = metadata_of(result, "generated_content")
    assert (figures["attempt"], figures["num_rows_generated_now"]) == (2, 14)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"regenerate": "please"}, "regenerate must be keep_set, current_set or rolled_back"),
        ({}, r"Input prompts has no sealed handoff of prompts\[2026-11-01\|glossary-03\]"),
    ],
    ids=["an unknown word", "no prompts"],
)
def test_a_wrong_run_fails_without_a_retry(project: Project, config: dict[str, str], message: str) -> None:
    if config:
        project.materialize(prompts)
    result = project.materialize(generated_content, **config)
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert failure.step_failure_data.user_failure_data is not None
    assert message.split("\\")[0] in str(failure.step_failure_data.user_failure_data.description)
    assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]


def test_a_spent_budget_fails_its_run_without_a_retry_and_a_larger_one_goes_on(project: Project) -> None:
    project.materialize(prompts)
    project.edit_campaign("micro_batch_rows: 14", "budget: {tokens: 1}\nmicro_batch_rows: 7")
    stopped = project.materialize(generated_content)
    assert not stopped.success
    assert not [event for event in stopped.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    # What `headrace status` and `headrace run` tell.
    reason = failure_of(project.instance, stopped.run_id)
    assert reason.startswith(f"Campaign 'glossary' has spent its budget of tokens for {DAY}, ")
    assert f"and 7 of 14 rows of {PARTITION} are made." in reason
    assert project.handoffs.newest("generated_content", PARTITION) is None
    project.edit_campaign("micro_batch_rows: 14", "budget: {tokens: 1000000}\nmicro_batch_rows: 7")
    figures = metadata_of(project.materialize(generated_content), "generated_content")
    assert (figures["num_rows"], figures["num_rows_generated_now"]) == (14, 7)


def test_content_before_any_rollout_says_what_to_launch(project: Project) -> None:
    project.materialize(prompts)
    project.store.delete_prefix("rollout")
    result = project.materialize(generated_content)
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "Call this first: dg launch --assets rollout --partition glossary" in str(failure.step_failure_data)
    assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]


def test_a_mirror_of_the_candidate_is_compared_and_published_nowhere(project: Project) -> None:
    project.materialize(prompts)
    project.materialize(generated_content)
    candidate = project.try_candidate()
    result = project.materialize(mirrored_content)
    assert result.success
    figures = metadata_of(result, "mirrored_content")
    assert (figures["num_rows"], figures["num_rows_compared"], figures["version_set"]) == (14, 14, candidate[:12])
    assert figures["kept_difference_low"] <= figures["kept_difference"] <= figures["kept_difference_high"]
    assert figures["num_same_output"] < 14
    again = project.materialize(mirrored_content, version_set=candidate[:8])
    assert metadata_of(again, "mirrored_content")["reused"] is True
    assert project.handoffs.versions("generated_content", PARTITION) == [1]


def test_a_mirror_on_the_set_that_made_the_content_finds_nothing_else(project: Project) -> None:
    project.materialize(prompts)
    project.materialize(generated_content)
    figures = metadata_of(project.materialize(mirrored_content, version_set="stable"), "mirrored_content")
    assert figures["num_same_output"] == figures["num_rows"] == 14


def test_a_mirror_that_cannot_be_made_fails_without_a_retry(project: Project) -> None:
    project.materialize(prompts)
    project.materialize(generated_content)
    candidate = project.try_candidate()
    project.roll_out(ABORTED, candidate)
    for config, message in (({}, "There is no candidate set now"), ({"version_set": candidate}, "was rolled back")):
        result = project.materialize(mirrored_content, **config)
        (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
        assert message in str(failure.step_failure_data.user_failure_data)
        assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]


def test_after_a_rollback_the_rows_are_named_and_just_their_partition_is_made_again(project: Project) -> None:
    """A partition on the stable set, one on the candidate; the checks fail until the second one was made again."""
    other = f"{DAY}|glossary-05"
    project.materialize(prompts)
    project.materialize(generated_content)
    candidate = project.try_candidate()
    for asset in (prompts, generated_content, reviewed_content):
        project.materialize(asset, partition=other)
    project.roll_out(ABORTED, candidate)

    listed = project.materialize(rolled_back_rows, partition="glossary")

    figures = metadata_of(listed, "rolled_back_rows")
    assert (figures["num_rows"], figures["num_rows_still_published"]) == (14, 14)
    assert figures["partitions_to_regenerate"] == other
    made = project.handoffs.open("generated_content", other, 1).table()["row_id"].to_pylist()
    assert project.handoffs.open("rolled_back_rows", "glossary").table()["row_id"].to_pylist() == made
    assert rolled_back_findings(project) == {
        "generated_content": (False, 14, other),
        "reviewed_content": (False, 14, other),
    }

    for partition in (PARTITION, other):
        assert project.materialize(generated_content, partition=partition, regenerate="rolled_back").success
    assert project.handoffs.versions("generated_content", PARTITION) == [1]
    assert project.handoffs.versions("generated_content", other) == [1, 2]
    assert rolled_back_findings(project)["reviewed_content"] == (False, 14, other)
    project.materialize(reviewed_content, partition=other)
    assert rolled_back_findings(project) == {"generated_content": (True, 0, ""), "reviewed_content": (True, 0, "")}
    figures = metadata_of(project.materialize(rolled_back_rows, partition="glossary"), "rolled_back_rows")
    assert (figures["num_rows"], figures["num_rows_still_published"]) == (14, 0)


def rolled_back_findings(project: Project) -> dict[str, tuple[bool, int, str]]:
    """Asset → whether its check passes, the rows and the partitions that it names."""
    result = dg.materialize(
        [*_ASSETS, *rolled_back_checks],
        selection=dg.AssetSelection.checks(*rolled_back_checks),
        instance=project.instance,
        resources=project.resources(),
    )
    return {
        check.asset_key.to_user_string(): (
            check.passed,
            int(check.metadata["num_rows"].value),  # pyright: ignore[reportArgumentType]
            str(check.metadata["partitions"].value),
        )
        for check in result.get_asset_check_evaluations()
    }


def test_a_report_of_a_day_under_way_shows_what_is_sealed(project: Project) -> None:
    for shard in ("glossary-03", "glossary-05"):
        for asset in (prompts, generated_content, reviewed_content):
            assert project.materialize(asset, partition=f"{DAY}|{shard}").success
    result = project.materialize(campaign_report, partition=DAY)
    assert result.success
    figures = metadata_of(result, "campaign_report")
    assert (figures["num_rows"], figures["num_partitions"]) == (28, 2)
    page = Path(figures["path"]).read_text()
    assert "2 of 10 partitions are sealed" in page
    assert "<svg" in page
    assert "default-src 'none'" in page
    assert "src=" not in page
    run_id = project.handoffs.open("generated_content", f"{DAY}|glossary-05").manifest.run_id
    assert f'<a href="http://127.0.0.1:3000/runs/{run_id}"' in page
    assert len(figures["summary"]) < 1000
    again = project.materialize(campaign_report, partition=DAY)
    assert data_version_of(again, "campaign_report") == data_version_of(result, "campaign_report")


def test_a_report_of_a_day_without_content_is_a_page_too(project: Project) -> None:
    result = project.materialize(campaign_report, partition=DAY)
    assert result.success
    assert metadata_of(result, "campaign_report")["num_rows"] == 0


def test_a_report_is_over_all_shards_of_its_day_and_of_no_other(project: Project) -> None:
    mapping = campaign_report.get_partition_mapping(dg.AssetKey("generated_content"))
    assert mapping is not None
    upstream = mapping.get_upstream_mapped_partitions_result_for_partitions(
        days.subset_with_partition_keys([DAY]), days, content, dynamic_partitions_store=project.instance
    )
    keys = upstream.partitions_subset.get_partition_keys()
    assert sorted(str(key) for key in keys) == [f"{DAY}|glossary-{shard:02d}" for shard in range(10)]


def test_generation_follows_its_prompts_and_not_the_rollout() -> None:
    assert generated_content.asset_deps[dg.AssetKey("generated_content")] == {dg.AssetKey("prompts")}
    assert mirrored_content.asset_deps[dg.AssetKey("mirrored_content")] == {dg.AssetKey("generated_content")}


def test_only_generation_asks_for_a_gpu() -> None:
    tags = {definition.key.to_user_string(): definition.op.tags for definition in (prompts, generated_content)}
    assert "headrace/gpus" not in tags["prompts"]
    assert tags["generated_content"]["headrace/gpus"] == "1"
    assert GenerationConfig.model_fields["regenerate"].description
