"""What is made, from what, and in which units of work: the tables of the design, read from the definitions."""

import inspect
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from assets import partitions
from assets.partitions import calls, campaigns, content, corpus_shards, days, image_shards, model_recipes
from headrace.keys import CALL_HOURS
from headrace.placement.demand import GPUS, STAGE
from headrace_dagster.partition_keys import register_keys
from pipelines.definitions import defs
from pipelines.jobs import COLLECTION, JOBS, REGENERATION
from resources.partition_keys import keys_of_files
from resources.settings import settings_from_environment
from tests.training_builders import make_recipe

STAGE_AND_PARTITIONS = {
    "raw_documents": ("data_prep", corpus_shards),
    "quarantine": ("data_prep", corpus_shards),
    "labels": ("data_prep", corpus_shards),
    "clean_documents": ("data_prep", corpus_shards),
    "training_examples": ("data_prep", corpus_shards),
    "image_quarantine": ("images", image_shards),
    "raw_images": ("images", image_shards),
    "image_signatures": ("images", image_shards),
    "image_verdicts": ("images", None),
    "clean_images": ("images", image_shards),
    "picture_examples": ("images", image_shards),
    "base_model": ("training", model_recipes),
    "preference_pairs": ("training", model_recipes),
    "trained_model": ("training", model_recipes),
    "evaluation": ("training", model_recipes),
    "registered_version": ("deployment", model_recipes),
    "rollout": ("deployment", campaigns),
    "prompts": ("generation", content),
    "generated_content": ("generation", content),
    "generated_images": ("generation", content),
    "generated_speech": ("generation", content),
    "mirrored_content": ("generation", content),
    "recorded_calls": ("generation", calls),
    "mirrored_calls": ("generation", calls),
    "rolled_back_rows": ("generation", campaigns),
    "reviewed_content": ("generation", content),
    "clips": ("generation", content),
    "campaign_report": ("generation", days),
}
HOLD_A_GPU = ("generated_content", "generated_images", "generated_speech", "mirrored_content", "mirrored_calls")
# What one partition is made from. Downstream partition → upstream partitions, on the instance below.
RECIPES = [
    "smollm2-135m.define",
    "smollm2-135m.define-hot",
    "twemoji-painter.learn",
    "twemoji-painter.learn-few",
    "twemoji-painter.learn-half",
]
DAY = "2026-11-01"
SHARDS, PICTURES = corpus_shards.get_partition_keys(), image_shards.get_partition_keys()
RECIPE, CAMPAIGN, CONTENT = RECIPES[0], "glossary", f"{DAY}|glossary-00"
HOUR = "voices-h14"
CALLS = f"{DAY}|{HOUR}"
DYNAMIC = keys_of_files(settings_from_environment())
ALL_CONTENT = [f"{day}|{shard}" for day in days.get_partition_keys() for shard in DYNAMIC["campaign_shard"]]
DAYS_CONTENT = [f"{DAY}|{shard}" for shard in DYNAMIC["campaign_shard"]]
PAINTER = {"objective": "flow_matching", "base_model": "encoder"}
EDGES = {
    ("raw_documents", "labels"): (SHARDS[0], [SHARDS[0]]),
    ("raw_documents", "clean_documents"): (SHARDS[0], [SHARDS[0]]),
    ("labels", "clean_documents"): (SHARDS[0], [SHARDS[0]]),
    ("clean_documents", "training_examples"): (SHARDS[0], [SHARDS[0]]),
    ("raw_images", "clean_images"): (SHARDS[0], [SHARDS[0]]),
    ("image_signatures", "clean_images"): (SHARDS[0], [SHARDS[0]]),
    ("clean_images", "picture_examples"): (PICTURES[0], PICTURES),
    ("picture_examples", "trained_model"): (RECIPE, PICTURES),
    ("picture_examples", "evaluation"): (RECIPE, PICTURES),
    ("training_examples", "trained_model"): (RECIPE, SHARDS),
    ("training_examples", "evaluation"): (RECIPE, SHARDS),
    ("reviewed_content", "preference_pairs"): (RECIPE, ALL_CONTENT),
    ("clean_documents", "preference_pairs"): (RECIPE, SHARDS),
    ("base_model", "preference_pairs"): (RECIPE, [RECIPE]),
    ("preference_pairs", "trained_model"): (RECIPE, [RECIPE]),
    ("preference_pairs", "evaluation"): (RECIPE, [RECIPE]),
    ("base_model", "trained_model"): (RECIPE, [RECIPE]),
    ("base_model", "evaluation"): (RECIPE, [RECIPE]),
    ("trained_model", "evaluation"): (RECIPE, [RECIPE]),
    ("base_model", "registered_version"): (RECIPE, [RECIPE]),
    ("trained_model", "registered_version"): (RECIPE, [RECIPE]),
    ("evaluation", "registered_version"): (RECIPE, [RECIPE]),
    ("registered_version", "rollout"): (CAMPAIGN, RECIPES),
    ("prompts", "generated_content"): (CONTENT, [CONTENT]),
    ("prompts", "generated_images"): (CONTENT, [CONTENT]),
    ("prompts", "generated_speech"): (CONTENT, [CONTENT]),
    ("generated_content", "generated_images"): (CONTENT, [CONTENT]),
    ("generated_content", "generated_speech"): (CONTENT, [CONTENT]),
    ("generated_images", "reviewed_content"): (CONTENT, [CONTENT]),
    ("generated_speech", "reviewed_content"): (CONTENT, [CONTENT]),
    ("generated_content", "mirrored_content"): (CONTENT, [CONTENT]),
    ("recorded_calls", "mirrored_calls"): (CALLS, [CALLS]),
    ("generated_content", "reviewed_content"): (CONTENT, [CONTENT]),
    ("generated_content", "campaign_report"): (DAY, DAYS_CONTENT),
    ("generated_content", "clips"): (CONTENT, [CONTENT]),
    ("generated_images", "clips"): (CONTENT, [CONTENT]),
    ("generated_speech", "clips"): (CONTENT, [CONTENT]),
    ("reviewed_content", "campaign_report"): (DAY, DAYS_CONTENT),
}
# One of the two has no partitions: all of the other's are read, or each reads it.
WHOLE_EDGES = {("image_signatures", "image_verdicts"), ("image_verdicts", "clean_images")}


@pytest.fixture(scope="module")
def graph() -> AssetGraph:
    return defs.get_repository_def().asset_graph


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        register_keys(instance, {**DYNAMIC, CALL_HOURS: [HOUR]})
        yield instance


def names(keys: object) -> set[str]:
    assert isinstance(keys, set | frozenset)
    return {key.to_user_string() for key in keys}


def test_the_stages_make_these_assets_and_no_other(graph: AssetGraph) -> None:
    assert names(graph.get_all_asset_keys()) == set(STAGE_AND_PARTITIONS)


@pytest.mark.parametrize("asset", STAGE_AND_PARTITIONS)
def test_an_asset_states_its_stage_its_partitions_and_what_a_partition_holds(graph: AssetGraph, asset: str) -> None:
    node = graph.get(dg.AssetKey(asset))
    stage, partitions = STAGE_AND_PARTITIONS[asset]

    assert node.group_name == stage
    assert node.tags[STAGE] == stage
    assert node.partitions_def == partitions
    assert node.code_version
    # A sentence that reads well in the UI, not a repetition of the name.
    assert node.description
    assert node.description.rstrip().endswith(".")
    assert len(node.description.split()) >= 8


@pytest.mark.parametrize("asset", STAGE_AND_PARTITIONS)
def test_a_step_carries_its_stage_for_whoever_queues_it(asset: str) -> None:
    """Run tags miss what is clicked in the UI; a step's tags are in every execution plan."""
    definition = defs.get_repository_def().assets_defs_by_key[dg.AssetKey(asset)]
    assert definition.op.tags[STAGE] == STAGE_AND_PARTITIONS[asset][0]


def test_training_and_generation_alone_ask_for_gpus() -> None:
    assets = defs.get_repository_def().assets_defs_by_key
    asking = {key.to_user_string() for key, definition in assets.items() if GPUS in definition.op.tags}
    assert asking == {"trained_model", "evaluation", "picture_examples", *HOLD_A_GPU}


def test_the_dependencies_are_these_and_no_other(graph: AssetGraph) -> None:
    """Above all: generated_content does not depend on rollout, or a rollout's tick would ask for all history again."""
    edges = {
        (parent.to_user_string(), child.to_user_string())
        for child in graph.get_all_asset_keys()
        for parent in graph.get(child).parent_keys
    }
    assert edges == set(EDGES) | WHOLE_EDGES


@pytest.mark.parametrize(("parent", "child"), EDGES)
def test_a_partition_is_made_from_these_partitions(
    graph: AssetGraph, instance: dg.DagsterInstance, parent: str, child: str
) -> None:
    partition, expected = EDGES[parent, child]
    downstream, upstream = STAGE_AND_PARTITIONS[child][1], STAGE_AND_PARTITIONS[parent][1]
    assert downstream is not None

    mapped = graph.get_partition_mapping(
        dg.AssetKey(child), dg.AssetKey(parent)
    ).get_upstream_mapped_partitions_result_for_partitions(
        downstream_partitions_subset=downstream.subset_with_partition_keys([partition]),
        downstream_partitions_def=downstream,
        upstream_partitions_def=upstream,
        current_time=datetime.now().astimezone(),
        dynamic_partitions_store=instance,
    )

    assert sorted(mapped.partitions_subset.get_partition_keys()) == sorted(expected)


def test_the_store_is_freed_by_a_job_of_its_own_every_night() -> None:
    """It makes no asset, and finds the store that the assets use."""
    job = defs.resolve_job_def(COLLECTION.name)
    schedule = defs.resolve_schedule_def("nightly_collect_garbage")

    assert not job.asset_layer.executable_asset_keys
    assert {"store"} <= set(job.resource_defs)
    assert schedule.job_name == job.name
    assert COLLECTION.name not in JOBS


def test_every_asset_is_made_by_exactly_one_job(graph: AssetGraph) -> None:
    made = [
        asset
        for job in JOBS.values()
        for asset in names(job.selection.resolve(graph))  # pyright: ignore[reportAttributeAccessIssue]
    ]
    assert sorted(made) == sorted(STAGE_AND_PARTITIONS)


def test_partitions_of_a_rolled_back_set_are_made_again_by_a_job_that_leaves_the_others_alone() -> None:
    job = defs.resolve_job_def(REGENERATION.name)

    assert job.partitions_def == content
    assert job.partitioned_config
    # What the launchpad and a backfill begin with.
    config = job.partitioned_config.get_run_config_for_partition_key(CONTENT)
    assert config["ops"] == {"generated_content": {"config": {"regenerate": "rolled_back"}}}
    assert REGENERATION.name not in JOBS


def test_what_looks_at_every_partition_is_checked_with_the_list_and_not_with_each_partition(graph: AssetGraph) -> None:
    checked = {
        job.name
        for job in [*JOBS.values(), REGENERATION]
        for key in job.selection.resolve_checks(graph)  # pyright: ignore[reportAttributeAccessIssue]
        if key.name == "no_rows_of_rolled_back_sets"
    }
    assert checked == {"list_rolled_back"}


def test_whichever_job_may_seal_texts_examines_them(graph: AssetGraph) -> None:
    examined = {
        name: {key.name for key in JOBS[name].selection.resolve_checks(graph)}  # pyright: ignore[reportAttributeAccessIssue]
        for name in ("generate", "paint", "speak")
    }
    assert examined["generate"] == {"schema", "rows_match_prompts", "row_ids_unique", "one_version_set"}
    assert examined["paint"] == examined["speak"] == examined["generate"]


@pytest.mark.parametrize("asset", ["trained_model", "picture_examples", *HOLD_A_GPU])
def test_what_holds_a_gpu_is_alone_in_its_run(graph: AssetGraph, asset: str) -> None:
    """One run's demand is one number, and no CPU follower keeps a device waiting."""
    (job,) = [
        job
        for job in JOBS.values()
        if asset in names(job.selection.resolve(graph))  # pyright: ignore[reportAttributeAccessIssue]
    ]
    assert names(job.selection.resolve(graph)) == {asset}  # pyright: ignore[reportAttributeAccessIssue]
    assert job.tags
    assert job.tags[STAGE] == STAGE_AND_PARTITIONS[asset][0]


def test_days_end_today() -> None:
    """Tonight's run makes today's partition; a daily partition would otherwise appear a day late."""
    today = datetime.now(tz=ZoneInfo(days.timezone)).strftime("%Y-%m-%d")
    assert days.get_last_partition_key() == today


def test_nothing_asks_for_a_training_or_a_generation_by_itself(graph: AssetGraph) -> None:
    """A late corpus shard re-trains only when told; generation waits for prompts and for the rollout's word."""
    unconditional = {
        key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition is None
    }
    assert {"raw_documents", "base_model", "trained_model", "prompts", "generated_content", "rollout"} <= unconditional


def test_everything_that_is_made_or_checked_is_tried_again_when_a_store_was_away() -> None:
    repository = defs.get_repository_def()
    steps = {node.name: node for node in repository.get_all_jobs() for node in node.all_node_defs}
    without = [step.name for step in steps.values() if isinstance(step, dg.OpDefinition) and step.retry_policy is None]
    assert {"rollout", "read_corpus_shard", "collect_handoffs"} <= steps.keys()
    assert without == []


class Faulty:
    """An argument that is not what anybody expected."""

    def __getattr__(self, name: str) -> Any:
        raise LookupError(f"no {name}")


STEPS = {
    name: definition
    for job in defs.get_repository_def().get_all_jobs()
    for name, definition in ((node.name, node) for node in job.all_node_defs)
    if isinstance(definition, dg.OpDefinition)
}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_fault_in_anything_that_is_made_or_checked_ends_it_at_once(name: str) -> None:
    """Inside `translated_errors` from its first line on: each body touches one of its arguments."""
    computed: Any = STEPS[name].compute_fn
    body = computed.decorated_fn
    arguments = {argument: Faulty() for argument in inspect.signature(body).parameters}
    with pytest.raises(dg.Failure, match=r"^LookupError: no \w+\. No retry") as failure:
        list(body(**arguments))
    assert failure.value.allow_retries is False


@pytest.mark.parametrize(
    ("objective", "faults", "text"),
    [
        ({}, "_corpus_faults", "How many shards the corpus has is not known"),
        (PAINTER, "_image_faults", "How many shards the pictures have is not known"),
    ],
    ids=["texts", "pictures"],
)
@pytest.mark.parametrize("name", ["trained_model", "evaluation"])
def test_what_reads_all_shards_waits_while_nobody_knows_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, name: str, objective: dict[str, Any], faults: str, text: str
) -> None:
    """A broken file leaves one shard here: training on that alone would be green."""
    monkeypatch.setattr(partitions, faults, "File corpus.yaml:1:1 lacks the key 'name'.")
    computed: Any = STEPS[name].compute_fn
    body = computed.decorated_fn
    arguments: dict[str, Any] = {argument: Faulty() for argument in inspect.signature(body).parameters}
    arguments |= {
        "context": SimpleNamespace(partition_key=RECIPE),
        "training": SimpleNamespace(recipe=lambda key: make_recipe(**objective)),
    }
    with pytest.raises(dg.Failure, match=rf"{text}: File corpus\.yaml:1:1"):
        body(**arguments)
