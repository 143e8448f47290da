"""Reviewed rows become a recipe's pairs in a Dagster run, from weights that another recipe trained."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.partitions import model_recipes
from assets.preference import preference_pairs
from assets.preference_checks import nothing_held_out_trains, pairs_fit, rows_are_as_told
from assets.training import base_model
from headrace.prep.split import is_heldout
from headrace.store.sealed_directory import seal_directory
from headrace.training.tables import base_model_table
from headrace_dagster.handoff_io import ArrowHandoffIOManager, StoreResource
from resources.corpus_resource import CorpusResource
from resources.training import TrainingResource
from tests.pair_builders import ReviewedSite, answers_of

KEY = "tiny.prefer"
RECIPE: dict[str, Any] = {
    "model": "tiny",
    "name": "prefer",
    "steps": 2,
    "batch": 2,
    "learning_rate": 1e-4,
    "base_recipe": "tiny.define",
    "objective": "preference",
    "preference": {"rows": {"campaigns": ["glossary"], "heldout_share": 0.3}},
}
CORPUS = {"name": "glosses", "files": ["x.jsonl"], "example": "plain", "heldout_share": 0.02}
WORDS = [f"word{number}" for number in range(12)]


class Project:
    def __init__(self, home: Path, model: Path, instance: dg.DagsterInstance) -> None:
        self.home, self.instance = home, instance
        self.site = ReviewedSite(home / "store")
        self.handoffs = self.site.handoffs
        (home / "recipes").mkdir()
        (home / "corpus.yaml").write_text(yaml.safe_dump(CORPUS))
        self.write_recipe(RECIPE)
        self.weights = seal_directory(self.handoffs.objects, model)
        instance.add_dynamic_partitions("model_recipe", [KEY])

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        (self.home / "recipes" / "prefer.yaml").write_text(json.dumps(recipe))

    def train_the_writer(self) -> None:
        self.handoffs.publish(
            "trained_model", "tiny.define", base_model_table(self.weights), code_version="1", run_id="run"
        )

    def run(self) -> dg.ExecuteInProcessResult:
        store = str(self.home / "store")
        content = dg.AssetSpec("reviewed_content", partitions_def=dg.StaticPartitionsDefinition(["d"]))
        documents = dg.AssetSpec("clean_documents", partitions_def=dg.StaticPartitionsDefinition(["shard-00"]))
        return dg.materialize(
            [base_model, preference_pairs, content, documents, pairs_fit, rows_are_as_told, nothing_held_out_trains],
            partition_key=KEY,
            instance=self.instance,
            raise_on_error=False,
            resources={
                "io_manager": ArrowHandoffIOManager(url=store),
                "store": StoreResource(url=store),
                "training": TrainingResource(recipes_directory=str(self.home / "recipes"), base_model="none"),
                "corpus": CorpusResource(
                    corpus_file=str(self.home / "corpus.yaml"), home=str(self.home), base_model="none"
                ),
            },
        )


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Iterator[Project]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Project(tmp_path, tiny_model, instance)


def failure_of(result: dg.ExecuteInProcessResult, step: str) -> str:
    assert not result.success
    [failed] = [event for event in result.filter_events(lambda one: one.is_step_failure) if event.step_key == step]
    return str(failed.step_failure_data.error)


def test_reviewed_rows_become_pairs_that_name_both_rows_and_every_check_passes(project: Project) -> None:
    project.train_the_writer()
    for shard, word in enumerate(WORDS):
        project.site.put(answers_of(f"Define {word}.", [f"a {word}"], [f"{word}!"], term=word), shard=shard)
    project.site.put_documents([(WORDS[0], "a gloss")])

    result = project.run()

    assert result.success
    assert [one.check_name for one in result.get_asset_check_evaluations() if not one.passed] == []
    assert len(result.get_asset_check_evaluations()) == 3
    sealed = project.handoffs.open("preference_pairs", KEY)
    # A question is held out with its term, and with its own text.
    held_out = {word for word in WORDS if any(is_heldout(one, 0.3) for one in (word, f"Define {word}."))} | {WORDS[0]}
    rows = sealed.table().to_pylist()
    assert {row["term"]: row["split"] for row in rows} == {
        word: "heldout" if word in held_out else "train" for word in WORDS
    }
    made_of = sealed.manifest.input_versions
    for row in rows:
        reviewed = project.handoffs.open("reviewed_content", row["chosen_partition"])
        assert made_of[f"reviewed_content[{reviewed.partition}]"] == f"v{reviewed.version} {reviewed.content_digest}"
        ids = reviewed.table(["row_id"]).column("row_id").to_pylist()
        assert [row["chosen_row_id"], row["rejected_row_id"]] == ids
    assert f"base_model[{KEY}]" in made_of
    assert "clean_documents[shard-00]" in made_of
    (event,) = result.asset_materializations_for_node("preference_pairs")
    assert event.metadata["num_pairs_train"].value == len(WORDS) - len(held_out)
    (base,) = result.asset_materializations_for_node("base_model")
    assert base.metadata["source"].value == "trained_model[tiny.define] v1"


def test_the_same_rows_are_paired_once_and_a_new_row_pairs_them_again(project: Project) -> None:
    project.train_the_writer()
    for shard, word in enumerate(WORDS):
        project.site.put(answers_of(f"Define {word}.", [f"a {word}"], [f"{word}!"], term=word), shard=shard)
    assert project.run().success
    assert project.run().success
    assert project.handoffs.versions("preference_pairs", KEY) == [1]
    project.site.put(answers_of("Define more.", ["more"], ["more?"], term="more"), day="2026-11-23")
    assert project.run().success
    assert project.handoffs.versions("preference_pairs", KEY) == [1, 2]


def test_what_a_retry_cannot_repair_is_said(project: Project) -> None:
    assert "starts from what tiny.define trained, and the store has no weights of it" in failure_of(
        project.run(), "base_model"
    )
    project.train_the_writer()
    assert "No reviewed row of campaign glossary is in the store" in failure_of(project.run(), "preference_pairs")
    project.write_recipe(RECIPE | {"objective": "sft", "preference": None})
    assert "reads training_examples, and no pairs of reviewed rows" in failure_of(project.run(), "preference_pairs")


def test_recipes_are_the_partitions_of_pairs() -> None:
    assert preference_pairs.partitions_def == model_recipes
