"""Handoffs that are not called like their asset: sealed, read, and recorded as an input, under the stated name."""

from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from headrace.handoff.versions import Handoff
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.handoff_lineage import sealed_already
from tests.headrace_dagster.project import SHARDS, Project, failure_of


@dg.asset(key=["tales", "texts"], partitions_def=SHARDS, metadata={"handoff": "texts"})
def texts(context: dg.AssetExecutionContext) -> pa.Table:
    return pa.table({"text": [context.partition_key]})


@dg.asset(key=["tales", "words"], metadata={"handoff": "words", "handoff_partition": "tales"}, code_version="1")
def words(context: dg.AssetExecutionContext, store: StoreResource) -> Any:
    return sealed_already(context, store.handoffs()) or pa.table({"word": ["mill"]})


def test_a_reader_needs_to_know_the_key_alone(project: Project) -> None:
    seen: list[Handoff] = []

    @dg.asset(partitions_def=SHARDS, ins={"texts": dg.AssetIn(["tales", "texts"])})
    def lengths(texts: Handoff) -> pa.Table:
        seen.append(texts)
        return pa.table({"length": [1]})

    sealed = project.make(texts, partition_key="shard-01")
    project.make(lengths, texts, partition_key="shard-01")

    assert sealed.metadata["handoff"] == "texts"
    assert (seen[0].asset, seen[0].partition) == ("texts", "shard-01")
    made_from = project.handoffs.open("lengths", "shard-01").manifest.input_versions
    assert made_from == {"texts[shard-01]": f"v1 {seen[0].content_digest}"}


def test_a_reader_in_another_code_location_states_the_name(project: Project) -> None:
    seen: list[Handoff] = []
    elsewhere = dg.AssetSpec(["tales", "texts"], partitions_def=SHARDS)

    @dg.asset(partitions_def=SHARDS, ins={"texts": dg.AssetIn(["tales", "texts"], metadata={"handoff": "texts"})})
    def lengths(texts: Handoff) -> None:
        seen.append(texts)

    project.make(texts, partition_key="shard-00")
    project.make_all(lengths, elsewhere, partition_key="shard-00")
    assert [one.asset for one in seen] == ["texts"]


def test_each_partition_of_one_run_has_its_own_inputs(project: Project) -> None:
    @dg.asset(
        partitions_def=SHARDS,
        ins={"texts": dg.AssetIn(["tales", "texts"])},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def lengths(texts: dict[str, Handoff]) -> dict[str, pa.Table]:
        return {key: pa.table({"length": [one.num_rows]}) for key, one in texts.items()}

    for shard in SHARDS.get_partition_keys():
        project.make(texts, partition_key=shard)
    project.make_all(lengths, texts, partitions=("shard-00", "shard-01"))
    made_from = project.handoffs.open("lengths", "shard-01").manifest.input_versions
    assert list(made_from) == ["texts[shard-01]"]


def test_what_was_sealed_already_is_found_under_its_name(project: Project) -> None:
    first, again = project.make(words), project.make(words)
    assert (first.metadata["reused"], again.metadata["reused"]) == (False, True)
    assert project.handoffs.versions("words", "tales") == [1]


def test_what_is_missing_is_told_by_the_key_that_has_to_be_materialized(project: Project) -> None:
    @dg.asset(partitions_def=SHARDS, ins={"texts": dg.AssetIn(["tales", "texts"])})
    def lengths(texts: Handoff) -> None: ...

    @dg.asset(ins={"words": dg.AssetIn(["tales", "words"])})
    def letters(words: Handoff) -> None: ...

    assert failure_of(project, lengths, texts, partition_key="shard-00") == (
        "Input texts has no sealed handoff of texts[shard-00]. Materialize tales/texts, partitions shard-00, first."
    )
    assert failure_of(project, letters, words) == (
        "Input words has no sealed handoff of words[tales]. Materialize tales/words first."
    )


@pytest.mark.parametrize("name", ["texts", "other"])
def test_a_handoff_that_the_body_sealed_must_have_the_stated_name(project: Project, name: str) -> None:
    @dg.asset(key=["tales", "own"], metadata={"handoff": "texts", "handoff_partition": "all of it"})
    def own() -> Handoff:
        return project.handoffs.publish(name, "all of it", pa.table({"x": [1]}), code_version="1", run_id="r")

    if name == "texts":
        assert project.make(own).metadata["handoff_partition"] == "all of it"
    else:
        assert failure_of(project, own).startswith("texts[all of it] returned the handoff other[all of it].")
